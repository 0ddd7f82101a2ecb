"""Which cells a card is made of: as many classes, then pictures, as fit into a budget of minutes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from unguide.unguide_ops.files.atomic import write_whole

from dev.bench.card.cells import OTHERS_OF_MANY, Cell
from dev.bench.sessions import DEMO, session_of

ORDER = ("cat", "automobile", "ship", "frog", "dog", "truck", "horse", "airplane", "bird", "deer")
"""The classes as they come into a card, fixed before any was measured."""
MANY = (1, 5, 10, 30)  # concepts at once
PROMPT_COST, GATE_COST, ATTACK_COST, WITHOUT_WORDS_COST, MANY_COST = 1500, 100, 1000, 900, 14
"""What a cell takes, in pictures of the base model: with a picture a prompt, three in all, and for each concept."""
TIMED = 4  # pictures
VERSION = 2  # of what cells measure: cells of another version are made anew


def priorities(models: Sequence[str], classes: Sequence[str], pictures: int) -> Iterator[Cell]:
    """All cells, the most important first: two classes on every model, and what there is besides prompts on the first
    model, then on the others; then further classes.
    """
    first, *further = sorted(classes, key=ORDER.index)

    def besides(model: str) -> Iterator[Cell]:
        yield from (Cell(model, part, first, 1) for part in ("attacks", "no words"))
        yield from (Cell(model, "many", str(many), 2) for many in MANY if model == DEMO)

    yield from (Cell(model, "prompts", first, pictures) for model in models)
    yield from (Cell(model, "gate", first, 1) for model in models)
    yield from besides(models[0])
    for number, name in enumerate(further):
        yield from (Cell(model, "prompts", name, pictures) for model in models)
        yield from (Cell(model, "gate", name, 1) for model in models)
        if number == 0:
            yield from (cell for model in models[1:] for cell in besides(model))


def cost(cell: Cell) -> float:
    """What a cell takes, in pictures of its base model."""
    if cell.part == "many":
        return (MANY_COST + 3 * cell.pictures) * (int(cell.concept) + OTHERS_OF_MANY)
    costs = {"prompts": PROMPT_COST * cell.pictures, "gate": GATE_COST, "attacks": ATTACK_COST,
             "no words": WITHOUT_WORDS_COST}  # fmt: skip
    return costs[cell.part]


def cells_within(
    minutes: float, workers: int, seconds: Mapping[str, float], models: Sequence[str], classes: Sequence[str]
) -> list[Cell]:
    """The cells that `workers` can do in so many minutes, at least those of one class on every model.

    `seconds`: what a picture of each base model takes. If all classes fit, each prompt gets more pictures.
    """
    available = 60 * minutes * workers

    def total(cells: Sequence[Cell]) -> float:
        return sum(cost(cell) * seconds[cell.model] for cell in cells)

    everything = list(priorities(models, classes, 1))
    if (pictures := math.floor(available / total(everything))) > 1:
        return list(priorities(models, classes, pictures))
    least = 2 * len(models)
    chosen = everything[:least]
    for cell in everything[least:]:
        if total([*chosen, cell]) <= available:
            chosen.append(cell)
    return chosen


def minutes(cells: Sequence[Cell], seconds: Mapping[str, float], workers: int) -> float:
    """About what the cells take."""
    return sum(cost(cell) * seconds[cell.model] for cell in cells) / 60 / workers


def seconds_of_a_picture(model: str) -> float:
    """A worker's task: what a picture of a base model takes here, while all workers are busy."""
    session = session_of(model)
    session.draw("a photo of the cat", number=1)
    began = time.monotonic()
    session.draw("a photo of the cat", number=TIMED)
    return (time.monotonic() - began) / TIMED


def read_cell(folder: Path, cell: Cell) -> dict | None:
    """The cell's result if it is there, of this version and of as many pictures."""
    path = folder / f"{cell.stem}.json"
    if not path.is_file():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    return stored["result"] if stored["cell"] == {**asdict(cell), "version": VERSION} else None


def found(folder: Path, models: Sequence[str], classes: Sequence[str]) -> dict[Cell, dict]:
    """All cells of these models and classes that are there, in the order of `priorities`."""
    order = {cell.stem: number for number, cell in enumerate(priorities(models, classes, 1))}
    results = {}
    for path in folder.glob("*/*.json"):
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.get("cell", {}).pop("version", None) == VERSION:
            results[Cell(**stored["cell"])] = stored["result"]
    return {
        cell: results[cell] for cell in sorted(results, key=lambda it: order.get(it.stem, -1)) if cell.stem in order
    }


def write_cell(folder: Path, cell: Cell, result: dict) -> None:
    """Keep a cell's result."""
    content = json.dumps({"cell": {**asdict(cell), "version": VERSION}, "result": result}).encode()
    write_whole(folder / f"{cell.stem}.json", content)
