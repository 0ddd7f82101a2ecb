"""`python dev sweep`: draws a list of prompts x LoRAs x modes x seeds, on the real host without its server.

It resumes where it was stopped, however it was stopped: see `results`. Several devices or machines: see `workers`.
"""

from __future__ import annotations

import argparse
import sqlite3
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from dev import ROOT
from dev.console import DevError, duration, say

if TYPE_CHECKING:
    from dev.sweep.plan import Settings

NEEDS: tuple[str, ...] = ("evaluate", "sweep")
LISTS = ROOT / "prompts" / "lists"
MOST_FAILURES = 10  # in a row
DEMO = "demo"
BASE, LORA, HALF, PAPER, OURS = MODES = ("base", "lora", "half", "paper", "ours")
DEFAULTS: dict[str, int | float | str] = {
    "steps": 20, "cfg": 7.5, "sampler": "euler", "scheduler": "normal", "width": 64, "height": 64, "paper_seeds": 10,
    "negative": "",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sweep`."""
    parser.add_argument("list", type=Path, nargs="?", default=LISTS / "everyday.csv",
                        help="CSV (columns prompt, evaluation_seed, evaluation_guidance) or JSON")  # fmt: skip
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "sweep", help="where everything goes")
    parser.add_argument("--model", default=DEMO, help=f"a checkpoint file, or {DEMO!r}, the embedded model")
    parser.add_argument("--lora", type=Path, nargs="+", default=[], metavar="FILE", help="concept LoRAs to compare")
    parser.add_argument("--forget", nargs="+", default=[], metavar="PRESET", help="train these first, once")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["base", "lora", "ours"], help="how to sample")
    parser.add_argument("--seeds", type=int, default=1, help="pictures a row, from its seed on")
    parser.add_argument("--offset", type=int, default=0, help="skip so many rows")
    parser.add_argument("--limit", type=int, help="draw so many rows at most")
    for name, default in DEFAULTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default,
                            help=f"default: {default!r}")  # fmt: skip
    parser.add_argument("--judge", action=argparse.BooleanOptionalAction, default=None,
                        help="let the demo model's judges look (default: with the embedded model)")  # fmt: skip
    parser.add_argument(
        "--clip", metavar="ARCHITECTURE", help="CLIP scores, by models/open_clip/ARCHITECTURE, or a file's path"
    )
    parser.add_argument("--nudity", action="store_true", help="count what NudeNet detects")
    parser.add_argument("--workers", type=int, default=0,
                        help="so many at a time, by Ray (default: one, in this process)")  # fmt: skip
    parser.add_argument("--address", help="of a Ray cluster that is there, such as auto")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="where the model runs (default: cpu)")


def run(options: argparse.Namespace) -> int:
    """Draw the pictures that are missing; 0 if every row of the list is drawn."""
    began, settings = time.monotonic(), settings_from(options)
    drawn = complete(settings, options.workers, options.address)
    for job, error in drawn.failures[:MOST_FAILURES]:
        say(f"failed: {job.key}: {error}")
    taken = duration(time.monotonic() - began)
    say(f"{drawn.finished} of {drawn.total} pictures in {taken}: {settings.output / 'report.html'}")
    return 0 if drawn.finished == drawn.total and not drawn.left_out else 1


@dataclass(frozen=True)
class Completed:
    """How many pictures of a sweep are there, of how many; `failures` are (job, error); rows that are `left_out`."""

    finished: int
    total: int
    failures: list[tuple]
    left_out: list[str]


def complete(settings: Settings, workers: int = 0, address: str | None = None) -> Completed:
    """Draw the pictures of a sweep that are missing, and write its report.

    Raises DevError for a list, a model or a disk with which nothing can be drawn.
    """
    from dev.sweep.plan import Plan  # here, as `python dev sweep` runs before the environment exists
    from dev.sweep.report import write_report
    from dev.sweep.results import Results
    from dev.sweep.workers import workers_for

    plan, failures, folder = Plan(settings), [], settings.output
    folder.mkdir(parents=True, exist_ok=True)
    with Results(folder, settings) as results:
        for problem in plan.problems:
            say(f"left out: {problem}")
        total, before = len(plan), sum(map(results.has, plan.jobs()))
        if before:
            say(f"{before} of {total} pictures are there from before.")
        missing = (job for job in plan.jobs() if not results.has(job))
        first = next(missing, None)  # no model is loaded if nothing is missing
        try:
            if first is not None:
                draw(results, workers_for(settings, workers, address), chain([first], missing), total, before, failures)
        except (OSError, sqlite3.Error) as error:
            raise DevError(f"the sweep cannot keep what it draws ({error}): make room, and run it again.") from None
        finally:  # after an error, too, the report shows the pictures that are there
            try:
                write_report(folder, results, plan)
            except (OSError, sqlite3.Error) as error:
                problem = f"the report cannot be written ({error}): make room, and run the sweep again."
                raise DevError(problem) from None
        return Completed(sum(map(results.has, plan.jobs())), total, failures, plan.problems)


def draw(results, workers, jobs, total: int, before: int, failures: list[tuple]) -> None:
    """Have the jobs' pictures drawn, and add them to the results, or (job, error) to `failures`.

    Raises DevError for an error that every job would have, and after MOST_FAILURES failures in a row.
    """
    from tqdm import tqdm

    in_a_row = 0
    with workers, tqdm(total=total, initial=before, unit="picture", smoothing=0.05) as bar:
        for job, outcome in workers.draw(jobs):
            if isinstance(outcome, DevError):
                raise outcome
            if isinstance(outcome, Exception):
                failures.append((job, outcome))
                in_a_row += 1
                if in_a_row == MOST_FAILURES:
                    raise DevError(f"{in_a_row} pictures failed one after the other, the last with: {outcome}")
                continue
            in_a_row = 0
            results.add(job, outcome)
            bar.update()


def settings_from(options: argparse.Namespace):
    """The Settings that the options ask for. Raises DevError for options that do not fit."""
    from pydantic import ValidationError

    from dev.sweep.plan import Settings

    if not options.list.is_file():
        raise DevError(f"there is no prompt list {options.list}: name a CSV or JSON file.")
    if set(options.modes) != {BASE} and not (options.lora or options.forget):
        raise DevError("every mode but base needs a LoRA: add `--lora FILE`, or `--forget PRESET` to train one.")
    fields = {name: getattr(options, name) for name in Settings.model_fields if hasattr(options, name)}
    fields["judge"] = options.model == DEMO if options.judge is None else options.judge
    fields["loras"] = tuple(path.resolve() for path in options.lora)
    fields |= {"output": options.output.resolve(), "list": options.list.resolve()}
    try:
        return Settings(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise DevError(f"--{str(first['loc'][0]).replace('_', '-')} is {first['input']}: {first['msg']}.") from None
