"""Sprites for the training pictures: icons out of pinned npm packages, rendered once, cropped and centred."""

import configparser
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from unguide.unguide_ops.files.atomic import write_whole

from dev.console import DevError

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".dev" / "recipe"
SIZE = 96  # pixels a side of a sprite; its content touches a margin of one pixel
RENDERED = 288
NAMESPACES = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
VISIBLE = 16  # alpha from which a pixel counts as content: soft shadows do not move the centre
Pin = configparser.SectionProxy


def icon_sets() -> dict[str, Pin]:
    """The pinned icon sets, style -> `package`, `version`, `sha256`, `licence`, `use` (train, judge or held out)."""
    sets = configparser.ConfigParser(interpolation=None)
    sets.read(HERE / "icon_sets.ini", encoding="utf-8")
    return {style: sets[style] for style in sets.sections()}


def styles(use: str) -> list[str]:
    """The styles that serve `use`: "train", "judge" or "held out"."""
    return [style for style, pin in icon_sets().items() if pin["use"] == use]


def load_things() -> dict[str, dict]:
    """things.json: `colours` (name -> RGB) and `things` (concept -> `words`, `sprites`, ...), CIFAR-10's classes first.

    `sprites` are icon names that most styles share; a key named after a style replaces them for that style.
    `colourable` things look natural in any colour; a `scene` is composed of many of its sprites.
    """
    return json.loads((HERE / "things.json").read_text(encoding="utf-8"))


def load_sprites(styles: list[str]) -> dict[str, np.ndarray]:
    """The sprites of these styles, concept -> uint8 [N, 96, 96, 4] (straight alpha); rendered on the first call."""
    unknown = set(styles) - set(icon_sets())
    if unknown:
        raise ValueError(f"`styles` names {sorted(unknown)}: icon_sets.ini has {sorted(icon_sets())}")
    files = ("icon_sets.ini", "things.json", "sprites.py")  # the cache is out of date if one of them changes
    cache = cached("sprites", b"".join((HERE / name).read_bytes() for name in files), ("style", "concept"), _render)
    selected, concept = np.isin(cache["style"], styles), cache["concept"]
    return {str(name): cache["pictures"][selected & (concept == name)] for name in dict.fromkeys(concept)}


def cached(
    name: str, sources: bytes, columns: tuple[str, ...], rows: Callable[[], Iterable[tuple]]
) -> dict[str, np.ndarray]:
    """The arrays `pictures` and `columns` of (picture, *columns) rows, made once for the same sources."""
    path = CACHE / f"{name}-{hashlib.sha256(sources).hexdigest()[:12]}.npz"
    if not path.exists():
        arrays = (np.array(column) for column in zip(*rows(), strict=True))
        file = io.BytesIO()
        np.savez_compressed(file, **dict(zip(("pictures", *columns), arrays, strict=True)))
        write_whole(path, file.getvalue())
    with np.load(path) as cache:
        return dict(cache)


def _render() -> Iterator[tuple[np.ndarray, str, str]]:
    """Yield (sprite, style, concept); an icon of the shared list that a style lacks is left out."""
    for style, pin in icon_sets().items():
        draw = drawings(pin)
        for concept, thing in load_things()["things"].items():
            for name in thing.get(style, thing["sprites"]):
                picture = draw(name)
                if picture is not None:
                    yield centred(picture), style, concept
                elif style in thing:
                    raise ValueError(f"things.json: {concept!r} names {name!r} for {style}, which has no such icon")


def drawings(pin: Pin) -> Callable[[str], Image.Image | None]:
    """A function from a name to its picture (or None) in an Iconify set, which is one JSON file of SVG bodies."""
    import resvg_py  # of the section `recipe`, which the tests do not install

    icons = read_icons(pin)

    def draw(name: str) -> Image.Image | None:
        alias = icons.get("aliases", {}).get(name, {})
        icon = icons["icons"].get(alias.get("parent", name))
        if icon is None:
            return None
        left, top = icon.get("left", 0), icon.get("top", 0)
        width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
        svg = f'<svg {NAMESPACES} viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
        return Image.open(io.BytesIO(resvg_py.svg_to_bytes(svg_string=svg, width=RENDERED, skip_system_fonts=True)))

    return draw


def centred(picture: Image.Image) -> np.ndarray:
    """The content of a picture, as large as fits, in the middle of a sprite."""
    picture = picture.convert("RGBA")
    content = picture.crop(picture.getchannel("A").point(lambda alpha: 255 * (alpha >= VISIBLE)).getbbox())
    scale = (SIZE - 2) / max(content.size)
    content = content.resize([max(1, round(scale * side)) for side in content.size], Image.Resampling.LANCZOS)
    sprite = Image.new("RGBA", (SIZE, SIZE))
    sprite.paste(content, ((SIZE - content.width) // 2, (SIZE - content.height) // 2))
    return np.asarray(sprite)


def on_background(sprite: np.ndarray, size: int, colour: Iterable[int]) -> np.ndarray:
    """A sprite scaled to `size` pixels in the middle of a picture of one colour (RGB), [64, 64, 3] in [0, 1]."""
    small = Image.fromarray(sprite).resize((size, size), Image.Resampling.LANCZOS)
    picture = Image.new("RGBA", (64, 64), tuple(colour))
    picture.alpha_composite(small, ((64 - size) // 2, (64 - size) // 2))
    return np.asarray(picture.convert("RGB"), np.float32) / 255


def read_icons(pin: Pin) -> dict:
    """The JSON file of an Iconify set."""
    with tarfile.open(_package(pin)) as package:
        return json.load(package.extractfile("package/icons.json"))


def _package(pin: Pin) -> Path:
    """The package's tarball, fetched by `npm pack` and checked against its hash; it is read, never installed."""
    path = CACHE / "npm" / f"{pin['package'].lstrip('@').replace('/', '-')}-{pin['version']}.tgz"
    if not path.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise DevError("`npm` is not installed, but the icon sets come out of npm packages: install Node.js.")
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", f"{pin['package']}@{pin['version']}", "--ignore-scripts", "--silent"]
        subprocess.run(command, cwd=path.parent, check=True, stdout=subprocess.DEVNULL)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != pin["sha256"]:
        raise DevError(f"{path.name} has the SHA-256 {digest}, but icon_sets.ini expects {pin['sha256']}: delete it.")
    return path
