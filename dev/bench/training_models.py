"""How well training does on every trained model: its part of `bench training`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, median

import numpy as np
from unguide.unguide_ops.metrics.tables import h0

from dev.bench.card.axes import Card
from dev.bench.card.cells import KEY_TIMES, NAMES_TIMES, Cell, draw_prompts
from dev.bench.card.plan import ORDER
from dev.bench.card.prompts import COMPOUND, NAME, NEIGHBOUR, OTHER, SYNONYM, UNSEEN, reference_of
from dev.bench.card.seeing import seen, shares
from dev.bench.card.tables import TITLES
from dev.bench.card.ways import BASE, LORA, OURS
from dev.bench.report import as_floats
from dev.bench.sessions import DEMO, session_of

PARTS = (NAME, SYNONYM, UNSEEN, OTHER, NEIGHBOUR, COMPOUND)
CLASSES_OF_OTHERS = 4  # of the classes, on models other than the embedded one
PICTURES, PICTURES_OF_OTHERS = 2, 1  # of a prompt, or more of the important ones
DRAWS_REFERENCE = 0.25  # the least share in which a model's own pictures of a reference are recognised, to count it


def cases(models: list[str], classes: list[str]) -> list[Cell]:
    """What to train and draw."""
    ordered = sorted(classes, key=ORDER.index)
    return [
        Cell(model, "training", name, PICTURES if model == DEMO else PICTURES_OF_OTHERS)
        for model in models
        for name in (ordered if model == DEMO else ordered[:CLASSES_OF_OTHERS])
    ]


def learn(folder: Path, cell: Cell) -> dict:
    """A worker's task: a new LoRA of a class, and the class's prompts by the base, the LoRA alone, and UnGuidance.

    Returns what `draw_prompts` returns, and `reference_in_base`, the share of the base's own pictures of the reference
    that are recognised, for the seeds that the erased prompts are drawn with.
    """
    (folder / cell.model).mkdir(parents=True, exist_ok=True)
    result = draw_prompts(folder, cell, (BASE, LORA, OURS), PARTS)
    reference, shown = reference_of(cell.concept)
    own = session_of(cell.model).draw(reference, number=NAMES_TIMES * cell.pictures)
    synonyms = sum(row["part"] == SYNONYM and row["way"] == BASE for row in result["rows"])
    same_seeds = [own, *[own[: KEY_TIMES * cell.pictures]] * synonyms]
    recognised = shares(seen(as_floats(np.concatenate(same_seeds))), shown)
    return {**result, "reference_in_base": fmean(recognised)}


def analyse(results: Mapping[Cell, dict]) -> tuple[dict[str, float], list[dict]]:
    """The figures of every model, and a table of them."""
    figures, rows = {}, []
    for model in dict.fromkeys(cell.model for cell in results):
        cells = {cell.concept: result for cell, result in results.items() if cell.model == model}
        of_model = figures_of(Card(cells), list(cells.values()))
        figures |= {f"{model}_{name}": value for name, value in of_model.items()}
        rows.append(
            {"model": TITLES[model], "classes": len(cells), **{name: f"{it:.3f}" for name, it in of_model.items()}}
        )
    return figures, rows


def figures_of(card: Card, results: list[dict]) -> dict[str, float]:
    """A model's figures: means over its classes, of seconds the median.

    `instead_w0` is in units of the base's own pictures of the references.
    """
    lora, ours, base = (card.accuracies(way) for way in (LORA, OURS, BASE))
    drawn = [it for it in results if it["reference_in_base"] >= DRAWS_REFERENCE]
    scores = [
        score / threshold
        for row in card.rows_of(OURS, OTHER)
        for score, threshold in zip(row["score"], row["threshold"], strict=True)
    ]
    gates = {
        "misses": fmean(not it for row in card.rows_of(OURS, NAME, SYNONYM, UNSEEN) for it in row["steered"]),
        "false_alarms": fmean(it for row in card.rows_of(OURS, OTHER, NEIGHBOUR, COMPOUND) for it in row["steered"]),
    }
    return {
        "h0_lora": lora["h0"], "h0_ours": ours["h0"], "ceiling": h0(0.0, base["acc_s"], 0.0),
        "erasure": fmean(it["training"]["erasure"] for it in results),
        **({"instead_w0": fmean(fmean(it["instead"][LORA]["recognised"]) / it["reference_in_base"] for it in drawn)}
           if drawn else {}),
        "calls": fmean(it["training"]["calls"] for it in results),
        "seconds": median(it["training"]["seconds"] for it in results),
        "highest_other_score": max(scores), "mean_other_score": fmean(scores), **gates,
    }  # fmt: skip
