"""`python dev sweep`: a list of prompts x LoRAs x modes x seeds, drawn on the real host without its server.

It goes on where it was stopped, however it was stopped: see `ledger`. Several devices or machines: see `crew`.
"""

from __future__ import annotations

import argparse
import sqlite3
import time
from itertools import chain
from pathlib import Path

from pydantic import ValidationError

from dev.environment import ROOT
from dev.stages import DevError, duration, say
from dev.sweep.plan import DEMO, MODES, Plan, Settings

NEEDS: tuple[str, ...] = ("evaluate", "sweep")
LISTS = ROOT / "prompts" / "lists"
MOST_FAILURES = 10  # one after the other


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sweep`."""
    own = {name: field.default for name, field in Settings.model_fields.items()}
    parser.add_argument("list", type=Path, nargs="?", default=LISTS / "everyday.csv",
                        help="CSV (columns prompt, evaluation_seed, evaluation_guidance) or JSON")  # fmt: skip
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "sweep", help="where everything goes")
    parser.add_argument("--model", default=DEMO, help=f"a checkpoint file, or {DEMO!r}, the embedded model")
    parser.add_argument("--lora", type=Path, nargs="+", default=[], metavar="FILE", help="concept LoRAs to compare")
    parser.add_argument("--forget", nargs="+", default=[], metavar="PRESET", help="train these first, once")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["base", "lora", "ours"], help="how to sample")
    parser.add_argument("--seeds", type=int, default=own["seeds"], help="pictures a row, from its seed on")
    parser.add_argument("--offset", type=int, default=0, help="skip so many rows")
    parser.add_argument("--limit", type=int, help="draw so many rows at most")
    for name, kind in (("steps", int), ("cfg", float), ("sampler", str), ("scheduler", str), ("width", int),
                       ("height", int), ("paper_seeds", int), ("negative", str)):  # fmt: skip
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=own[name],
                            help=f"default: {own[name]!r}")  # fmt: skip
    parser.add_argument("--judge", action=argparse.BooleanOptionalAction, default=None,
                        help="let the demo model's judges look (default: with the embedded model)")  # fmt: skip
    parser.add_argument("--clip", metavar="ARCHITECTURE", help="CLIP scores, by models/open_clip/ARCHITECTURE")
    parser.add_argument("--nudity", action="store_true", help="count what NudeNet detects")
    parser.add_argument("--workers", type=int, default=0,
                        help="so many at a time, by Ray (default: one, in this process)")  # fmt: skip
    parser.add_argument("--address", help="of a Ray cluster that is there, such as auto")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="where the model runs (default: cpu)")


def run(options: argparse.Namespace) -> int:
    """Draw what is not drawn yet; 0 when every row of the list is done."""
    from dev.sweep.crew import crew_of
    from dev.sweep.ledger import Ledger

    began = time.monotonic()
    settings = settings_from(options)
    plan = Plan(settings)
    options.output.mkdir(parents=True, exist_ok=True)
    with Ledger(options.output, settings) as ledger:
        for problem in plan.problems:
            say(f"left out: {problem}")
        total, before = len(plan), sum(map(ledger.has, plan.jobs()))
        if before:
            say(f"{before} of {total} pictures are there from before.")
        missing = (job for job in plan.jobs() if not ledger.has(job))
        first = next(missing, None)  # before a model is loaded for nothing
        failures: list[tuple] = []
        try:
            if first is not None:
                crew = crew_of(settings, options.workers, options.address)
                draw(ledger, crew, chain([first], missing), total, before, failures)
        except (OSError, sqlite3.Error) as error:
            raise DevError(f"the sweep cannot keep what it draws ({error}): make room, and run it again.") from None
        finally:  # whatever happened: what is there is reported
            _report(options.output, ledger, plan)
        done = sum(map(ledger.has, plan.jobs()))
    for job, error in failures[:MOST_FAILURES]:
        say(f"failed: {job.key}: {error}")
    say(f"{done} of {total} pictures in {duration(time.monotonic() - began)}: {options.output / 'report.html'}")
    return 0 if done == total and not plan.problems else 1


def _report(folder: Path, ledger, plan: Plan) -> None:
    from dev.sweep.report import write_report

    try:
        write_report(folder, ledger, plan)
    except (OSError, sqlite3.Error) as error:
        raise DevError(f"the report cannot be written ({error}): make room, and run the sweep again.") from None


def draw(ledger, crew, jobs, total: int, before: int, failures: list[tuple]) -> None:
    """Have the jobs done and entered; those that failed are added to `failures`, with the reason."""
    from tqdm import tqdm

    row = 0
    with crew, tqdm(total=total, initial=before, unit="picture", smoothing=0.05) as bar:
        for job, drawn in crew.draw(jobs):
            if isinstance(drawn, DevError):  # no row would fare better
                raise drawn
            if isinstance(drawn, Exception):
                failures.append((job, drawn))
                row += 1
                if row == MOST_FAILURES:
                    raise DevError(f"{row} pictures failed one after the other, the last with: {drawn}")
                continue
            row = 0
            ledger.enter(job, drawn)
            bar.update()


def settings_from(options: argparse.Namespace) -> Settings:
    """What the pictures depend on."""
    if not options.list.is_file():
        raise DevError(f"there is no prompt list {options.list}: name a CSV or JSON file.")
    if set(options.modes) != {"base"} and not (options.lora or options.forget):
        raise DevError("every mode but base needs a LoRA: add `--lora FILE`, or `--forget PRESET` to train one.")
    own = {name: getattr(options, name) for name in Settings.model_fields if hasattr(options, name)}
    judge = options.model == DEMO if options.judge is None else options.judge
    loras = tuple(path.resolve() for path in options.lora)
    own |= {"judge": judge, "loras": loras, "host": options.host, "output": options.output.resolve(),
            "list": options.list.resolve()}  # fmt: skip
    try:
        return Settings(**own)
    except ValidationError as error:
        first = error.errors()[0]
        raise DevError(f"--{str(first['loc'][0]).replace('_', '-')} is {first['input']}: {first['msg']}.") from None
