"""The ComfyUI that a command runs: one that `pins.ini` names, or a developer's own.

All share one environment. What differs between them and cannot be shared, the front end with its templates and help
pages, lies in a folder for each, which goes before the environment when a server starts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dev import pins
from dev.pins import HOME
from dev.stages import DevError

OLDEST, NEWEST = "oldest", "newest"
DEFAULT = NEWEST
LATEST = "latest"  # the front end that users may have updated to, newer than any pinned host's own
VARIABLE = "UNGUIDE_HOST"  # how a command tells the processes that it starts


@dataclass(frozen=True)
class FrontEnd:
    """The packages of a section of `pins.ini`, in a folder of their own."""

    PREFIX: ClassVar = "front end "
    name: str

    @property
    def section(self) -> str:
        """Of `pins.ini`."""
        return self.PREFIX + self.name

    @property
    def folder(self) -> Path:
        """What goes before the environment on a server's PYTHONPATH."""
        return HOME / f"front-end-{self.name}"

    @property
    def page(self) -> Path:
        """What `--front-end-root` of the host's main.py takes."""
        return self.folder / "comfyui_frontend_package" / "static"

    def is_there(self) -> bool:
        """Whether it is, completely, from the pins as they are now."""
        return pins.stamped(self.folder, pins.fingerprint())


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder, and its name in `pins.ini`: none for a developer's own."""

    folder: Path
    name: str | None = None

    @property
    def front_end(self) -> FrontEnd:
        """Its front end, templates and help pages; those of the newest for a developer's own."""
        return FrontEnd(self.name or NEWEST)

    def is_unpacked(self) -> bool:
        """Whether it is there, completely, from the pins as they are now; a developer's own always is."""
        return self.name is None or pins.stamped(self.folder, pins.fingerprint())


def pinned(name: str) -> Host:
    """The one of this name, OLDEST or NEWEST."""
    return Host(HOME / ("host" if name == DEFAULT else f"host-{name}"), name)


def chosen(asked: str | None) -> Host:
    """What `--host` asks for, by default DEFAULT; DevError for no such name that is no ComfyUI folder either."""
    if asked is None or asked in (OLDEST, NEWEST):
        return pinned(asked or DEFAULT)
    if not Path(asked, "main.py").is_file():
        raise DevError(
            f"`--host {asked}` is not a ComfyUI folder: name the one that holds its main.py, or say `{OLDEST}` or "
            f"`{NEWEST}` for one that is set up for you."
        )
    return Host(Path(asked).resolve())


def at(folder: Path) -> Host:
    """The one that lies there."""
    same = (name for name in (OLDEST, NEWEST) if pinned(name).folder.resolve() == folder.resolve())
    return Host(folder, next(same, None))


HOST = Path(os.environ.get(VARIABLE) or pinned(DEFAULT).folder)
"""The folder of the ComfyUI in which this process works, as the command that started it said."""
