"""Files and names from strangers, put to the proof: see `hostile`."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dev.hosts import HOST
from dev.reliability.child import in_child, opened, prepare
from dev.reliability.hostile import headers, metadata, names, pickled, texts, weights
from dev.reliability.hostile.making import Make

SECONDS = 2.0  # of the processor that one may take
BYTES = 500 << 20
LONGEST = 700  # characters of an error
TABLES = {"pickle": pickled.table, "safetensors": headers.table, "metadata": metadata.table, "weights": weights.table,
          "concept": texts.concepts, "list": texts.lists, "name": names.table}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """`make(folder)` writes it there and gives what is opened. `expected`: of the error, a pattern; "": it is taken."""

    name: str
    parser: str
    make: Make
    expected: str


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    name: str
    ok: bool
    seconds: float
    peak_bytes: int
    message: str  # the error, or why it is not ok


def cases() -> list[Case]:
    """All of them."""
    return [Case(f"{group}: {name}", *it) for group, table in TABLES.items() for name, it in table().items()]


def run(case: Case, host: Path = HOST, limit: float = SECONDS) -> Outcome:
    """Open it in a child process: it must end as expected in `limit` seconds, little memory, touching nothing else."""
    prepare(host)
    with tempfile.TemporaryDirectory(prefix="unguide-stranger-") as folder:
        given = case.make(Path(folder))
        before = _everything(Path(folder))
        found = in_child(opened, case.parser, given)
        left = _everything(Path(folder)) ^ before
    error, message = found["error"], found.get("message", "")
    seconds, peak = found.get("seconds", 0.0), found.get("peak", 0)
    named = Path(given[0]).name if case.parser in ("lora", "imported", "concept", "prompt_list") else ""
    wrong = [
        f"it does {', '.join(found['tried'])}" if found.get("tried") else "",
        f"it leaves {', '.join(left)}" if left else "",
        f"{seconds:.1f} s" if seconds > limit else "",
        f"{peak >> 20} MiB" if peak > BYTES else "",
        _unexpected(error, message, case.expected, named),
    ]  # fmt: skip
    why = "; ".join(filter(None, wrong))
    return Outcome(case.name, not why, seconds, peak, why or message)


def _unexpected(error: str, message: str, expected: str, named: str) -> str:
    if not expected:
        return f"{error}: {message}" if error else ""
    if error != "ValueError" or not re.search(expected, message, re.DOTALL):
        return f"{error or 'taken'}: {message[:LONGEST]!r}, not ValueError: {expected!r}"
    if named not in message or len(message) > LONGEST:
        return f"it does not name {named}, or is long: {message[:LONGEST]!r}"
    return ""


def _everything(folder: Path) -> set[str]:
    return {os.path.join(at, name) for at, folders, names in os.walk(folder) for name in (*folders, *names)}
