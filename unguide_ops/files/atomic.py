"""Writing files atomically: a file has its whole content or does not exist, even after a crash or a power cut."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from pathlib import Path

UNFINISHED = ".unguide-part"  # ends the name of a file that is being written
NO_HARD_LINKS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}
"""Errors of file systems on which a file has only one name (FAT, some network file systems)."""

STALE_AFTER = 3600.0  # seconds after which the process that wrote an unfinished file must have been killed


class NameTakenError(Exception):
    """A file of that name exists."""


def write_whole(path: Path, content: bytes, new: bool = False) -> None:
    """Write a file atomically. It replaces an older one; if `new`, that raises NameTakenError instead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    part = path.with_name(f"{path.name}.{secrets.token_hex(6)}{UNFINISHED}")  # not the pid: two containers may share it
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the name without the content
        if new:
            _link(part, path)
        else:
            os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _link(part: Path, path: Path) -> None:
    """Give a finished file its name. Raises NameTakenError if the name is taken."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise NameTakenError from None
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        _claim(part, path)
    else:
        part.unlink(missing_ok=True)


def _claim(part: Path, path: Path) -> None:
    """Give a finished file its name without hard links: an empty file claims the name first, and is replaced."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        raise NameTakenError from None
    try:
        os.replace(part, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _remove_stale(folder: Path) -> None:
    """Remove unfinished files of processes that were killed."""
    for part in folder.glob(f"*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE_AFTER:
                part.unlink()
