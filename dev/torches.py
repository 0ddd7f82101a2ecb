"""The packages that go with another torch than the pinned one: `python dev COMMAND --torch VERSION`."""

from __future__ import annotations

import re

from dev.stages import DevError

OLDEST = (2, 4)  # ComfyUI 0.3.75 warns of older ones, and loads files with them that can run code
LAST_AUDIO = (2, 11, 0)  # the last torchaudio; it is for every later torch as well


def replaced(version: str) -> dict[str, str]:
    """The versions of torch 2.N.P and what is built for it: torchvision 0.(N + 15).P, torchaudio 2.N.P or LAST_AUDIO.

    A DevError if `version` is no release, or one that is too old. Whether there is such a release, pip knows.
    """
    release = re.fullmatch(r"(2)\.(\d+)\.(\d+)", version)
    if not release or (int(release[1]), int(release[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise DevError(f"`--torch {version}` is no release of torch since {oldest}: name one in full, as 2.7.1.")
    vision, audio = f"0.{int(release[2]) + 15}.{release[3]}", min(tuple(map(int, release.groups())), LAST_AUDIO)
    return {"torch": version, "torchvision": vision, "torchaudio": ".".join(map(str, audio))}
