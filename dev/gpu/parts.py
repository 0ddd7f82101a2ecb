"""The parts of `python dev gpu`: each in a process of its own with a time limit, so that none spoils another.

A part that hangs, crashes or runs out of memory has told what it knew until then. What a part leaves of its time goes
to those behind it.
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

from dev.environment import ROOT
from dev.gpu.child import Asked
from dev.gpu.results import DONE, Results
from dev.server import signal_group
from dev.stages import duration, say


@dataclass(frozen=True)
class Part:
    """`module` has `measure(asked, tell)`; `about` is its subject, `flags` further arguments of the host."""

    name: str
    module: str
    seconds: float
    about: str = ""
    flags: tuple[str, ...] = ()


MACHINE = Part("machine", "dev.gpu.machine", 15)
PARTS = (
    Part("suite", "dev.gpu.suite", 100),
    Part("sd15", "dev.gpu.pictures", 50, "sd15"),
    Part("sdxl", "dev.gpu.pictures", 95, "sdxl"),
    Part("flux", "dev.gpu.pictures", 55, "flux"),
    Part("vram: as it is", "dev.gpu.vram", 11, "sd15"),
    Part("vram: lowvram", "dev.gpu.vram", 11, "sd15", ("--lowvram",)),
    Part("vram: novram", "dev.gpu.vram", 11, "sd15", ("--novram",)),
    Part("vram: reserved", "dev.gpu.vram", 11, "sd15", ("--reserve-vram", "MOST")),
    Part("vram: fp8", "dev.gpu.vram", 11, "sd15 in fp8"),
    Part("compile", "dev.gpu.compiling", 60, "sd15"),
    Part("cards", "dev.gpu.cards", 45, "sdxl"),
)
"""What is worth most for its seconds comes first; together they take less than eight minutes."""


@dataclass(frozen=True)
class Surroundings:
    """What all parts share: their environment, a folder to leave things for each other in, the log, and the size.

    `small`: tiny models, and few tests. `patience` stretches the limits, for a machine without a GPU.
    """

    env: Mapping[str, str]
    folder: Path
    log: Path
    small: bool = False
    patience: float = 1.0


def run_parts(parts: Sequence[Part], results: Results, around: Surroundings) -> None:
    """Run them one after the other, and enter what they tell as it comes."""
    deadline = time.monotonic()
    for part in parts:
        deadline += part.seconds * around.patience
        began = time.monotonic()
        say(f"  {part.name} ...", end="")
        results.begin(part.name, deadline - began)
        status = run_part(part, results, deadline, around)
        took = time.monotonic() - began
        results.end(part.name, status, took)
        say(f" {status}, {duration(took)}")


def run_part(part: Part, results: Results, deadline: float, around: Surroundings) -> str:
    """Run one until `deadline` (time.monotonic); DONE, or in words how it ended otherwise."""
    asked = Asked(part.about, part.flags, str(around.folder), around.small)
    command = [sys.executable, "-m", "dev.gpu.child", part.module, json.dumps(asdict(asked))]
    with around.log.open("ab") as said:
        said.write(f"\n=== {part.name}\n".encode())
        said.flush()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, cwd=ROOT, env=dict(around.env),
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
    return DONE if code == 0 else f"crashed (exit code {code}): {_last_words(around.log)}"


def _read(pipe, lines: queue.Queue) -> None:
    for line in pipe:
        lines.put(line)
    lines.put(None)


def _last_words(log: Path) -> str:
    """The last line that is not empty."""
    said = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip()[:300] for line in reversed(said) if line.strip()), "nothing was said")
