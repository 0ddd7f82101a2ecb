"""`python dev bench NAME` (see BENCHMARKS): measure the embedded model and its judges, what training achieves on it,
what a gate can tell, what sampling costs, how well each way forgets, under attack too, whether a sweep loses nothing,
whether every model family works, what happens when something goes wrong, and what it works with.
"""

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
from dev.stages import DevError, duration, say

NEEDS = ("recipe", "browser")  # further sections of pins.ini


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `bench`."""
    parser.add_argument("what", choices=list(BENCHMARKS), help="the benchmark to run: see docs/benchmark.md")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "bench", help="where the results go")
    parser.add_argument("--weights", type=Path, default=ROOT / "demo_model", help="folder of the embedded model")
    parser.add_argument("--classes", nargs="*", metavar="NAME", help="classes to forget (default: all ten)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument(
        "--ablation", nargs="*", metavar="NAME", help="training: classes of the ablation (default: two)"
    )
    parts = ("faults", "load", "strangers", "unsteered", "injections", "fuzz")
    parser.add_argument(
        "--only", nargs="+", choices=parts, default=parts, help="reliability: parts of it (default: all)"
    )
    parser.add_argument(
        "--fuzz-minutes",
        type=float,
        default=10.0,
        metavar="N",
        help="reliability: fuzzing of each parser (default: 10)",
    )


def run(options: argparse.Namespace) -> int:
    """Run the benchmark; 0 when it ran to its end."""
    from dev.bench.studio import read_words

    began = time.monotonic()
    options.output.mkdir(parents=True, exist_ok=True)
    folder, words = options.weights.resolve(), read_words()
    classes = list(words["classes"]) if options.classes is None else options.classes
    unknown = {*classes, *(options.ablation or ())} - set(words["classes"])
    if unknown:
        raise DevError(f"there is no class {min(unknown)!r}: choose from {', '.join(words['classes'])}.")
    with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as workers:
        text = BENCHMARKS[options.what](workers, options, folder, words, classes)
    say(f"{text}\nDone in {duration(time.monotonic() - began)}. Tables and grids: {options.output}")
    return 0


def run_model(workers, options: argparse.Namespace, folder: Path, words: dict, classes: list[str]) -> str:
    """`bench model`; the report's text."""
    import torch

    from dev.bench import forgetting, model, report
    from dev.bench.studio import draw_base, photo
    from dev.judge import Panel

    panel = Panel()
    concepts = json.loads((folder / "config.json").read_text(encoding="utf-8"))["concepts"]
    prompts = model.prompts_of(words, concepts)
    drawn = each(workers, "Drawing", draw_base, [(folder, prompt) for prompt in prompts])
    pictures = {p: torch.from_numpy(them).float() / 255 for p, them in zip(prompts, drawn, strict=True)}
    figures = model.measure(words, concepts, pictures, panel)
    figures |= model.compare_with_data(words, pictures, panel)
    figures |= report.trust(folder, panel)
    figures["weights_mib"] = model.weights_mib(folder)
    report.grids(options.output, concepts, words, pictures, panel)
    whole: dict = {"figures": {name: round(value, 4) for name, value in figures.items()}}
    report.write(options.output / "model", whole, report.text(whole))  # whatever happens to the long part below
    if classes:
        results = each(workers, "Forgetting", forgetting.forget, [(folder, words, name) for name in classes])
        found = dict(zip(classes, results, strict=True))
        whole |= {
            "forgetting": {n: forgetting.accuracies(words, n, it, pictures, panel) for n, it in found.items()},
            "gate_decisions": {n: forgetting.gate_errors(words, n, it) for n, it in found.items()},
            "recognised": {photo(name): panel.share_recognised(pictures[photo(name)], name) for name in concepts},
        }
        report.write(options.output / "model", whole, report.text(whole))
    return report.text(whole)


def run_training(workers, options: argparse.Namespace, folder: Path, words: dict, classes: list[str]) -> str:
    """`bench training`; the report's text."""
    from dev.bench import report, training

    ablation = training.ABLATION_CLASSES if options.ablation is None else options.ablation
    whole = training.measure(workers, each, folder, words, classes, list(ablation))
    whole.pop("grid").save(options.output / "training.png")
    whole["figures"] = {name: round(value, 4) for name, value in whole["figures"].items()}
    text = training.text(whole)
    report.write(options.output / "training", whole, text)
    return text


