"""Prompt lists: prompts to sample, each with its seed and guidance, read row by row from CSV, TSV, JSON or JSONL.

A row that cannot be used is reported and left out; it does not keep the others from being read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..concept import PROMPTS, Prompt
from ..safe_text import printable
from ..untrusted import check_file
from .prompt_columns import decimal_number, seed_number, size_number, split_fields
from .prompt_rows import Cells, csv_rows, json_line_rows, json_rows

LISTS = PROMPTS / "lists"
READERS = {".csv": csv_rows, ".json": json_rows, ".tsv": csv_rows, ".jsonl": json_line_rows}
SUFFIXES = tuple(READERS)
LARGEST_TABLE = 100_000_000_000  # bytes: it is read row by row
LARGEST_JSON = 50_000_000  # bytes
LONGEST_NAME = 60  # characters of the prompt in a row's name
MOST_REPORTED_COLUMNS = 20  # in an error
Size = Annotated[Annotated[int, Field(ge=1, le=16384)] | None, BeforeValidator(size_number)]


@dataclass(frozen=True)
class Row:
    """A prompt to sample, with what the list says of its picture."""

    index: int  # in the list, from 0; rows that are left out have one as well
    prompt: str
    seed: int | None
    guidance: float | None
    other_columns: Mapping[str, str] = field(default_factory=dict)  # includes those of the size
    width: int | None = None  # pixels; the sampling node may use another size
    height: int | None = None

    @property
    def name(self) -> str:
        """A file name without suffix, as `000012-a-photo-of-the-cat`: unique in its list, and safe on any system."""
        words = re.sub(r"[^a-z0-9]+", "-", self.prompt.lower())[:LONGEST_NAME].strip("-")
        return f"{self.index:06}-{words}" if words else f"{self.index:06}"


@dataclass(frozen=True)
class Problem:
    """A row that is left out, and why."""

    index: int
    place: str  # as the user finds it in the file: "row 3", "line 3", "entry 3"
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class _Fields(BaseModel):
    """The checked fields of a row."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    prompt: Prompt
    seed: Annotated[Annotated[int, Field(ge=0, lt=2**64)] | None, BeforeValidator(seed_number)] = None
    guidance: Annotated[Annotated[float, Field(ge=0, le=100)] | None, BeforeValidator(decimal_number)] = None
    width: Size = None
    height: Size = None


def read_prompt_list(path: Path, offset: int = 0) -> Iterator[Row | Problem]:
    """The rows of a list in order, with a Problem for each that is unusable or repeats an earlier one.

    CSV, TSV: a header with a column `prompt`; seed, guidance, width and height are recognised under all names that
    public lists have for them (`prompt_columns.COLUMNS`), other columns are kept. JSON: a concept's prompt file
    (target, synonyms, other), or an array of prompts or of objects with these fields; JSONL: one of these on each line.
    The first `offset` rows are skipped unread, so a row that repeats one of them is not noticed. Memory does not grow
    with the length of a CSV or JSONL file, except for a few bytes for each row after the offset. Raises ValueError if
    the file as a whole is not a list.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise ValueError(
            f"{printable(path.name)} is not a prompt list: use a file that ends in {' or '.join(SUFFIXES)}."
        )
    check_file(path, LARGEST_JSON if suffix == ".json" else LARGEST_TABLE, "prompt list")
    places: dict[bytes, str] = {}  # of earlier rows, by a hash of their fields
    for index, read_row in enumerate(islice(READERS[suffix](path), offset, None), offset):
        place, cells = read_row()
        row = Problem(index, place, cells) if isinstance(cells, str) else _check_row(index, place, cells)
        if isinstance(row, Row):
            fields = (row.prompt, row.seed, row.guidance, row.width, row.height)
            key = blake2b(repr(fields).encode(), digest_size=8).digest()
            if key in places:
                row = Problem(index, place, f"repeats {places[key]}")
            places.setdefault(key, place)
        yield row


def _check_row(index: int, place: str, cells: Cells) -> Row | Problem:
    cells_by_field, other_cells = split_fields(cells)
    if "prompt" not in cells_by_field:
        columns = ", ".join(f"`{printable(name)}`" for name in [*cells][:MOST_REPORTED_COLUMNS])
        return Problem(index, place, f"has no `prompt`, only {columns}")
    try:
        fields = _Fields.model_validate({name: cell for name, (_, cell) in cells_by_field.items()})
    except ValidationError as error:
        first = error.errors()[0]
        name, value = cells_by_field[str(first["loc"][0])]
        reason = first["msg"].removeprefix("Value error, ")
        return Problem(index, place, f"`{printable(name)}` ({str(value)[:40]!r}): {reason}")
    other_columns = {name: str(cell) for name, cell in other_cells.items()}
    return Row(index, fields.prompt, fields.seed, fields.guidance, other_columns, fields.width, fields.height)


def shipped() -> list[str]:
    """The names of the lists that come with the pack."""
    return sorted(path.name for path in chain(LISTS.glob("*.csv"), LISTS.glob("*.json")))
