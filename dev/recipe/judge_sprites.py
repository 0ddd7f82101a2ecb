"""What the judges learn from: the sprites of things.json, more of the same things, and a thousand other emoji.

Telling any emoji from any other, across styles, makes a judge look at shapes rather than at one style's colours; the
other emoji also teach it to say "none of these".
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from dev.recipe import sprites

SIDE = 64
NOT_EMOJI = (
    "flag|tone|dark|light|medium|clock|oclock|thirty|button|letter|keycap|regional|input|^man|^woman|^person|kiss-"
)
"""Icons left out altogether: variants, signs and text."""


class Bank(NamedTuple):
    """Sprites of some styles; classes are the things, then the other emoji, those alike last."""

    pictures: torch.Tensor
    """uint8 [N, 4, 64, 64], straight alpha."""
    labels: torch.Tensor
    more: torch.Tensor
    """Which are icons beyond those of things.json; bool [N]."""
    things: list[str]
    others: int
    """How many other emoji mean "none of these"; the remaining classes are too `alike`."""
    classes: int


def load_bank(styles: list[str]) -> Bank:
    """The sprites of these styles, with class numbers that do not depend on the styles."""
    pins = [[*pin.items()] for pin in sprites.icon_sets().values()]
    things = sprites.load_things()["things"]
    sources = repr((_emoji()["more"], NOT_EMOJI, things, pins)).encode()
    cache = sprites.cached("judge-sprites", sources, ("style", "name", "more"), _rows)
    selected = np.isin(cache["style"], styles)
    alike = {_key(name) for name in _emoji()["alike"]}
    emoji = sorted({str(name) for name in cache["name"]} - set(things), key=lambda name: (name in alike, name))
    number = {name: index for index, name in enumerate([*things, *emoji])}
    return Bank(
        torch.from_numpy(cache["pictures"][selected]),
        torch.tensor([number[str(name)] for name in cache["name"][selected]]),
        torch.from_numpy(cache["more"][selected]),
        list(things),
        sum(name not in alike for name in emoji),
        len(number),
    )


def _emoji() -> dict:
    """judge_emoji.json: `more` icons that anyone would call by a thing's name (for the judges, not for the picture
    model), and those so `alike` to a thing that they are no example of "none of these".
    """
    return json.loads((sprites.HERE / "judge_emoji.json").read_text(encoding="utf-8"))


def _rows() -> Iterator[tuple[np.ndarray, str, str, bool]]:
    """Yield (sprite, style, name, whether it is more than things.json has); every picture once."""
    sets = {style: pin for style, pin in sprites.icon_sets().items() if pin["use"] != "held out"}
    files = {style: sprites.read_icons(pin) for style, pin in sets.items()}
    aliases = {
        _key(name): _key(alias["parent"]) for file in files.values() for name, alias in file.get("aliases", {}).items()
    }

    def key_of(name: str) -> str:
        return aliases.get(_key(name), _key(name))

    icons = {style: {key_of(name): name for name in file["icons"]} for style, file in files.items()}
    shared = Counter(key for names in icons.values() for key in names)
    thing_of = {key_of(name): thing for thing, names in _emoji()["more"].items() for name in names}
    things = {key_of(name) for name in _names_of_things()}
    emoji = {key for key, number in shared.items() if number >= 3} - set(thing_of) - things
    for style, pin in sets.items():
        pictures = set()
        for thing, full_size in sprites.load_sprites([style]).items():
            for sprite in full_size:
                small = _small(sprite)
                pictures.add(small.tobytes())
                yield small, style, thing, False
        draw = sprites.drawings(pin)
        for key, name in icons[style].items():
            if key in thing_of or (key in emoji and not re.search(NOT_EMOJI, name)):
                small = _small(sprites.centred(draw(name)))
                if small.tobytes() not in pictures:
                    pictures.add(small.tobytes())
                    yield small, style, thing_of.get(key, key), True


def _names_of_things() -> set[str]:
    """The icon names in things.json."""
    values = [
        value for thing in sprites.load_things()["things"].values() for key, value in thing.items() if key != "words"
    ]
    return {name for value in values if isinstance(value, list) for name in value}


def _key(name: str) -> str:
    """What the same emoji's names have in common across the sets."""
    return re.sub(r"-\d$", "", name).replace("-", "")


def _small(sprite: np.ndarray) -> np.ndarray:
    """uint8 [96, 96, 4] -> [4, 64, 64]."""
    return np.asarray(Image.fromarray(sprite).resize((SIDE, SIDE), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
