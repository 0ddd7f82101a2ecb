"""The rows of a prompt list's file, as cells by column, from CSV, TSV, JSON or JSON lines."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import RootModel, ValidationError

from ..concept import Concept
from ..safe_text import printable
from ..untrusted import check_parts, first_problem, read_json
from .prompt_columns import has_prompt, is_empty, split_fields
from .text_lines import TextLines

MOST_PARTS = 3_000_000  # of JSON: see `check_parts`
MOST_COLUMNS = 1000
LONGEST_CELL = 20_000  # characters; a quote that is never closed ends there
DELIMITERS = ",;\t|"
SEPARATOR_LINE = re.compile(r"\s*\"?sep=(.)\"?\s*", re.IGNORECASE)  # Excel's, before the header

Cells = dict[str, Any]
ReadRow = Callable[[], tuple[str, Cells | str]]
"""Reads one row: where it is in the file ("row 3"), and its cells by column or what is wrong with it.

Rows that are skipped are never read.
"""


class _JsonArray(RootModel):
    root: list[Any]


class _JsonLine(RootModel):
    root: str | dict[str, Any]


def json_rows(path: Path) -> Iterator[ReadRow]:
    """Each entry of an array, or each prompt of a concept's file. Raises ValueError if the file is neither."""
    text = read_json(path)
    entries: Iterable[Any]
    try:
        check_parts(text, MOST_PARTS)
        if text.lstrip()[:1] == b"[":
            entries = _JsonArray.model_validate_json(text).root
        else:
            entries = _concept_rows(Concept.model_validate_json(text))
        if not all(isinstance(entry, str | dict) for entry in entries):
            raise ValueError("the file: it holds other things than prompts")
    except ValueError as error:  # pydantic's ValidationError is one
        problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise ValueError(
            f"{printable(path.name)}: {problem}. A prompt list in JSON is an array of prompts, or a concept's file "
            f"with target, reference, synonyms and other."
        ) from None
    for number, entry in enumerate(entries, 1):
        yield partial(_unchanged, f"entry {number}", {"prompt": entry} if isinstance(entry, str) else entry)


def _concept_rows(concept: Concept) -> list[Cells]:
    """A concept's prompts, each with its `part` and the `class` that its pictures show.

    The class is the prompt's last word; a synonym's is the target's.
    """
    parts = {"target": (concept.target,), "synonyms": concept.synonyms, "other": concept.other}
    return [
        {"prompt": it, "part": part, "class": "".join((it if part == "other" else concept.target).split()[-1:])}
        for part, prompts in parts.items()
        for it in prompts
    ]


def json_line_rows(path: Path) -> Iterator[ReadRow]:
    """Each line that is not blank, in JSON."""
    with path.open("rb") as file:
        lines = TextLines(file)
        for number, line in enumerate(lines, 1):
            lines.begin_row()
            fault = lines.take_fault()
            if fault:
                yield partial(_unchanged, f"line {number}", fault)
            elif line.strip():
                yield partial(_json_line_row, number, line)


def _json_line_row(number: int, line: str) -> tuple[str, Cells | str]:
    try:
        check_parts(line.encode(), MOST_PARTS)
        entry = _JsonLine.model_validate_json(line).root
        return f"line {number}", {"prompt": entry} if isinstance(entry, str) else entry
    except ValueError as error:  # pydantic's ValidationError is one
        is_invalid = isinstance(error, ValidationError) and error.errors()[0]["type"] == "json_invalid"
        problem = "is not JSON" if is_invalid else "is neither a text nor an object of few parts"
        return f"line {number}", f'{problem}: a line of JSONL is a prompt in quotes, or {{"prompt": ...}}'


def csv_rows(path: Path) -> Iterator[ReadRow]:
    """Each row below the header, which is row 1, as in a spreadsheet.

    Raises ValueError if the file has no header with a column for prompts.
    """
    csv.field_size_limit(LONGEST_CELL)
    with path.open("rb") as file:
        lines = TextLines(file)
        header = next(lines, "")
        separator = SEPARATOR_LINE.fullmatch(header)
        if separator:
            header = next(lines, "")
        if lines.take_fault():
            raise ValueError(f"{printable(path.name)} is not a UTF-8 text: save it as 'CSV UTF-8'.")
        columns, delimiter = _columns(path, header, separator[1] if separator else DELIMITERS)
        number = 1
        while True:  # once more after each row at which the reader gives up
            try:
                for cells in csv.reader(lines, delimiter=delimiter):
                    lines.begin_row()
                    fault = lines.take_fault()
                    if cells or fault:
                        number += 1
                        yield partial(_csv_row, number, columns, fault or cells)
                return
            except csv.Error as error:
                lines.begin_row()
                lines.take_fault()
                number += 1
                yield partial(_unchanged, f"row {number}", f"{error}; is a quote missing?")


def _columns(path: Path, header: str, delimiters: str) -> tuple[list[str], str]:
    """The columns that the header names, and the first of the delimiters with which one of them holds prompts."""
    delimiter = next((it for it in delimiters if has_prompt(_split_header(header, it))), None)
    if delimiter is None:
        columns = max((_split_header(header, it) for it in delimiters), key=len)
        raise ValueError(
            f"{printable(path.name)} has no column `prompt`: its first row names the columns, and is "
            f"{printable(', '.join(columns), 300)!r}. Call the one with the prompts `prompt`."
        )
    columns = _split_header(header, delimiter)
    if len(columns) > MOST_COLUMNS:
        raise ValueError(f"{printable(path.name)} has {len(columns)} columns: keep {MOST_COLUMNS} at most.")
    return columns, delimiter


def _split_header(line: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:  # too long, or with line ends of old systems
        return []


def _csv_row(number: int, columns: list[str], cells: list[str] | str) -> tuple[str, Cells | str]:
    return f"row {number}", cells if isinstance(cells, str) else _by_column(columns, cells)


def _by_column(columns: list[str], cells: list[str]) -> Cells | str:
    has_surplus = any(not is_empty(cell) for cell in cells[len(columns) :])
    if has_surplus or len(cells) > MOST_COLUMNS:
        return f"has {len(cells)} cells, the header {len(columns)}: put quotes around a cell with a comma"
    row: dict[str, str] = {}
    for name, cell in zip(columns, cells, strict=False):
        if name or cell.strip():  # spreadsheets write empty columns behind the last
            row.setdefault(name, cell)
    fields, _ = split_fields(row)
    name, cell = fields.get("prompt", ("prompt", ""))
    return f"`{name}` is empty" if is_empty(cell) else row


def _unchanged(place: str, row: Cells | str) -> tuple[str, Cells | str]:
    return place, row