def run_gate(workers, options: argparse.Namespace, folder: Path, words: dict, classes: list[str]) -> str:
    """`bench gate`; the report's text."""
    import torch

    from dev.bench import gate, report
    from dev.bench.studio import draw_base

    results = each(workers, "Looking", gate.look, [(folder, words, name) for name in classes])
    found = dict(zip(classes, results, strict=True))
    tested = gate.tested(found)
    drawn = each(workers, "Drawing", draw_base, [(folder, prompt, gate.DRAWN) for prompt in tested])
    pictures = {p: torch.from_numpy(them).float() / 255 for p, them in zip(tested, drawn, strict=True)}
    gate.judge(found, pictures)
    whole = gate.measure(found)
    whole["figures"] = {name: round(value, 4) for name, value in whole["figures"].items()}
    gate.chart(found, options.output / "gate.png")
    gate.doubtful(found, pictures).save(options.output / "gate-doubt.png")
    text = gate.text(whole)
    report.write(options.output / "gate", whole, text)
    raw = {
        name: {
            "parts": it["parts"],
            "drawn": it["drawn"],
            **{
                profile: {key: it[profile][key] for key in ("scores", "texts", "decisions")}
                for profile in gate.PROFILES
            },
        }
        for name, it in found.items()
    }
    (options.output / "gate-scores.json").write_text(json.dumps(raw), encoding="utf-8")
    return text


def run_sampling(workers, options: argparse.Namespace, folder: Path, words: dict, classes: list[str]) -> str:
    """`bench sampling`; the report's text."""
    from dev.bench import report, sampling

    whole = sampling.measure(workers, each, folder, words, options.classes or list(sampling.CLASSES))
    whole.pop("grid").save(options.output / "sampling.png")
    whole["figures"] = {name: round(value, 7) for name, value in whole["figures"].items()}
    text = sampling.text(whole)
    report.write(options.output / "sampling", whole, text)
    return text


def run_quality(workers, options: argparse.Namespace, folder: Path, words: dict, classes: list[str]) -> str:
    """`bench quality`; the report's text."""
    from dev.bench import quality, report

    whole = quality.measure(workers, each, folder, words, classes)
    for grid, name in (("grid", "quality"), ("attack_grid", "attacks")):
        if picture := whole.pop(grid):
            picture.save(options.output / f"{name}.png")
    whole["figures"] = {name: round(value, 4) for name, value in whole["figures"].items()}
    text = quality.text(whole)
    report.write(options.output / "quality", whole, text)
    return text


def run_sweep(workers, options: argparse.Namespace, folder: Path, words: dict, classes: list[str]) -> str:
    """`bench sweep`; the report's text."""
    from dev.bench import report, sweep

    whole = sweep.measure(options.output / "sweep", options.host)
    text = sweep.text(whole)
    report.write(options.output / "sweep", whole, text)
    return text


def run_families(workers, options: argparse.Namespace, folder: Path, words: dict, classes: list[str]) -> str:
    """`bench families`; the report's text."""
    from dev.bench import families, report

    whole = families.measure(workers, each)
    text = families.text(whole)
    report.write(options.output / "families", whole, text)
    return text


def run_reliability(workers, options: argparse.Namespace, folder: Path, words: dict, classes: list[str]) -> str:
    """`bench reliability`; the report's text."""
    from dev.bench import reliability

    path = options.output / "reliability"
    return reliability.text(reliability.measure(workers, each, path, options.host, options.only, options.fuzz_minutes))


def run_composition(workers, options: argparse.Namespace, folder: Path, words: dict, classes: list[str]) -> str:
    """`bench composition`; the report's text. Writes the table of docs/sampling.md as well."""
    from dev.bench import composition, report

    whole = composition.measure(workers, each, folder, options.output)
    text = composition.text(whole)
    report.write(options.output / "composition", whole, text)
    composition.write_page(ROOT / "docs" / "sampling.md", whole)
    return text


BENCHMARKS = {"model": run_model, "training": run_training, "gate": run_gate, "sampling": run_sampling,
              "quality": run_quality, "sweep": run_sweep, "families": run_families,
              "reliability": run_reliability, "composition": run_composition}  # fmt: skip


def each(workers: ProcessPoolExecutor, what: str, task: Callable, cases: Sequence[Iterable]) -> list:
    """The task's result for each case, in order, under a progress bar."""
    from tqdm import tqdm

    pending = [workers.submit(task, *case) for case in cases]
    for _ in tqdm(as_completed(pending), desc=what, total=len(pending)):
        pass
    return [it.result() for it in pending]
