"""A virtual environment of the pinned packages, or of these with another torch (`python dev ... --torch VERSION`)."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dev import pins
from dev.console import DevError

OLDEST_TORCH = (2, 4)  # ComfyUI 0.3.75 warns of older ones, and loads files with them that can run code
LAST_AUDIO = (2, 11, 0)  # the last torchaudio; it is for every later torch as well


@dataclass(frozen=True)
class Venv:
    """The folder of the environment, and the packages (name -> version) that differ from `pins.ini`."""

    folder: Path
    replaced: Mapping[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        """The Python of the environment."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def pip(self) -> list[str]:
        """The start of a command for the environment's pip."""
        return [str(self.python), "-m", "pip", "--no-input", "--disable-pip-version-check"]

    def inside(self) -> bool:
        """Whether this process runs under the environment's Python."""
        return self.folder.is_dir() and os.path.samefile(sys.prefix, self.folder)

    def packages(self, section: str) -> list[str]:
        """The packages of a section of `pins.ini` as arguments of `pip install`."""
        return [f"{name}=={self.replaced.get(name, version)}" for name, version in pins.read()[section].items()]

    def has(self, section: str) -> bool:
        """Whether all packages of a section are installed in the versions that it names now."""
        return self.python.exists() and pins.stamped(self.folder, self._stamp, _suffix(section))

    def mark(self, section: str) -> None:
        """Note that the packages of a section are installed."""
        pins.write_stamp(self.folder, self._stamp, _suffix(section))

    def unmark(self) -> None:
        """Note that the environment is about to change: if that is interrupted, it is made anew."""
        (self.folder / pins.STAMP).unlink(missing_ok=True)

    def was_complete(self) -> bool:
        """Whether all packages that every command needs were installed once, in whatever versions."""
        return self.python.exists() and (self.folder / pins.STAMP).is_file()

    @property
    def _stamp(self) -> str:
        return "\n".join([pins.fingerprint(), *(f"{name}=={version}" for name, version in self.replaced.items())])


def _suffix(section: str) -> str:
    return "" if section == "packages" else section


def packages_for(torch: str) -> dict[str, str]:
    """The versions of torch 2.N.P and what is built for it: torchvision 0.(N + 15).P, torchaudio 2.N.P or LAST_AUDIO.

    DevError if `torch` does not name a release, or one that is too old. Whether the release exists, only pip knows.
    """
    release = re.fullmatch(r"(2)\.(\d+)\.(\d+)", torch)
    if not release or (int(release[1]), int(release[2])) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise DevError(f"`--torch {torch}` is no release of torch since {oldest}: name one in full, as 2.7.1.")
    vision, audio = f"0.{int(release[2]) + 15}.{release[3]}", min(tuple(map(int, release.groups())), LAST_AUDIO)
    return {"torch": torch, "torchvision": vision, "torchaudio": ".".join(map(str, audio))}
