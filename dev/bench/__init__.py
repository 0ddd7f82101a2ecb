"""`python dev bench model`: measure the embedded model, its judges, and the paper's phenomena on it."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from dev.environment import ROOT
from dev.stages import duration, say

NEEDS = ("recipe",)  # further sections of pins.ini


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench`."""
    parser.add_argument("what", choices=["model"], help="the benchmark to run: see docs/benchmark.md")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "bench", help="where the results go")
    parser.add_argument("--weights", type=Path, default=ROOT / "demo_model", help="folder of the embedded model")
    parser.add_argument("--classes", nargs="*", metavar="NAME", help="classes to forget (default: all ten)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")


def run(options: argparse.Namespace) -> int:
    """Run the benchmark; 0 when it ran to its end."""
    import torch

    from dev.bench import forgetting, model, report
    from dev.bench.studio import draw_base, photo, read_words
    from dev.judge import Panel

    began = time.monotonic()
    options.output.mkdir(parents=True, exist_ok=True)
    folder, words, panel = options.weights.resolve(), read_words(), Panel()
    concepts = json.loads((folder / "config.json").read_text(encoding="utf-8"))["concepts"]
    classes = list(words["classes"]) if options.classes is None else options.classes
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, mp_context=context) as workers:
        prompts = model.prompts_of(words, concepts)
        drawn = each(workers, "Drawing", draw_base, [(folder, prompt) for prompt in prompts])
        pictures = {p: torch.from_numpy(them).float() / 255 for p, them in zip(prompts, drawn, strict=True)}
        figures = model.measure(words, concepts, pictures, panel)
        figures |= model.compare_with_data(words, pictures, panel)
        figures |= report.trust(folder, panel)
        figures["weights_mib"] = model.weights_mib(folder)
        report.grids(options.output, concepts, words, pictures, panel)
        whole = {"figures": {name: round(value, 4) for name, value in figures.items()}}
        report.write(options.output / "model", whole)  # whatever happens to the long part below
        results = each(workers, "Forgetting", forgetting.forget, [(folder, words, name) for name in classes])
    found = dict(zip(classes, results, strict=True))
    whole |= {
        "forgetting": {n: forgetting.accuracies(words, n, it, pictures, panel) for n, it in found.items()},
        "gate_auc": {n: forgetting.gate_aucs(words, n, it) for n, it in found.items()},
        "gate_decisions": {n: forgetting.gate_errors(words, n, it) for n, it in found.items()},
        "recognised": {photo(name): panel.share_recognised(pictures[photo(name)], name) for name in concepts},
        "seconds_total": round(time.monotonic() - began, 1),
    }
    text = report.write(options.output / "model", whole)
    say(f"{text}\nDone in {duration(time.monotonic() - began)}. Tables and grids: {options.output}")
    return 0


def each(workers: ProcessPoolExecutor, what: str, task: Callable, cases: Sequence[Iterable]) -> list:
    """The task's result for each case, in order, under a progress bar."""
    from tqdm import tqdm

    pending = [workers.submit(task, *case) for case in cases]
    for _ in tqdm(as_completed(pending), desc=what, total=len(pending)):
        pass
    return [it.result() for it in pending]
