"""The ComfyUI that a command runs: one that `pins.ini` names, or a developer's own.

All share one environment. The front end with its templates and help pages differs between them: each lies in a folder
of its own, which goes before the environment on the path of a server.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dev import pins
from dev.console import DevError
from dev.pins import HOME

OLDEST, NEWEST = "oldest", "newest"
DEFAULT = NEWEST
LATEST = "latest"  # the front end that users may have updated to, newer than any pinned host's own
VARIABLE = "UNGUIDE_HOST"  # how a command tells the processes that it starts


@dataclass(frozen=True)
class FrontEnd:
    """The front end that a section of `pins.ini` names."""

    PREFIX: ClassVar = "front end "
    name: str

    @property
    def section(self) -> str:
        """The section of `pins.ini`."""
        return self.PREFIX + self.name

    @property
    def folder(self) -> Path:
        """The folder of its packages, for a server's PYTHONPATH."""
        return HOME / f"front-end-{self.name}"

    @property
    def page(self) -> Path:
        """The folder of its page, for `--front-end-root` of the host's main.py."""
        return self.folder / "comfyui_frontend_package" / "static"

    def is_there(self) -> bool:
        """Whether it is installed completely, from the pins as they are now."""
        return pins.stamped(self.folder, pins.fingerprint())


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder, and its name in `pins.ini`; a developer's own has none."""

    folder: Path
    name: str | None = None

    @property
    def front_end(self) -> FrontEnd:
        """Its front end; that of the newest host for a developer's own."""
        return FrontEnd(self.name or NEWEST)

    def is_unpacked(self) -> bool:
        """Whether it is there completely, from the pins as they are now; a developer's own always is."""
        return self.name is None or pins.stamped(self.folder, pins.fingerprint())


def pinned(name: str) -> Host:
    """The host OLDEST or NEWEST."""
    return Host(HOME / ("host" if name == DEFAULT else f"host-{name}"), name)


def chosen(option: str | None) -> Host:
    """The host that `--host` names, DEFAULT without one; DevError if it names neither a host nor a ComfyUI folder."""
    if option in (None, OLDEST, NEWEST):
        return pinned(option or DEFAULT)
    if not Path(option, "main.py").is_file():
        raise DevError(
            f"`--host {option}` is not a ComfyUI folder: name the one that holds its main.py, or say `{OLDEST}` or "
            f"`{NEWEST}` for one that is set up for you."
        )
    return Host(Path(option).resolve())


def at(folder: Path) -> Host:
    """The host in a folder."""
    names = (name for name in (OLDEST, NEWEST) if pinned(name).folder.resolve() == folder.resolve())
    return Host(folder, next(names, None))


HOST = Path(os.environ.get(VARIABLE) or pinned(DEFAULT).folder)
"""The folder of the ComfyUI in which this process works, as the command that started it said."""
