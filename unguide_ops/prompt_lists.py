"""Lists of prompts to draw: CSV, TSV, JSON or JSON lines, read row by row, the bad rows told and left out."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel, ValidationError

from .concept import PROMPTS, Concept, Prompt
from .prompt_columns import decimal_number, has_prompt, is_empty, parts_of, seed_number, size_number
from .strangers import brief, check_file, check_parts, first_problem, read_json

LISTS = PROMPTS / "lists"
SUFFIXES = (".csv", ".json", ".tsv", ".jsonl")
LARGEST_TABLE = 100_000_000_000  # bytes: it is read row by row
LARGEST_JSON = 50_000_000  # bytes
MOST_PARTS = 3_000_000  # of JSON: see `check_parts`
LONGEST_LINE = 1_000_000  # bytes; of a row as well, on however many lines
MOST_COLUMNS = 1000
LONGEST_CELL = 20_000  # characters; a quote that is never closed ends there
DELIMITERS = ",;\t|"
SEPARATOR = re.compile(r"\s*\"?sep=(.)\"?\s*", re.IGNORECASE)  # Excel's, in a line before the header
NAME_LENGTH = 60
TOLD = 20  # names of columns, in an error
Size = Annotated[Annotated[int, Field(ge=1, le=16384)] | None, BeforeValidator(size_number)]


@dataclass(frozen=True)
class Row:
    """A prompt to draw. `name` is a file's, without suffix: unique in its list, and safe on any system."""

    index: int  # in the list, from 0; rows that are left out have one as well
    prompt: str
    seed: int | None
    guidance: float | None
    more: Mapping[str, str] = field(default_factory=dict)  # the other columns, those of the size as well
    width: int | None = None  # pixels that the list names; who draws decides
    height: int | None = None

    @property
    def name(self) -> str:
        """`000012-a-photo-of-the-cat`."""
        words = re.sub(r"[^a-z0-9]+", "-", self.prompt.lower())[:NAME_LENGTH].strip("-")
        return f"{self.index:06}-{words}" if words else f"{self.index:06}"


@dataclass(frozen=True)
class Problem:
    """A row that is left out, and why."""

    index: int
    place: str  # as the user finds it
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class _Parts(BaseModel):
    """What a row is drawn with."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    prompt: Prompt
    seed: Annotated[Annotated[int, Field(ge=0, lt=2**64)] | None, BeforeValidator(seed_number)] = None
    guidance: Annotated[Annotated[float, Field(ge=0, le=100)] | None, BeforeValidator(decimal_number)] = None
    width: Size = None
    height: Size = None


def read_prompt_list(path: Path, offset: int = 0) -> Iterator[Row | Problem]:
    """The rows of a list, one after the other, and a Problem for each that is unusable or repeats an earlier one.

    CSV, TSV: a header with a column `prompt`; seed, guidance, width and height are taken under all names that public
    lists have for them (`prompt_columns.COLUMNS`), other columns kept. JSON: a concept's prompt file (target, synonyms,
    other), or an array of prompts or of objects with these fields; JSONL: one of these a line. The first `offset` rows
    are passed by unread: what repeats one of them is told as a row all the same. Memory does not grow with the length
    of a CSV or JSONL, but for a few bytes a row behind the offset. Raises ValueError when the file as a whole is no
    list.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{brief(path.name)} is no prompt list: use a file that ends in {' or '.join(SUFFIXES)}.")
    check_file(path, LARGEST_JSON if suffix == ".json" else LARGEST_TABLE, "prompt list")
    seen: dict[bytes, str] = {}
    rows = {".json": _json_rows, ".jsonl": _json_lines}.get(suffix, _csv_rows)(path)
    for index, read in enumerate(islice(rows, offset, None), offset):
        place, row = read()
        found = Problem(index, place, row) if isinstance(row, str) else _row(index, place, row)
        if isinstance(found, Row):
            drawn = (found.prompt, found.seed, found.guidance, found.width, found.height)
            key = blake2b(repr(drawn).encode(), digest_size=8).digest()
            if key in seen:
                found = Problem(index, place, f"repeats {seen[key]}")
            seen.setdefault(key, place)
        yield found


