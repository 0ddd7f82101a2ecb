"""The card of a checkpoint, by its owner: sweeps of the ten classes, captions and I2P rows, beside published figures.

`python dev bench card --checkpoint FILE --clip FILE [--i2p CSV]`. Every sweep goes on where it was stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from unguide.unguide_ops.metrics.clip import Clip
from unguide.unguide_ops.metrics.fid import clip_fid

from dev import ROOT
from dev.bench import Bench
from dev.bench.card.plan import ORDER
from dev.bench.card.prompts import CAPTIONS, words_of
from dev.bench.card.ways import LABELS
from dev.bench.report import table
from dev.console import DevError, duration, say
from dev.device import CPU, chosen
from dev.sweep import BASE, HALF, LORA, OURS, PAPER, complete
from dev.sweep.plan import Plan, RenderJob, Settings
from dev.sweep.workers import RenderWorker

CLASSES, NEGATIVE, CAPTION_LIST, I2P = "classes", "negative prompt", "captions", "i2p"
COST = {BASE: 1.0, LORA: 1.0, HALF: 2.0, PAPER: 2.0, OURS: 1.3}
"""Of plain sampling, model calls by mode."""
PROBE_CALLS = 44  # of the published rule, for each of its seeds
TRAINING_CALLS = 900
TIMED_STEPS = 3
MEASURES = ("acc_e", "acc_s", "acc_g", "h0")
PUBLISHED = {
    "SD v1.4": (98.63, 98.63, 83.64, None, 743), "UnGuide": (6.54, 98.65, 7.67, 94.77, None),
    "MACE": (8.49, 97.35, 10.53, 92.61, 111), "UCE": (13.54, 98.45, 23.18, 85.48, 182),
    "ESD-u": (18.27, 86.76, 16.26, 83.69, 123), "ESD-x": (26.93, 97.32, 31.61, 76.91, 315),
    "SLD-M": (84.14, 98.54, 67.35, 26.32, 212),
}  # fmt: skip
"""Of SD v1.4, in %, as UnGuide (arXiv 2508.05755) and MACE print them: Acc_e, Acc_s, Acc_g, H0; NudeNet's count on
I2P."""


@dataclass(frozen=True)
class Sweep:
    """One sweep of the card: what it is for, and of which class."""

    kind: str
    concept: str
    settings: Settings


def sweeps(options, classes: list[str], seeds: int) -> Iterator[Sweep]:
    """All sweeps for these classes, with so many pictures a prompt."""
    shared = {
        "host": options.host, "model": str(options.checkpoint.resolve()), "judge": False, "steps": options.steps,
        "width": options.size, "height": options.size, "seeds": seeds, "clip": str(options.clip.resolve()),
        "paper_seeds": options.paper_seeds, "device": CPU if chosen() == CPU else "gpu",
    }  # fmt: skip
    folder = options.output.resolve() / "checkpoint" / options.checkpoint.stem

    def sweep(kind: str, concept: str, prompts: Path, **changes) -> Sweep:
        output = folder / f"{kind}-{concept}".replace(" ", "-")
        return Sweep(kind, concept, Settings(**{**shared, "output": output, "list": prompts.resolve(), **changes}))

    for name in classes:
        prompts = ROOT / "prompts" / f"{name}.json"
        yield sweep(CLASSES, name, prompts, forget=(name,), modes=tuple(options.modes))
        yield sweep(NEGATIVE, name, prompts, modes=(BASE,), negative=words_of(name))
    yield sweep(CAPTION_LIST, classes[0], options.captions or CAPTIONS, forget=(classes[0],), modes=(BASE, LORA, OURS))
    if options.i2p:
        yield sweep(I2P, "nudity", options.i2p, forget=("nudity",), modes=(BASE, LORA, OURS), nudity=True, seeds=1,
                    clip=None, limit=options.i2p_rows)  # fmt: skip


def calls(sweep: Sweep) -> float:
    """About the model calls of a sweep."""
    settings, plain = sweep.settings, 2 * sweep.settings.steps
    rows = sum(1 for _ in Plan(settings).rows()) * settings.seeds
    of_modes = sum(COST[mode] * plain + (PROBE_CALLS * settings.paper_seeds if mode == PAPER else 0)
                   for mode in settings.modes)  # fmt: skip
    return rows * of_modes + TRAINING_CALLS * len(settings.forget)


def measure(bench: Bench) -> dict:
    """`tables` of the checkpoint's own figures by mode, and the estimate of the time that was given at the start."""
    options = bench.options
    for name in ("checkpoint", "clip", "i2p", "captions"):
        path = getattr(options, name)
        if name in ("checkpoint", "clip") and path is None:
            raise DevError(f"the card of a checkpoint needs `--{name} FILE`.")
        if path is not None and not path.is_file():
            raise DevError(f"there is no file {path}: `--{name}` names one.")
    seconds = seconds_of_a_call(next(sweeps(options, [ORDER[0]], 1)).settings)
    classes, seeds = within(options, bench.classes, seconds)
    chosen_sweeps = list(sweeps(options, classes, seeds))
    estimate = seconds * sum(map(calls, chosen_sweeps))
    say(f"{', '.join(classes)}; {seeds} pictures a prompt: about {duration(estimate)}.")
    for sweep in chosen_sweeps:
        say(f"{sweep.kind}: {sweep.concept}")
        drawn = complete(sweep.settings)
        if drawn.failures:
            raise DevError(f"{len(drawn.failures)} pictures failed, the first with: {drawn.failures[0][1]}")
    return {"checkpoint": options.checkpoint.name, "clip": options.clip.name, "classes": classes, "seeds": seeds,
            "steps": options.steps, "size": options.size, "figures": {"estimated_seconds": estimate},
            "tables": {"classes": class_rows(chosen_sweeps), "captions": caption_rows(chosen_sweeps, options.clip),
                       "i2p": i2p_rows(chosen_sweeps)}}  # fmt: skip


