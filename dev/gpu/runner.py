"""The parts of `python dev gpu`, each run in a process of its own with a time limit, so that none spoils another.

If a part hangs, crashes or runs out of memory, what it reported until then is kept. The time that a part leaves goes to
the next ones.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dev import ROOT
from dev.console import duration, say
from dev.gpu.child import Request
from dev.gpu.results import DONE, Results
from dev.server import signal_group


@dataclass(frozen=True)
class Part:
    """`module` has `measure(request, report)`; `model` and `flags`: see Request."""

    name: str
    module: str
    seconds: float
    model: str = ""
    flags: tuple[str, ...] = ()


MACHINE = Part("machine", "dev.gpu.machine", 15)
PARTS = (
    Part("suite", "dev.gpu.suite", 100),
    Part("sd15", "dev.gpu.model_costs", 75, "sd15"),
    Part("sdxl", "dev.gpu.model_costs", 120, "sdxl"),
    Part("flux", "dev.gpu.model_costs", 75, "flux"),
    Part("dynamic vram", "dev.gpu.dynamic_vram", 45),
    Part("vram: as it is", "dev.gpu.vram", 11, "sd15"),
    Part("vram: lowvram", "dev.gpu.vram", 11, "sd15", ("--lowvram",)),
    Part("vram: novram", "dev.gpu.vram", 11, "sd15", ("--novram",)),
    Part("vram: reserved", "dev.gpu.vram", 11, "sd15", ("--reserve-vram", "MOST")),
    Part("vram: fp8", "dev.gpu.vram", 11, "sd15 in fp8"),
    Part("compile", "dev.gpu.compiling", 60, "sd15"),
    Part("cards", "dev.gpu.cards", 45, "sdxl"),
)
"""The parts that are worth most for their seconds come first; together they take less than ten minutes."""


@dataclass(frozen=True)
class RunConfig:
    """What all parts share: their environment, a folder to leave files for each other in, the log, and the size.

    `small`: tiny models, and few tests. `patience` stretches the time limits, for a machine without a GPU.
    """

    env: Mapping[str, str]
    folder: Path
    log: Path
    small: bool = False
    patience: float = 1.0


def run_parts(parts: Sequence[Part], results: Results, config: RunConfig) -> None:
    """Run the parts one after the other, and add what they report as it comes."""
    deadline = time.monotonic()
    for part in parts:
        deadline += part.seconds * config.patience
        began = time.monotonic()
        say(f"  {part.name} ...", end="")
        results.begin(part.name, deadline - began)
        status = run_part(part, results, deadline, config)
        seconds = time.monotonic() - began
        results.end(part.name, status, seconds)
        say(f" {status}, {duration(seconds)}")


def run_part(part: Part, results: Results, deadline: float, config: RunConfig) -> str:
    """Run a part until `deadline` (time.monotonic) at most; DONE, or in words how it ended otherwise."""
    request = Request(part.name, part.model, part.flags, str(config.folder), config.small)
    command = [sys.executable, "-m", "dev.gpu.child", part.module, json.dumps(asdict(request))]
    with config.log.open("ab") as log:
        log.write(f"\n=== {part.name}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, env=dict(config.env),
            start_new_session=os.name == "posix",
        )  # fmt: skip
        lines: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        try:
            while (line := lines.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
                results.add(part.name, json.loads(line))
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except (queue.Empty, subprocess.TimeoutExpired):
            return "out of time"
        finally:
            signal_group(process, force=True)  # with all that it started
            process.wait()
    return DONE if code == 0 else f"crashed (exit code {code}): {_last_line(config.log)}"


def _read(pipe, lines: queue.Queue) -> None:
    for line in pipe:
        lines.put(line)
    lines.put(None)


def _last_line(log: Path) -> str:
    """The last line of the log that is not empty."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "nothing was said")
