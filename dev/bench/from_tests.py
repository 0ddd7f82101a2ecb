"""Benchmarks that are tests: runs them with pytest and collects what they record (tests/figures.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dev import ROOT
from dev.bench import Bench
from dev.console import DevError

PASSED, FAILED = 0, 1  # pytest's exit codes for a run that came to its end


def recorded(bench: Bench, tests: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Name of a figure -> the values recorded for it, by these files or tests, the slow ones as well.

    They run in as many processes as the benchmark has, with its ComfyUI (environment variable of `dev.hosts`). A failed
    test does not stop the run. Raises DevError if pytest itself fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.jsonl"
        parallel = ["-n", str(bench.options.workers), "--dist", "worksteal"]  # neighbours mostly stay in one process
        command = [sys.executable, "-m", "pytest", *parallel, "-m", "slow or not slow", "--tb", "line", *tests]
        status = subprocess.run(command, cwd=ROOT, env={**os.environ, "UNGUIDE_FIGURES": str(path)}).returncode
        if status not in (PASSED, FAILED) or not path.exists():
            raise DevError(f"pytest ended with exit code {status}: nothing is measured.")
        figures: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in path.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            figures[values.pop("name")].append(values)
        return figures
