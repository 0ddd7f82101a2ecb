"""Whether a sweep loses nothing: thousands of rows, killed and resumed; and what more workers bring."""

from __future__ import annotations

import csv
import filecmp
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from itertools import cycle, islice
from pathlib import Path

import psutil

from dev.environment import ROOT
from dev.stages import DevError, say

ROWS = 4703  # I2P's
KILLS = 3
SHORT = 48  # rows, to compare workers by
WORKERS = (1, 2, 4)
LISTED = ROOT / "prompts" / "lists" / "everyday.csv"


def measure(folder: Path, host: Path, rows: int = ROWS, short: int = SHORT) -> dict:
    """`figures`, and the `rates` by number of workers, everything in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    whole = list_of(rows, folder / "whole.csv")
    killed = kill_and_resume(Sweep(host, whole, folder / "killed", "--steps", "1", "--no-judge"), rows)
    few = list_of(short, folder / "short.csv")
    alone = Sweep(host, few, folder / "alone")
    rates = {"in this process": alone.rate(short)}
    same = True
    for number in WORKERS:
        crew = Sweep(host, few, folder / f"workers-{number}", "--workers", str(number))
        rates[f"{number} workers"] = crew.rate(short)
        same = same and identical(alone.output, crew.output)
    bereft = Sweep(host, few, folder / "bereft", "--workers", "2")
    bereft.start()
    bereft.wait_for(short // 4)
    kill_an_artist(bereft.process.pid)
    bereft.finish()
    same = same and identical(alone.output, bereft.output)
    figures = {
        "rows_per_second_1": rates["1 workers"],
        "rows_per_second_2": rates["2 workers"],
        "identical_results": int(same),
        **killed,
    }
    return {"figures": figures, "rates": rates}


def list_of(rows: int, path: Path) -> Path:
    """The shipped list over and over, with other seeds."""
    with LISTED.open(encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(listed[0]))
        writer.writeheader()
        for number, row in enumerate(islice(cycle(listed), rows)):
            writer.writerow({**row, "evaluation_seed": number})
    return path


class Sweep:
    """A `python dev sweep` of the base model, as a process."""

    def __init__(self, host: Path, rows: Path, output: Path, *more: str):
        self.output = output
        self._command = [sys.executable, str(ROOT / "dev"), "sweep", str(rows), "--output", str(output),
                         "--modes", "base", "--host", str(host), *more]  # fmt: skip

    def start(self) -> None:
        """Begin, or go on."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def drawn(self) -> int:
        """Pictures that are there."""
        return sum(1 for _ in (self.output / "pictures" / "base").glob("*.png"))

    def wait_for(self, number: int) -> None:
        """Until so many are there."""
        while self.drawn() < number:
            if self.process.poll() is not None:
                raise DevError(
                    f"the sweep ended after {self.drawn()} of {number} pictures: {self.process.stdout.read()}"
                )
            time.sleep(0.1)

    def finish(self) -> str:
        """Its last words."""
        said = self.process.communicate()[0]
        if self.process.returncode:
            raise DevError(f"the sweep failed: {said}")
        return said

    def rate(self, rows: int) -> float:
        """Rows a second between the second picture and the last but one: without the start."""
        self.start()
        self.wait_for(2)
        began, first = time.monotonic(), self.drawn()
        self.wait_for(rows - 1)
        found = (self.drawn() - first) / (time.monotonic() - began)
        self.finish()
        return found


def kill_and_resume(sweep: Sweep, rows: int) -> dict:
    """Kill it at random, go on, and count at the end; how long it took to begin, and how its memory grew."""
    chance = random.Random(0)
    began = time.monotonic()
    sweep.start()
    sweep.wait_for(1)
    start = time.monotonic() - began
    for at in sorted(chance.randrange(rows // 20, rows // 2) for _ in range(KILLS)):
        sweep.wait_for(at)
        time.sleep(chance.random() * 0.2)
        sweep.process.send_signal(signal.SIGKILL)
        sweep.process.wait()
        say(f"killed at {sweep.drawn()} of {rows}")
        sweep.start()
    sweep.wait_for(min(rows, sweep.drawn() + rows // 20))
    memory = psutil.Process(sweep.process.pid)
    early = memory.memory_info().rss
    sweep.wait_for(rows - 1)
    late = memory.memory_info().rss if sweep.process.poll() is None else early
    sweep.finish()
    with sqlite3.connect(sweep.output / "sweep.sqlite3") as base:
        numbers = [number for (number,) in base.execute("SELECT number FROM drawn")]
    with (sweep.output / "report.csv").open(encoding="utf-8") as file:
        reported = [int(line["number"]) for line in csv.DictReader(file)]
    pictures = sweep.drawn()
    return {
        "seconds_to_first_picture": start,
        "memory_growth_mib": (late - early) / 2**20,
        "rows_lost": len(set(range(rows)) - set(numbers)) + rows - pictures,
        "rows_twice": len(numbers) - len(set(numbers)) + len(reported) - len(set(reported)),
    }


def kill_an_artist(pid: int) -> None:
    """One of a sweep's Ray actors."""
    for it in psutil.process_iter(["name", "cmdline"]):
        if any("_Actor" in part for part in it.info["cmdline"] or ()):
            it.kill()
            return
    raise DevError(f"the sweep {pid} has no Ray actor to kill.")


def identical(one: Path, other: Path) -> bool:
    """Whether two sweeps have the same pictures, bit for bit, and the same lines."""
    names = sorted(path.relative_to(one) for path in (one / "pictures").rglob("*.png"))
    match, *rest = filecmp.cmpfiles(one, other, names, shallow=False)
    lines = [json.loads((it / "report.json").read_text(encoding="utf-8"))["summary"] for it in (one, other)]
    return not any(rest) and len(match) == len(names) and lines[0] == lines[1]


def text(whole: dict) -> str:
    """The report as Markdown."""
    lines = ["| figure | value |", "|---|---|"]
    lines += [f"| `{name}` | {value:.3g} |" for name, value in whole["figures"].items()]
    lines += [
        "",
        "| | rows a second |",
        "|---|---|",
        *(f"| {name} | {it:.2f} |" for name, it in whole["rates"].items()),
    ]
    return "\n".join(lines) + "\n"
