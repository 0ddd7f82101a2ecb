"""Tables from readings of many pictures: means and overall scores by group, and Markdown.

A reading is a dict about one picture, as in the reports of `evaluation`; a table is a list of rows, a dict each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ..safe_text import without_markup
from .accuracy import h0

PARTS = {"acc_e": "erased", "acc_s": "other", "acc_g": "synonym"}
"""An accuracy -> the `part` of the readings that it is about: the erased class, the other classes, its synonyms."""

Row = dict[str, Any]


def groups(readings: Iterable[Mapping], keys: Sequence[str]) -> list[tuple[Row, list[Mapping]]]:
    """The readings grouped by their values of these keys, in order of first appearance."""
    by_values: dict[tuple, list[Mapping]] = {}
    for reading in readings:
        by_values.setdefault(tuple(reading[key] for key in keys), []).append(reading)
    return [(dict(zip(keys, values, strict=True)), group) for values, group in by_values.items()]


def means(readings: Iterable[Mapping], keys: Sequence[str], measures: Sequence[str]) -> list[Row]:
    """A row for each group: its keys, the number of pictures, and each measure's mean.

    The mean is over those readings that have the measure, and None if none has it.
    """
    rows = []
    for key_values, group in groups(readings, keys):
        values = {measure: [it[measure] for it in group if it.get(measure) is not None] for measure in measures}
        measure_means = {measure: fmean(numbers) if numbers else None for measure, numbers in values.items()}
        rows.append(key_values | {"pictures": len(group)} | measure_means)
    return rows


def overall(readings: Iterable[Mapping], keys: Sequence[str] = (), measure: str = "recognised") -> list[Row]:
    """A row for each group: its keys, Acc_e, Acc_s, Acc_g and H0.

    An accuracy is the mean of the measure over the pictures of its part (PARTS). Raises ValueError for a group in which
    a part has no pictures.
    """
    rows = []
    for key_values, group in groups(readings, keys):
        by_part = {row["part"]: row[measure] for row in means(group, ["part"], [measure])}
        if missing := [part for part in PARTS.values() if by_part.get(part) is None]:
            raise ValueError(
                f"H0 needs pictures of all parts, but there are none with `part` = {missing[0]!r} {key_values or ''}"
            )
        accuracies = {name: by_part[part] for name, part in PARTS.items()}
        rows.append(key_values | accuracies | {"h0": h0(**accuracies)})
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, numbers to two places. No cell can contain markup or end its row."""

    def line(cells: Iterable) -> str:
        texts = (f"{it:.2f}" if isinstance(it, float) else "" if it is None else str(it) for it in cells)
        return f"| {' | '.join(without_markup(' '.join(text.split())).replace('|', chr(92) + '|') for text in texts)} |"

    heads = list(rows[0]) if rows else []
    return "\n".join([line(heads), "|---" * len(heads) + "|", *(line(row.get(head) for head in heads) for row in rows)])
