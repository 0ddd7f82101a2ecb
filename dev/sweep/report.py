"""A sweep's results as JSON, CSV, and a page with the pictures; row by row, so that length costs no memory."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from statistics import fmean
from urllib.parse import quote

import jinja2
from unguide.unguide_ops.metrics.tables import overall

from dev.sweep.plan import Plan
from dev.sweep.results import Results

PARTS = {"target": "erased", "other": "other", "synonyms": "synonym"}
"""A row's `part` in a concept's file -> that of a reading in `metrics.tables`."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # the beginnings of a spreadsheet's formula
COLUMNS = ("number", "prompt", "seed", "guidance", "lora", "mode", "w", "score", "evaluations", "picture")


def write_report(folder: Path, results: Results, plan: Plan) -> None:
    """Write report.json (the summary), report.csv (a line per picture) and report.html."""
    summary = [group.summary() for group in summarised(results.read())]
    with _atomic(folder / "report.json") as file:
        json.dump({"list": str(plan.settings.list), "left_out": plan.problems, "summary": summary}, file, indent=1)
    with _atomic(folder / "report.csv") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for result in results.read():
            first = (result.get("decisions") or [{}])[0]
            row = {**result, "w": first.get("w", 1.0), "score": first.get("score"), "picture": picture_file(result)}
            writer.writerow({name: as_text(cell) for name, cell in row.items()})
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    with _atomic(folder / "report.html") as file:
        columns = [(lora, mode, f"{lora} \u00b7 {mode}" if lora else mode) for lora, mode in plan.columns]
        file.writelines(templates.get_template("report.html.j2").generate(
            title=plan.settings.list.name, summary=summary, left_out=plan.problems, columns=columns,
            rows=page_rows(results.read(), plan.columns),
        ))  # fmt: skip


def as_text(cell):
    """The cell, quoted if a spreadsheet would calculate it: a list may come from anywhere."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def picture_file(result: dict) -> str:
    """The path of a result's picture below the sweep's folder."""
    return f"pictures/{result['key']}.png"


class Group:
    """The results of a LoRA in a mode, as sums."""

    def __init__(self, lora: str, mode: str):
        self.lora, self.mode = lora, mode
        self.pictures = self.evaluations = self.steered = 0
        self.seen: Counter[str] = Counter()
        self.clip_scores: list[float] = []
        self.nudity: Counter[str] = Counter()
        self.values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))  # accuracy -> part

    def add(self, result: dict) -> None:
        """Count one picture more."""
        self.pictures += 1
        self.evaluations += result["evaluations"]
        self.steered += any(decision.get("w", 1) != 1 for decision in result.get("decisions", ()))
        self.seen.update(result.get("seen", ()))
        self.nudity.update(result.get("nudity", {}))
        for name, value in result.get("accuracies", {}).items():
            self.values[name][str(result.get("list.part"))].append(value)
        if "clip_score" in result:
            self.clip_scores.append(result["clip_score"])

    def summary(self) -> dict:
        """The group as JSON data."""
        answers = self.seen.total() or 1
        return {
            "lora": self.lora, "mode": self.mode, "pictures": self.pictures,
            "evaluations": self.evaluations / self.pictures, "steered": self.steered / self.pictures,
            "concept_seen": self.seen[self.lora] / answers if self.seen else None,
            "seen": {name: count / answers for name, count in self.seen.most_common(10)},
            **({"clip_score": fmean(self.clip_scores)} if self.clip_scores else {}),
            **({"nudity": dict(self.nudity)} if self.nudity else {}),
            **({"accuracies": accuracies} if (accuracies := self.accuracies()) else {}),
        }  # fmt: skip

    def accuracies(self) -> dict[str, dict[str, float]]:
        """Accuracy -> Acc_e, Acc_s, Acc_g and H0, if the list is a concept's file with all its parts drawn."""
        rows = {}
        for name, by_part in self.values.items():
            means = [{"part": PARTS[part], "recognised": fmean(it)} for part, it in by_part.items() if part in PARTS]
            with suppress(ValueError):  # a part has no pictures
                (rows[name],) = overall(means)
        return rows


def summarised(results: Iterable[dict]) -> list[Group]:
    """The groups, in the order of their first pictures."""
    groups: dict[tuple[str, str], Group] = {}
    for result in results:
        key = (result["lora"], result["mode"])
        groups.setdefault(key, Group(*key)).add(result)
    return list(groups.values())


def page_rows(results: Iterable[dict], columns: list[tuple[str, str]]) -> Iterator[dict]:
    """The rows of the page: a prompt with a seed, and a cell for each column, None without a picture.

    A cell's `picture` is its address on the page, whatever characters are in it.
    """
    for (_, seed), group in groupby(results, key=lambda result: (result["number"], result["seed"])):
        cells = {(it["lora"], it["mode"]): {**it, "picture": quote(os.fsencode(picture_file(it)))} for it in group}
        prompt = next(iter(cells.values()))["prompt"]
        yield {"prompt": prompt, "seed": seed, "cells": [cells.get(column) for column in columns]}


@contextmanager
def _atomic(path: Path):
    """A text file that is there with its whole content or not at all."""
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
