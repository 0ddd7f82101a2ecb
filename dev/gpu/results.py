"""`gpu.json`: what is known so far. It is written anew, as a whole, with everything that becomes known."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

RUNNING, DONE = "running", "done"


class Results:
    """The file: `figures`, what the machine is, and of each part its status, seconds, figures and findings."""

    def __init__(self, path: Path):
        """An empty one, in place of what was there."""
        self.path, self._began = path, time.monotonic()
        self.whole: dict = {"figures": {}, "finished": False, "seconds": 0.0, "parts": {}}
        path.parent.mkdir(parents=True, exist_ok=True)
        self.write()

    def begin(self, part: str, limit: float) -> None:
        """A part starts; it has `limit` seconds."""
        started = {"status": RUNNING, "limit": round(limit, 1), "seconds": None, "figures": {}, "found": {}}
        self.whole["parts"][part] = started
        self.write()

    def add(self, part: str, told: dict) -> None:
        """What a part tells: its `figures`, `machine` for the file as a whole, and all else for its findings.

        Of a figure that several parts tell, the smallest counts.
        """
        its = self.whole["parts"][part]
        its["figures"].update(told.pop("figures", {}))
        self.whole.update(told.pop("machine", {}))
        its["found"].update(told)
        every = [it["figures"] for it in self.whole["parts"].values()]
        names = dict.fromkeys(name for figures in every for name in figures)
        self.whole["figures"] = {name: min(it[name] for it in every if name in it) for name in names}
        self.write()

    def end(self, part: str, status: str, seconds: float) -> None:
        """A part has ended: DONE, or in words how else."""
        self.whole["parts"][part].update(status=status, seconds=round(seconds, 1))
        self.write()

    def finish(self) -> None:
        """There is nothing more to come."""
        self.whole["finished"] = True
        self.write()

    def write(self) -> None:
        """All or nothing: whoever reads, or ends this process, finds a whole file."""
        self.whole["seconds"] = round(time.monotonic() - self._began, 1)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.whole, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self.path)