def _row(index: int, place: str, cells: Mapping) -> Row | Problem:
    parts, more = parts_of(cells)
    if "prompt" not in parts:
        return Problem(index, place, f"has no `prompt`, only {', '.join(f'`{brief(it)}`' for it in [*cells][:TOLD])}")
    try:
        it = _Parts.model_validate({part: cell for part, (_, cell) in parts.items()})
    except ValidationError as error:
        first = error.errors()[0]
        name, value = parts[str(first["loc"][0])]
        reason = first["msg"].removeprefix("Value error, ")
        return Problem(index, place, f"`{brief(name)}` ({str(value)[:40]!r}): {reason}")
    kept = {key: str(cell) for key, cell in more.items()}
    return Row(index, it.prompt, it.seed, it.guidance, kept, it.width, it.height)


_Read = Callable[[], tuple[str, "dict | str"]]
"""Where a row is, and its cells or what is wrong: found out when it is called, as rows are passed by too."""


class _AnyList(RootModel):
    """A list in JSON."""

    root: list[Any]


class _Entry(RootModel):
    """A line of JSON."""

    root: str | dict[str, Any]


def _json_rows(path: Path) -> Iterator[_Read]:
    text = read_json(path)
    rows: Iterable[Any]
    try:
        check_parts(text, MOST_PARTS)
        if text.lstrip()[:1] == b"[":
            rows = _AnyList.model_validate_json(text).root
        else:
            rows = _of_concept(Concept.model_validate_json(text))
        if not all(isinstance(row, str | dict) for row in rows):
            raise ValueError("the file: it holds other things than prompts")
    except ValueError as error:
        why = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise ValueError(
            f"{brief(path.name)}: {why}. A prompt list in JSON is an array of prompts, or a concept's file with "
            f"target, reference, synonyms and other."
        ) from None
    for number, row in enumerate(rows, 1):
        yield partial(_as_it_is, f"entry {number}", {"prompt": row} if isinstance(row, str) else row)


def _json_lines(path: Path) -> Iterator[_Read]:
    """Each line that is not empty."""
    with path.open("rb") as file:
        lines = _Lines(file)
        for number, line in enumerate(lines, 1):
            lines.row = 0
            fault = lines.take_fault()
            if fault:
                yield partial(_as_it_is, f"line {number}", fault)
            elif line.strip():
                yield partial(_json_line, number, line)


def _json_line(number: int, line: str) -> tuple[str, dict | str]:
    try:
        check_parts(line.encode(), MOST_PARTS)
        entry = _Entry.model_validate_json(line).root
        return f"line {number}", {"prompt": entry} if isinstance(entry, str) else entry
    except ValueError as error:  # pydantic's too
        invalid = isinstance(error, ValidationError) and error.errors()[0]["type"] == "json_invalid"
        why = "is no JSON" if invalid else "is neither a text nor an object of few parts"
        return f"line {number}", f'{why}: a line of JSONL is a prompt in quotes, or {{"prompt": ...}}'


def _as_it_is(place: str, row: dict | str) -> tuple[str, dict | str]:
    return place, row


def _of_concept(concept: Concept) -> list[dict]:
    """Its prompts, each with its part and the class that it names: its last word, a synonym's that of the target."""
    parts = {"target": (concept.target,), "synonyms": concept.synonyms, "other": concept.other}
    return [
        {"prompt": it, "part": part, "class": "".join((it if part == "other" else concept.target).split()[-1:])}
        for part, prompts in parts.items()
        for it in prompts
    ]


