"""`python dev bench NAME` runs one of BENCHMARKS and writes its figures, tables and pictures: see docs/benchmark.md."""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev import ROOT, hosts
from dev.console import DevError, duration, say
from dev.inprocess import start_scratch_host
from dev.sweep import MODES

NEEDS = ("recipe", "browser", "evaluate", "sweep", hosts.FrontEnd(hosts.LATEST).section)  # further sections of pins.ini
BENCHMARKS = {"card": 4, "model": 4, "training": 4, "sampling": 7, "sweep": None, "families": None, "reliability": 4,
              "composition": None}  # fmt: skip
"""A benchmark's name -> the digits that its figures are rounded to.

The module of that name has `measure(bench)`, whose result holds `figures`, and `text(result)`, the report as Markdown.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `bench`."""
    parser.add_argument("what", choices=list(BENCHMARKS), help="the benchmark to run: see docs/benchmark.md")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "bench", help="where the results go")
    parser.add_argument("--weights", type=Path, default=ROOT / "demo_model", help="folder of the embedded model")
    parser.add_argument("--classes", nargs="*", metavar="NAME", help="classes to forget (default: all ten)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument("--models", nargs="+", metavar="NAME",
                        help="card, training: models (default: demo, and those of dev/families/trained)")  # fmt: skip
    parser.add_argument("--budget", type=float, default=30, metavar="MINUTES",
                        help="card: what it may take, about; chooses the number of classes (default: 30)")  # fmt: skip
    card = parser.add_argument_group("card: of a checkpoint of your own")
    card.add_argument("--checkpoint", type=Path, metavar="FILE", help="the checkpoint")
    card.add_argument("--clip", type=Path, metavar="FILE", help="who looks: a CLIP model, as ViT-B-32.safetensors")
    card.add_argument("--captions", type=Path, metavar="LIST", help="prompts for CLIP score and CLIP-FID")
    card.add_argument("--i2p", type=Path, metavar="LIST", help="prompts on which NudeNet counts")
    card.add_argument("--i2p-rows", type=int, metavar="N", help="so many of them at most")
    card.add_argument("--modes", nargs="+", choices=MODES, metavar="MODE", default=MODES,
                      help="of sampling (default: all)")  # fmt: skip
    card.add_argument("--paper-seeds", type=int, default=10, help="of the published rule's probe (default: 10)")
    card.add_argument("--size", type=int, default=512, help="of the pictures, in pixels (default: 512)")
    card.add_argument("--steps", type=int, default=50, help="of sampling (default: 50)")
    parser.add_argument("--ablation", nargs="*", metavar="NAME",
                        help="training: classes of the ablation (default: two)")  # fmt: skip
    parts = ("faults", "load", "untrusted_files", "effect", "injection", "fuzz")  # tests/test_PART.py
    parser.add_argument("--only", nargs="+", choices=parts, default=parts,
                        help="reliability: parts of it (default: all)")  # fmt: skip


@dataclass
class Bench:
    """What a benchmark runs with: the command's options, the classes to forget, and processes that share its tasks."""

    options: argparse.Namespace
    classes: list[str]
    pool: ProcessPoolExecutor

    @property
    def output(self) -> Path:
        """The folder of the results."""
        return self.options.output

    @property
    def folder(self) -> Path:
        """The folder of the embedded model."""
        return self.options.weights.resolve()

    def each(self, label: str, task: Callable, cases: Sequence[Iterable]) -> list:
        """The result of `task(*case)` for each case, in order, under a progress bar."""
        from tqdm import tqdm  # here, as `python dev bench --help` runs before the environment exists

        pending = [self.pool.submit(task, *case) for case in cases]
        for _ in tqdm(as_completed(pending), desc=label, total=len(pending)):
            pass
        return [future.result() for future in pending]

    def each_class(self, label: str, task: Callable, classes: Sequence[str] | None = None) -> dict[str, Any]:
        """Class -> the result of `task(folder, class)`."""
        classes = self.classes if classes is None else classes
        return dict(zip(classes, self.each(label, task, [(self.folder, name) for name in classes]), strict=True))

    def base_pictures(self, prompts: Sequence[str], *number: int) -> dict[str, Any]:
        """Prompt -> its pictures by the base model (`number` of them, or the usual), as floats in [0, 1]."""
        from dev.bench.report import as_floats
        from dev.bench.sessions import draw_base

        drawn = self.each("Drawing", draw_base, [(self.folder, prompt, *number) for prompt in prompts])
        return {prompt: as_floats(pictures) for prompt, pictures in zip(prompts, drawn, strict=True)}


def run(options: argparse.Namespace) -> int:
    """Run the benchmark; 0 if it ran to its end."""
    began = time.monotonic()
    os.environ[hosts.VARIABLE] = str(options.host)  # for the workers, and the processes that benchmarks start
    start_scratch_host(options.host)
    options.output.mkdir(parents=True, exist_ok=True)
    module = importlib.import_module(f"dev.bench.{options.what}")
    with new_pool(options.workers, threads=1) as pool:  # other workers use the other cores
        bench = Bench(options, chosen_classes(options), pool)
        text = save(options.what, bench, module.measure(bench), module.text)
    say(f"{text}\nDone in {duration(time.monotonic() - began)}. Tables and grids: {options.output}")
    return 0


def chosen_classes(options: argparse.Namespace) -> list[str]:
    """The classes to forget. Raises DevError if an option names a class that does not exist."""
    from dev.bench.words import read_words

    known = list(read_words()["classes"])
    chosen = known if options.classes is None else options.classes
    if unknown := {*chosen, *(options.ablation or ())} - set(known):
        raise DevError(f"there is no class {min(unknown)!r}: choose from {', '.join(known)}.")
    return chosen


def chosen_models(options: argparse.Namespace) -> list[str]:
    """The models to measure. Raises DevError if an option names a model that does not exist."""
    from dev.bench.sessions import MODELS

    if unknown := {*(options.models or ())} - {*MODELS}:
        raise DevError(f"there is no model {min(unknown)!r}: choose from {', '.join(MODELS)}.")
    return options.models or list(MODELS)


def new_pool(workers: int, threads: int | None = None) -> ProcessPoolExecutor:
    """Processes with their own ComfyUI and the pack, and torch on so many threads each, or its usual number."""
    path = [folder for folder in sys.path if folder != os.environ[hosts.VARIABLE]]
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), begin_worker, (path, threads))


def begin_worker(path: list[str], threads: int | None) -> None:
    """Prepare a worker process."""
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    sys.path[:] = path  # the main process's has its ComfyUI in it, which would seem to run here already
    start_scratch_host()
    if threads:
        import torch

        torch.set_num_threads(threads)


def end_with(parent: int) -> None:
    """End this process when its parent is gone, killed perhaps: it would finish its task for nobody."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def save(name: str, bench: Bench, result: dict, text: Callable[[dict], str]) -> str:
    """Round the figures, and write NAME.json and NAME.md; return the report."""
    from dev.bench import report

    if (digits := BENCHMARKS[name]) is not None:
        result["figures"] = {figure: round(value, digits) for figure, value in result["figures"].items()}
    markdown = text(result)
    report.write(bench.output / name, result, markdown)
    return markdown
