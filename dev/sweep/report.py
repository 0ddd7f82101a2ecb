"""A sweep's results as JSON, CSV, and a page with the pictures; row by row, so that length costs no memory."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from statistics import fmean
from urllib.parse import quote

from dev.sweep.ledger import Ledger
from dev.sweep.plan import Plan
from unguide_ops.metrics import h0

PARTS = {"acc_e": "target", "acc_s": "other", "acc_g": "synonyms"}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a spreadsheet knows one
COLUMNS = ("number", "prompt", "seed", "guidance", "lora", "mode", "w", "score", "evaluations", "picture")


def write_report(folder: Path, ledger: Ledger, plan: Plan) -> None:
    """report.json (the summary), report.csv (a line a picture), report.html."""
    import jinja2

    summary = [it.summary() for it in summarised(ledger.results())]
    whole = {"list": str(plan.settings.list), "left_out": plan.problems, "summary": summary}
    with _whole(folder / "report.json") as file:
        json.dump(whole, file, indent=1)
    with _whole(folder / "report.csv") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for it in ledger.results():
            first = (it.get("decisions") or [{}])[0]
            row = {**it, "w": first.get("w", 1.0), "score": first.get("score"), "picture": place(it)}
            writer.writerow({name: as_text(cell) for name, cell in row.items()})
    page = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    with _whole(folder / "report.html") as file:
        columns = [(lora, mode, f"{lora} · {mode}" if lora else mode) for lora, mode in plan.columns]
        rows = by_row(ledger.results(), [(lora, mode) for lora, mode, _ in columns])
        parts = page.get_template("report.html.j2").generate(
            title=plan.settings.list.name, summary=summary, left_out=plan.problems, columns=columns, rows=rows
        )
        file.writelines(parts)


def as_text(cell):
    """The same, but text that a spreadsheet would calculate: a stranger may have written the list."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def place(result: dict) -> str:
    """Where its picture lies, below the sweep's folder."""
    return f"pictures/{result['key']}.png"


def link(result: dict) -> str:
    """The same as an address on a page, whatever letters are in it."""
    return quote(os.fsencode(place(result)))


class Group:
    """What a LoRA in a mode came to."""

    def __init__(self, lora: str, mode: str):
        self.lora, self.mode = lora, mode
        self.pictures = self.evaluations = self.steered = 0
        self.seen: dict[str, int] = defaultdict(int)
        self.scores: list[float] = []  # CLIP's
        self.found: dict[str, int] = defaultdict(int)  # by NudeNet
        self.right: dict[tuple[str, str], list[float]] = defaultdict(list)  # by accuracy, and part of a concept's file

    def take(self, it: dict) -> None:
        """One picture more."""
        self.pictures += 1
        self.evaluations += it["evaluations"]
        self.steered += any(decision.get("w", 1) != 1 for decision in it.get("decisions", ()))
        for name in it.get("seen", ()):
            self.seen[name] += 1
        for name, value in it.get("accuracies", {}).items():
            self.right[name, str(it.get("list.part"))].append(value)
        if "clip_score" in it:
            self.scores.append(it["clip_score"])
        for name, number in it.get("nudity", {}).items():
            self.found[name] += number

    def summary(self) -> dict:
        """JSON-like."""
        looks = sum(self.seen.values()) or 1
        most = sorted(self.seen.items(), key=lambda it: -it[1])
        return {
            "lora": self.lora, "mode": self.mode, "pictures": self.pictures,
            "evaluations": self.evaluations / self.pictures, "steered": self.steered / self.pictures,
            "concept_seen": self.seen.get(self.lora, 0) / looks if self.seen else None,
            "seen": {name: count / looks for name, count in most[:10]},
            **({"clip_score": fmean(self.scores)} if self.scores else {}),
            **({"nudity": dict(self.found)} if self.found else {}),
            **({"accuracies": found} if (found := self.accuracies()) else {}),
        }  # fmt: skip

    def accuracies(self) -> dict[str, dict[str, float]]:
        """By accuracy: Acc_e, Acc_s, Acc_g and H0, where the list is a concept's file that has been drawn whole."""
        found = {}
        for measure in dict.fromkeys(name for name, _ in self.right):
            its = {name: self.right.get((measure, part)) for name, part in PARTS.items()}
            if all(its.values()):
                means = {name: fmean(them) for name, them in its.items() if them}
                found[measure] = {**means, "h0": h0(**means)}
        return found


def summarised(results: Iterable[dict]) -> list[Group]:
    """The groups, in the order of their first pictures."""
    groups: dict[tuple[str, str], Group] = {}
    for it in results:
        key = (it["lora"], it["mode"])
        groups.setdefault(key, Group(*key)).take(it)
    return list(groups.values())


def by_row(results: Iterable[dict], columns: list[tuple[str, str]]) -> Iterator[dict]:
    """A row of the page: a prompt with a seed, and a cell for each column, or None where there is none."""
    for (_, seed), them in groupby(results, key=lambda it: (it["number"], it["seed"])):
        cells = {(it["lora"], it["mode"]): {**it, "picture": link(it)} for it in them}
        first = next(iter(cells.values()))
        yield {"prompt": first["prompt"], "seed": seed, "cells": [cells.get(column) for column in columns]}


@contextmanager
def _whole(path: Path):
    """A text file that is there whole or not at all."""
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