def _csv_rows(path: Path) -> Iterator[_Read]:
    """Each row; the header is row 1, as in a spreadsheet."""
    csv.field_size_limit(LONGEST_CELL)
    with path.open("rb") as file:
        lines = _Lines(file)
        first = next(lines, "")
        said = SEPARATOR.fullmatch(first)
        if said:
            first = next(lines, "")
        if lines.take_fault():
            raise ValueError(f"{brief(path.name)} is not a UTF-8 text: save it as 'CSV UTF-8'.")
        delimiters = said[1] if said else DELIMITERS
        delimiter = next((it for it in delimiters if has_prompt(_header(first, it))), None)
        if delimiter is None:
            columns = max((_header(first, it) for it in delimiters), key=len)
            raise ValueError(
                f"{brief(path.name)} has no column `prompt`: its first row names the columns, and is "
                f"{brief(', '.join(columns), 300)!r}. Call the one with the prompts `prompt`."
            )
        columns = _header(first, delimiter)
        if len(columns) > MOST_COLUMNS:
            raise ValueError(f"{brief(path.name)} has {len(columns)} columns: keep {MOST_COLUMNS} at most.")
        number = 1
        while True:  # again after a row at which the reader gave up
            try:
                for cells in csv.reader(lines, delimiter=delimiter):
                    lines.row = 0
                    fault = lines.take_fault()
                    if cells or fault:
                        number += 1
                        yield partial(_csv_row, number, columns, fault or cells)
                return
            except csv.Error as error:
                lines.row = 0
                lines.take_fault()
                number += 1
                yield partial(_as_it_is, f"row {number}", f"{error}; is a quote missing?")


def _csv_row(number: int, columns: list[str], cells: list[str] | str) -> tuple[str, dict | str]:
    return f"row {number}", cells if isinstance(cells, str) else _named(columns, cells)


def _header(line: str, delimiter: str) -> list[str]:
    try:
        return [it.strip() for it in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:  # too long, or ended as on no system of today
        return []


def _named(columns: list[str], cells: list[str]) -> dict | str:
    more = [number for number, cell in enumerate(cells) if number >= len(columns) and not is_empty(cell)]
    if more or len(cells) > MOST_COLUMNS:
        return f"has {len(cells)} cells, the header {len(columns)}: put quotes around a cell with a comma"
    row: dict[str, str] = {}
    for name, cell in zip(columns, cells, strict=False):
        if name or cell.strip():  # spreadsheets write empty columns behind the last
            row.setdefault(name, cell)
    parts, _ = parts_of(row)
    name, cell = parts.get("prompt", ("prompt", ""))
    return f"`{name}` is empty" if is_empty(cell) else row


class _Lines:
    """The lines of a UTF-8 file, one at a time; what is wrong with the last ones is told by `take_fault`."""

    def __init__(self, file: BinaryIO):
        self._file, self._fault = file, ""
        self.row = 0  # bytes since it was set to 0, where a row began
        if file.read(3) != b"\xef\xbb\xbf":  # a byte order mark
            file.seek(0)

    def take_fault(self) -> str:
        """What was wrong, once."""
        fault, self._fault = self._fault, ""
        return fault

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(LONGEST_LINE + 1)
        if not line:
            raise StopIteration
        if len(line) > LONGEST_LINE:
            self._fault = f"is longer than {LONGEST_LINE} bytes"
            while line and not line.endswith(b"\n"):
                line = self._file.readline(LONGEST_LINE)
            return "\n"
        self.row += len(line)
        if self.row > LONGEST_LINE:  # a row on many lines, each with a quote that ends on the next
            raise csv.Error(f"is longer than {LONGEST_LINE} bytes")
        if b"\0" in line:
            self._fault = "holds a NUL character: take it out"
            return "\n"
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            self._fault = "is not UTF-8: save the file as 'CSV UTF-8'"
            return line.decode("utf-8", errors="replace")


def shipped() -> list[str]:
    """The names of the lists that come with the pack."""
    return sorted(path.name for path in chain(LISTS.glob("*.csv"), LISTS.glob("*.json")))
