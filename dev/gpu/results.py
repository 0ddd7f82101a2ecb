"""`gpu.json`: what is measured so far. It is written anew, as a whole, with every new value."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

RUNNING, DONE = "running", "done"


class Results:
    """The file: `figures`, what the machine is, and of each part its status, seconds, figures and other values."""

    def __init__(self, path: Path):
        """Replace the file by an empty one."""
        self.path, self._began = path, time.monotonic()
        self.content: dict = {"figures": {}, "finished": False, "seconds": 0.0, "parts": {}}
        path.parent.mkdir(parents=True, exist_ok=True)
        self.write()

    def begin(self, part: str, limit: float) -> None:
        """Note that a part starts, with `limit` seconds at most."""
        started = {"status": RUNNING, "limit": round(limit, 1), "seconds": None, "figures": {}, "found": {}}
        self.content["parts"][part] = started
        self.write()

    def add(self, part: str, values: dict) -> None:
        """Add a part's values: its `figures`, `machine` for the file as a whole, and all others to `found`.

        Of a figure that several parts report, the smallest counts.
        """
        entry = self.content["parts"][part]
        entry["figures"].update(values.pop("figures", {}))
        self.content.update(values.pop("machine", {}))
        entry["found"].update(values)
        by_part = [it["figures"] for it in self.content["parts"].values()]
        names = dict.fromkeys(name for figures in by_part for name in figures)
        smallest = {name: min(figures[name] for figures in by_part if name in figures) for name in names}
        self.content["figures"] = smallest
        self.write()

    def end(self, part: str, status: str, seconds: float) -> None:
        """Note that a part has ended: DONE, or in words how else."""
        self.content["parts"][part].update(status=status, seconds=round(seconds, 1))
        self.write()

    def finish(self) -> None:
        """Note that all parts have ended."""
        self.content["finished"] = True
        self.write()

    def write(self) -> None:
        """Replace the file at once: whoever reads it, or ends this process, finds a whole one."""
        self.content["seconds"] = round(time.monotonic() - self._began, 1)
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, self.path)
