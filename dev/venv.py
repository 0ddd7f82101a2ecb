"""A virtual environment of the pinned packages, or of these with another torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dev import pins


@dataclass(frozen=True)
class Venv:
    """Where it lies, and which packages it has in other versions than `pins.ini` says."""

    folder: Path
    replaced: Mapping[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        """Its Python."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def pip(self) -> list[str]:
        """Its pip, as the start of a command."""
        return [str(self.python), "-m", "pip", "--no-input", "--disable-pip-version-check"]

    def inside(self) -> bool:
        """Whether this very process runs under its Python."""
        return self.folder.is_dir() and os.path.samefile(sys.prefix, self.folder)

    def packages(self, section: str) -> list[str]:
        """The packages of a section of `pins.ini`, as pip is asked for them."""
        return [f"{name}=={self.replaced.get(name, version)}" for name, version in pins.read()[section].items()]

    def has(self, section: str) -> bool:
        """Whether a section's packages were installed, completely, in the versions that it takes now."""
        return self.python.exists() and pins.stamped(self.folder, self._stamp, _suffix(section))

    def mark(self, section: str) -> None:
        """Note that a section's packages are installed."""
        pins.write_stamp(self.folder, self._stamp, _suffix(section))

    def unmark(self) -> None:
        """Before it is made or changed: interrupted now, it is made anew."""
        (self.folder / pins.STAMP).unlink(missing_ok=True)

    def was_complete(self) -> bool:
        """Whether it has had all the packages that every command needs, in whatever versions."""
        return self.python.exists() and (self.folder / pins.STAMP).is_file()

    @property
    def _stamp(self) -> str:
        return "\n".join([pins.fingerprint(), *(f"{name}=={version}" for name, version in self.replaced.items())])


def _suffix(section: str) -> str:
    return "" if section == "packages" else section
