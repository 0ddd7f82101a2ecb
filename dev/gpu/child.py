"""The process of one part: `python -m dev.gpu.child MODULE ASKED`; each line on its stdout is a finding, as JSON.

Whatever else is printed in here goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """What a part is about, further arguments of the host, a folder that the parts share, and whether to be small."""

    about: str
    flags: tuple[str, ...]
    folder: str
    small: bool


class Tell:
    """`tell(**findings)` hands them on at once; `figures` and `machine` are more than findings (see Results.add)."""

    def __init__(self):
        """Takes stdout for itself."""
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def __call__(self, **findings) -> None:
        """Hand on one line."""
        self._out.write(json.dumps(findings) + "\n")
        self._out.flush()


if __name__ == "__main__":
    module, given = sys.argv[1], json.loads(sys.argv[2])
    importlib.import_module(module).measure(Asked(**{**given, "flags": tuple(given["flags"])}), Tell())
