"""The ComfyUI that a command runs: one that `pins.ini` names, or a developer's own.

All share one environment. What differs between them and cannot be shared, the front end with its templates and help
pages, lies in a folder for each, which goes before the environment when a server starts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dev import pins
from dev.pins import HOME
from dev.stages import DevError

OLDEST, NEWEST = "oldest", "newest"
DEFAULT = NEWEST
VARIABLE = "UNGUIDE_HOST"  # how a command tells the processes that it starts


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder, and its name in `pins.ini`: none for a developer's own."""

    folder: Path
    name: str | None = None

    @property
    def front_end(self) -> Path:
        """The folder of its front end, templates and help pages; those of the newest for a developer's own."""
        return HOME / f"front-end-{self.name or NEWEST}"

    @property
    def front_end_section(self) -> str:
        """The section of `pins.ini` with its packages."""
        return f"front end {self.name or NEWEST}"

    def is_unpacked(self) -> bool:
        """Whether it is there, completely, from the pins as they are now; a developer's own always is."""
        return self.name is None or pins.stamped(self.folder, pins.fingerprint())

    def has_front_end(self) -> bool:
        """The same of its front end."""
        return pins.stamped(self.front_end, pins.fingerprint())


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