def within(options, classes: list[str], seconds: float) -> tuple[list[str], int]:
    """As many classes as fit into the budget, at least one; if all do, as many pictures a prompt."""
    ordered, available = sorted(classes, key=ORDER.index), 60 * options.budget

    def takes(number: int, seeds: int) -> float:
        return seconds * sum(map(calls, sweeps(options, ordered[:number], seeds)))

    number = max([1, *(n for n in range(1, len(ordered) + 1) if takes(n, 1) <= available)])
    seeds = max(1, math.floor(available / takes(number, 1))) if number == len(ordered) else 1
    return ordered[:number], seeds


def seconds_of_a_call(settings: Settings) -> float:
    """What a model call takes here, by a short picture of the base model."""
    worker = RenderWorker(settings.model_copy(update={"steps": TIMED_STEPS, "clip": None}))
    job = RenderJob(0, "a photo of the cat", "timed", 0, settings.cfg, BASE, "", {})
    for _ in range(2):  # the first loads the model
        began = time.monotonic()
        outcome = worker.draw(job)
        if isinstance(outcome, Exception):
            raise DevError(str(outcome))
    return (time.monotonic() - began) / (2 * TIMED_STEPS)


def summary(sweep: Sweep) -> list[dict]:
    """The summary in a sweep's report, an entry a LoRA and mode."""
    return json.loads((sweep.settings.output / "report.json").read_text(encoding="utf-8"))["summary"]


def class_rows(chosen_sweeps: list[Sweep]) -> list[dict]:
    """A row for each way: accuracies by CLIP, each under its name, means over the classes; and model calls."""
    entries: dict[str, list[dict]] = {}
    for sweep in chosen_sweeps:
        if sweep.kind in (CLASSES, NEGATIVE):
            for entry in summary(sweep):
                entries.setdefault(sweep.kind if sweep.kind == NEGATIVE else LABELS[entry["mode"]], []).append(entry)
    rows = []
    for label, of_way in entries.items():
        row = {"sampling": label, "model calls": f"{fmean(entry['evaluations'] for entry in of_way):.1f}"}
        for name in of_way[0].get("accuracies", {}):
            terms = [
                fmean(entry["accuracies"][name][key] for entry in of_way) for key in ("acc_e", "acc_s", "acc_g", "h0")
            ]
            row[name] = " / ".join(f"{100 * term:.1f}" for term in terms)
        rows.append(row)
    return rows


def caption_rows(chosen_sweeps: list[Sweep], clip: Path) -> list[dict]:
    """A row for each way on the caption list: CLIP score, CLIP-FID to the base's pictures, share that is steered."""
    (sweep,) = [it for it in chosen_sweeps if it.kind == CAPTION_LIST]
    pictures, network = sweep.settings.output / "pictures", Clip(clip)
    rows = []
    for entry in summary(sweep):
        folder = pictures / entry["lora"] / entry["mode"]
        distance = None if entry["mode"] == BASE else clip_fid(folder, pictures / BASE, network)
        rows.append({"sampling": LABELS[entry["mode"]], "CLIP score": entry.get("clip_score"), "CLIP-FID": distance,
                     "steered": entry["steered"], "model calls": entry["evaluations"]})  # fmt: skip
    return rows


def i2p_rows(chosen_sweeps: list[Sweep]) -> list[dict]:
    """A row for each way on the I2P rows: exposed parts that NudeNet detects; nothing without such a list."""
    return [
        {"sampling": LABELS[entry["mode"]], "pictures": entry["pictures"],
         "exposed parts": int(entry.get("nudity", {}).get("exposed", 0)), "steered": entry["steered"]}
        for sweep in chosen_sweeps if sweep.kind == I2P
        for entry in summary(sweep)
    ]  # fmt: skip


def text(result: dict) -> str:
    """The report as Markdown: our tables, then what is published, which are of other programs."""
    published = [
        {"published": name, "Acc_e": acc_e, "Acc_s": acc_s, "Acc_g": acc_g, "H0": h0, "NudeNet on I2P": nudity}
        for name, (acc_e, acc_s, acc_g, h0, nudity) in PUBLISHED.items()
    ]
    setting = f"{result['seeds']} pictures a prompt, {result['steps']} steps, {result['size']} px"
    paragraphs = [
        f"`{result['checkpoint']}`, judged by `{result['clip']}`: {', '.join(result['classes'])}; {setting}. Acc_e / "
        "Acc_s / Acc_g / H0 in %, after MACE's protocol, by CLIP among ten or thirteen names:",
        table(result["tables"]["classes"]),
        "Captions:",
        table(result["tables"]["captions"]),
    ]
    if result["tables"]["i2p"]:
        paragraphs += ["I2P, NudeNet's detections of 0.6 confidence at least:", table(result["tables"]["i2p"])]
    warning = "Published, with other programs, pictures and numbers of them (arXiv 2508.05755, 2403.06135):"
    return "\n\n".join([*paragraphs, warning, table(published, ".2f")]) + "\n"
