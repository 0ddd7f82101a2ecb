"""`bench sweep`: whether a sweep of thousands of rows loses any when it is killed, and what more workers bring."""

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

from dev import ROOT
from dev.bench import Bench
from dev.bench.report import figures_table, table
from dev.console import DevError, say

ROWS = 4703  # I2P's
KILLS = 3
SHORT = 48  # rows, to compare workers by
WORKERS = (1, 2, 4)
LISTED = ROOT / "prompts" / "lists" / "everyday.csv"


def measure(bench: Bench, rows: int = ROWS, short: int = SHORT) -> dict:
    """`figures`, and the `rates` by number of workers; writes everything that the sweeps draw below `sweep`."""
    folder, host = bench.output / "sweep", bench.options.host
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    killed = SweepProcess(host, list_of(rows, folder / "whole.csv"), folder / "killed", "--steps", "1", "--no-judge")
    figures = kill_and_resume(killed, rows)
    few = list_of(short, folder / "short.csv")
    alone = SweepProcess(host, few, folder / "alone")
    rates, same = {"in this process": alone.rate(short)}, True
    for number in WORKERS:
        sweep = SweepProcess(host, few, folder / f"workers-{number}", "--workers", str(number))
        rates[f"{number} workers"] = sweep.rate(short)
        same = same and identical(alone.output, sweep.output)
    bereft = SweepProcess(host, few, folder / "bereft", "--workers", "2")
    bereft.start()
    bereft.wait_for(short // 4)
    kill_a_worker(bereft.process.pid)
    bereft.finish()
    same = same and identical(alone.output, bereft.output)
    figures = {
        "rows_per_second_1": rates["1 workers"],
        "rows_per_second_2": rates["2 workers"],
        "identical_results": int(same),
        **figures,
    }
    return {"figures": figures, "rates": rates}


def list_of(rows: int, path: Path) -> Path:
    """Write the shipped list, repeated to so many rows, each with another seed."""
    with LISTED.open(encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(listed[0]))
        writer.writeheader()
        for number, row in enumerate(islice(cycle(listed), rows)):
            writer.writerow({**row, "evaluation_seed": number})
    return path


class SweepProcess:
    """A `python dev sweep`, by default of the base model."""

    def __init__(self, host: Path, rows: Path, output: Path, *options: str):
        self.output = output
        self._command = [sys.executable, str(ROOT / "dev"), "sweep", str(rows), "--output", str(output),
                         "--modes", "base", "--host", str(host), *options]  # fmt: skip

    def start(self) -> None:
        """Begin, or resume."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def kill(self) -> None:
        """End the process as a power failure would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def drawn(self) -> int:
        """The number of pictures that are there."""
        return sum(1 for _ in (self.output / "pictures" / "base").glob("*.png"))

    def wait_for(self, number: int) -> None:
        """Wait until so many pictures are there. Raises DevError if the process ends before."""
        while self.drawn() < number:
            if self.process.poll() is not None:
                printed = self.process.stdout.read()
                raise DevError(f"the sweep ended after {self.drawn()} of {number} pictures: {printed}")
            time.sleep(0.1)

    def finish(self) -> None:
        """Wait for the end. Raises DevError if the sweep fails."""
        printed = self.process.communicate()[0]
        if self.process.returncode:
            raise DevError(f"the sweep failed: {printed}")

    def rate(self, rows: int) -> float:
        """Rows a second between the second picture and the last but one, which leaves out the start."""
        self.start()
        self.wait_for(2)
        began, first = time.monotonic(), self.drawn()
        self.wait_for(rows - 1)
        rate = (self.drawn() - first) / (time.monotonic() - began)
        self.finish()
        return rate


def kill_and_resume(sweep: SweepProcess, rows: int) -> dict:
    """Kill the sweep at random and resume it, KILLS times: rows lost or doubled, seconds to begin, memory growth."""
    chance, began = random.Random(0), time.monotonic()
    sweep.start()
    sweep.wait_for(1)
    start = time.monotonic() - began
    for number in sorted(chance.randrange(rows // 20, rows // 2) for _ in range(KILLS)):
        sweep.wait_for(number)
        time.sleep(chance.random() * 0.2)
        sweep.kill()
        say(f"killed at {sweep.drawn()} of {rows}")
        sweep.start()
    sweep.wait_for(min(rows, sweep.drawn() + rows // 20))
    memory = psutil.Process(sweep.process.pid)
    early = memory.memory_info().rss
    sweep.wait_for(rows - 1)
    late = memory.memory_info().rss if sweep.process.poll() is None else early
    sweep.finish()
    with sqlite3.connect(sweep.output / "sweep.sqlite3") as database:
        numbers = [number for (number,) in database.execute("SELECT number FROM drawn")]
    with (sweep.output / "report.csv").open(encoding="utf-8") as file:
        reported = [int(line["number"]) for line in csv.DictReader(file)]
    return {
        "seconds_to_first_picture": start,
        "memory_growth_mib": (late - early) / 2**20,
        "rows_lost": len(set(range(rows)) - set(numbers)) + rows - sweep.drawn(),
        "rows_twice": len(numbers) - len(set(numbers)) + len(reported) - len(set(reported)),
    }


def kill_a_worker(pid: int) -> None:
    """Kill one of the Ray actors on this machine. Raises DevError if the sweep `pid` has none."""
    for process in psutil.process_iter(["cmdline"]):
        if any("RenderWorker" in part for part in process.info["cmdline"] or ()):
            process.kill()
            return
    raise DevError(f"the sweep {pid} has no Ray actor to kill.")


def identical(expected: Path, actual: Path) -> bool:
    """Whether two sweeps have the same pictures, bit for bit, and the same summary."""
    names = sorted(path.relative_to(expected) for path in (expected / "pictures").rglob("*.png"))
    match, mismatch, errors = filecmp.cmpfiles(expected, actual, names, shallow=False)
    reports = [json.loads((it / "report.json").read_text(encoding="utf-8")) for it in (expected, actual)]
    return not (mismatch or errors) and len(match) == len(names) and reports[0]["summary"] == reports[1]["summary"]


def text(result: dict) -> str:
    """The report as Markdown."""
    rates = [{"": name, "rows a second": f"{rate:.2f}"} for name, rate in result["rates"].items()]
    return f"{figures_table(result['figures'], '.3g')}\n\n{table(rates)}\n"
