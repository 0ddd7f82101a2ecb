"""`python dev gpu --pack FOLDER`: packs what a machine without a network needs into a folder of less than 50 MB.

`host.zip` is ComfyUI without what no part imports, PACKAGE.zip a package's files. torch, torchvision, numpy and scipy
are the machine's own. Packages of compiled code are for one version of Python; if that is not this one, they come from
the package index, for Linux on x86-64.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from dev.console import DevError, say
from dev.gpu.machine import version_of

LIMIT = 50e6  # bytes
MANIFEST, HOST_FILE = "manifest.json", "host.zip"
OWN = ("torch", "torchvision", "numpy", "scipy")
NEEDED: dict[str, tuple[str, ...]] = {
    "einops": (),
    "torchsde": ("trampoline",),
    "tqdm": (),
    "psutil": (),
    "aiohttp": ("aiohappyeyeballs", "aiosignal", "attrs", "frozenlist", "idna", "multidict", "propcache", "yarl"),
    "pyyaml": (),
    "safetensors": (),
    "sentencepiece": (),
    "pillow": (),
    "jinja2": ("markupsafe",),
    "pydantic": ("pydantic-core", "annotated-types", "typing-inspection", "typing-extensions"),
    "pydantic-settings": ("python-dotenv",),
    "transformers": ("tokenizers", "huggingface-hub", "regex", "filelock", "packaging", "requests", "urllib3",
                     "certifi", "idna", "charset-normalizer", "typer", "click", "shellingham", "rich", "annotated-doc",
                     "markdown-it-py", "mdurl", "pygments", "fsspec", "httpx2", "httpcore2", "h11", "anyio",
                     "truststore"),
    "matplotlib": ("contourpy", "cycler", "kiwisolver", "packaging", "pyparsing", "python-dateutil"),
    "pytest": ("pluggy", "iniconfig", "packaging", "pygments"),
    "pytest-timeout": (),
    "pytest-xdist": ("execnet",),
    "hypothesis": ("sortedcontainers",),
    "comfy-aimdo": (),
    "comfy-kitchen": (),  # without its own kernels for cards: it has others
}  # fmt: skip
"""Package -> the packages that it needs; they are used together, if the machine lacks the first."""
UNUSED_FOLDERS = ("tests", "__pycache__", "sample_data")
HOST_PARTS = ("comfy", "comfy_api", "comfy_config", "comfy_execution", "comfy_extras", "utils")
BIG_TOKENIZERS = ("llama_tokenizer", "qwen25_tokenizer", "t5_tokenizer", "t5_pile_tokenizer", "ace_lyrics_tokenizer",
                  "hydit_clip_tokenizer", "qwen35_tokenizer")  # fmt: skip
TRANSFORMERS = ("auto", "bert", "byt5", "clip", "llama", "qwen2", "t5")  # whose tokenizers ComfyUI imports
MANYLINUX = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64",
             "manylinux_2_12_x86_64", "manylinux_2_5_x86_64", "manylinux1_x86_64")  # fmt: skip


def pack(folder: Path, host: Path, python: str) -> int:
    """Fill the folder for machines with this version of Python, as "3.12", and return the number of its bytes.

    For the version that runs this, nothing is downloaded. Raises DevError for a version that pip has no wheels for, and
    for more bytes than LIMIT.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.zip"), folder / MANIFEST):
        old.unlink(missing_ok=True)
    write_zip(folder / HOST_FILE, host_files(host))
    packages = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in dict.fromkeys(it for first, others in NEEDED.items() for it in (first, *others)):
            if not any(importlib.metadata.distributions(name=name)):
                continue  # what needs it does not in the version that is installed here
            files = dict(package_files(name, python, Path(scratch)))
            write_zip(folder / f"{name}.zip", files.items())
            packages[name] = {
                "version": importlib.metadata.version(name), "module": module_of(name),
                "compiled": any(map(is_compiled, files)),
            }  # fmt: skip
    size = sum(path.stat().st_size for path in folder.glob("*.zip"))
    if size > LIMIT:
        raise DevError(f"{folder} takes {size / 1e6:.1f} MB, of at most {LIMIT / 1e6:.0f}: leave a package out.")
    manifest = {"python": python, "host": version_of(host), "packages": packages}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    say(f"{folder}: ComfyUI {manifest['host']} and {len(packages)} packages for Python {python}, {size / 1e6:.1f} MB. "
        f"Take it and this repository to the machine: `python dev gpu --packed FOLDER`.")  # fmt: skip
    return size


def host_files(host: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of ComfyUI's files that the parts import."""
    for path in sorted([*host.glob("*.py"), *(it for part in HOST_PARTS for it in (host / part).rglob("*"))]):
        name = path.relative_to(host).as_posix()
        if path.is_file() and is_used(name):
            yield name, path.read_bytes()


def package_files(name: str, python: str, scratch: Path) -> Iterator[tuple[str, bytes]]:
    """(name in site-packages, content) of a package's files, in the version that is installed here."""
    files = list(installed_files(name))
    if python != this_python() and any(is_compiled(file) for file, _ in files):
        return wheel_files(name, python, scratch)
    return iter(files)


def installed_files(name: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files of an installed package, as pip has recorded them."""
    for file in importlib.metadata.distribution(name).files or ():
        path = Path(str(file.locate()))
        if ".." not in file.parts and is_used(file.as_posix()) and path.is_file():
            yield file.as_posix(), path.read_bytes()


def wheel_files(name: str, python: str, scratch: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files in a package's wheel for another Python, from the package index."""
    pinned = f"{name}=={importlib.metadata.version(name)}"
    platforms = [it for platform in MANYLINUX for it in ("--platform", platform)]
    target = scratch / name
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest",
               str(target), "--python-version", python, "--implementation", "cp", *platforms, pinned]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise DevError(f"pip has no wheel of {pinned} for Python {python} on Linux: {done.stderr.strip()[-200:]}")
    (path,) = target.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        for file in wheel.namelist():
            if is_used(file) and not file.endswith("/"):
                yield file, wheel.read(file)


def module_of(name: str) -> str:
    """The module that shows whether a package is installed: the only one, or the one with the package's name."""
    files = importlib.metadata.distribution(name).files or ()
    tops = {file.parts[0].split(".")[0] for file in files if file.suffix in (".py", ".so") and ".." not in file.parts}
    public = sorted(it for it in tops if it.isidentifier() and not it.startswith("_"))
    own = [it for it in public if it.lower() == name.replace("-", "_")]
    return (own or public)[0]


def is_used(name: str) -> bool:
    """Whether a part may import a file, or read it."""
    parts = PurePosixPath(name).parts
    if parts[:2] == ("transformers", "models") and len(parts) > 3 and parts[2] not in TRANSFORMERS:
        return False
    if parts[0] == "comfy_kitchen" and is_compiled(name):
        return False
    return not (name.endswith(".pyc") or any(it in UNUSED_FOLDERS or it in BIG_TOKENIZERS for it in parts))


def is_compiled(name: str) -> bool:
    """Whether a file holds machine code."""
    return name.endswith((".so", ".pyd")) or ".so." in name


def this_python() -> str:
    """The version of this Python, as "3.12"."""
    return "{}.{}".format(*sys.version_info)


def write_zip(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write a zip of files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as out:
        for name, content in files:
            out.writestr(name, content)
