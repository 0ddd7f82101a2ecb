"""The packages that go with another torch than the pinned one: `python dev COMMAND --torch VERSION`."""

from __future__ import annotations

import re

from dev.stages import DevError

OLDEST = (2, 4)  # ComfyUI 0.3.75 warns of older ones, and loads files with them that can run code


def replaced(version: str) -> dict[str, str]:
    """The versions of torch, and of the torchvision that is built for it: 0.(N + 15).P for 2.N.P, since 2.1.

    A DevError if `version` is no release, or one that is too old. Whether there is such a release, pip knows.
    """
    release = re.fullmatch(r"(2)\.(\d+)\.(\d+)", version)
    if not release or (int(release[1]), int(release[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise DevError(f"`--torch {version}` is no release of torch since {oldest}: name one in full, as 2.7.1.")
    return {"torch": version, "torchvision": f"0.{int(release[2]) + 15}.{release[3]}"}
