"""Readings of many pictures (a dict each, as in `evaluation`'s reports) as tables: lists of rows, a dict each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ..page import for_page
from .overall import h0

PARTS = {"acc_e": "erased", "acc_s": "other", "acc_g": "synonym"}
"""Whose pictures each accuracy is about, as a reading's `part`: the erased class, the other classes, its synonyms."""

Row = dict[str, Any]


def groups(readings: Iterable[Mapping], keys: Sequence[str]) -> list[tuple[Row, list[Mapping]]]:
    """The readings that share the values of these keys, in order of first appearance."""
    found: dict[tuple, list[Mapping]] = {}
    for reading in readings:
        found.setdefault(tuple(reading[key] for key in keys), []).append(reading)
    return [(dict(zip(keys, values, strict=True)), its) for values, its in found.items()]


def means(readings: Iterable[Mapping], keys: Sequence[str], measures: Sequence[str]) -> list[Row]:
    """For each group its keys, the number of pictures, and each measure's mean over those that have it, else None."""
    rows = []
    for row, its in groups(readings, keys):
        values = {name: [it[name] for it in its if it.get(name) is not None] for name in measures}
        rows.append(
            row | {"pictures": len(its)} | {name: fmean(them) if them else None for name, them in values.items()}
        )
    return rows


def overall(readings: Iterable[Mapping], keys: Sequence[str] = (), measure: str = "recognised") -> list[Row]:
    """For each group Acc_e, Acc_s, Acc_g and H0, the accuracies as means over the pictures of their part (PARTS).

    Raises ValueError for a group in which a part has no pictures.
    """
    rows = []
    for row, its in groups(readings, keys):
        by_part = {part["part"]: part[measure] for part in means(its, ["part"], [measure])}
        if missing := [part for part in PARTS.values() if by_part.get(part) is None]:
            raise ValueError(
                f"H0 needs pictures of all parts, but there are none with `part` = {missing[0]!r} {row or ''}"
            )
        accuracies = {name: by_part[part] for name, part in PARTS.items()}
        rows.append(row | accuracies | {"h0": h0(**accuracies)})
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, numbers to two places; nothing in a cell is markup or ends its row."""

    def line(cells: Iterable) -> str:
        texts = (f"{it:.2f}" if isinstance(it, float) else "" if it is None else str(it) for it in cells)
        return f"| {' | '.join(for_page(' '.join(text.split())).replace('|', chr(92) + '|') for text in texts)} |"

    heads = list(rows[0]) if rows else []
    return "\n".join([line(heads), "|---" * len(heads) + "|", *(line(row.get(head) for head in heads) for row in rows)])
