"""What is done. A picture counts when it is there, whole, says what it is, and has its line in the ledger, which is
written after it.

Killed in between, the picture is drawn again, the same, in the same place: nothing is lost, nothing is there twice. The
picture is the record, the line only its place in the order: what was deleted, emptied or changed is drawn again.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from dev.stages import DevError
from dev.sweep.plan import Job, Settings

TABLES = """
CREATE TABLE IF NOT EXISTS sweep (name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS drawn (
    key TEXT PRIMARY KEY, number INTEGER, seed TEXT, lora TEXT, mode TEXT, result TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_row ON drawn (number, seed);
"""


@dataclass(frozen=True)
class Drawn:
    """A picture as PNG, and what is known of it."""

    png: bytes
    result: dict


class Decided(BaseModel):
    """What must stand in a decision."""

    model_config = ConfigDict(strict=True, extra="allow")

    w: float
    score: float | None = None


class Record(BaseModel):
    """What must stand in every picture's result, and more may."""

    model_config = ConfigDict(strict=True, extra="allow")

    number: int
    prompt: str
    seed: int
    guidance: float
    lora: str
    mode: str
    evaluations: float
    decisions: list[Decided] = []
    seen: list[str] = []
    accuracies: dict[str, float] = {}
    nudity: dict[str, float] = {}


def record_of(path: Path) -> dict | None:
    """The result that stands in a picture, or None where there is no whole picture with one."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            result = json.loads(image.info["unguide"])
            image.verify()
        Record.model_validate(result)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, AttributeError, ValidationError, EOFError,
            Image.DecompressionBombError):  # fmt: skip
        return None
    return result


class Ledger:
    """The results of a sweep in its folder, by one process at a time."""

    def __init__(self, folder: Path, settings: Settings):
        self.folder = folder
        self._base = sqlite3.connect(folder / "sweep.sqlite3", timeout=1, isolation_level=None)
        try:
            self._base.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._base.executescript(TABLES)
            self._base.execute("BEGIN EXCLUSIVE")
            known = dict(self._base.execute("SELECT name, fingerprint FROM sweep"))
            now = {"": settings.fingerprint(), **settings.fingerprints()}
            self._base.executemany("INSERT OR IGNORE INTO sweep VALUES (?, ?)", now.items())
            self._base.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise DevError(
                f"another sweep is at work in {folder} ({error}): wait, or choose another `--output`."
            ) from None
        except sqlite3.DatabaseError as error:
            raise DevError(f"{folder / 'sweep.sqlite3'} is no ledger ({error}): choose another `--output`.") from None
        changed = [name for name in now if known.get(name, now[name]) != now[name]]
        if changed:
            what = f"another LoRA {changed[0]!r}" if changed[0] else "other settings or another list"
            raise DevError(f"{folder} holds a sweep with {what}: choose another `--output`, or delete that folder.")

    def __enter__(self) -> Ledger:
        """Open already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let others in."""
        self._base.close()

    def has(self, job: Job) -> bool:
        """Whether it is done: its picture is there, and its line, which is put right by the picture."""
        line = self._base.execute("SELECT number, seed, lora, mode FROM drawn WHERE key = ?", (job.key,)).fetchone()
        own = (job.number, str(job.seed), job.lora, job.mode)
        result = None if line is None else record_of(self.picture(job.key))
        its = result and (result["number"], str(result["seed"]), result["lora"], result["mode"])
        if result is None or its != own or result["prompt"] != job.prompt:
            return False
        if line != own:
            self._write(job, result)
        return True

    def count(self) -> int:
        """How many have a line."""
        return self._base.execute("SELECT count(*) FROM drawn").fetchone()[0]

    def enter(self, job: Job, drawn: Drawn) -> None:
        """Keep a picture, then its line."""
        path = self.picture(job.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_bytes(drawn.png)
        os.replace(unfinished, path)
        self._write(job, drawn.result)

    def _write(self, job: Job, result: dict) -> None:
        self._base.execute(
            "INSERT OR REPLACE INTO drawn VALUES (?, ?, ?, ?, ?, ?)",
            (job.key, job.number, str(job.seed), job.lora, job.mode, json.dumps(result, sort_keys=True)),
        )

    def picture(self, key: str) -> Path:
        """Where a picture lies."""
        return self.folder / "pictures" / f"{key}.png"

    def results(self) -> Iterator[dict]:
        """Those of all pictures that are there, row by row."""
        for (key,) in self._base.execute("SELECT key FROM drawn ORDER BY number, seed, lora, mode"):
            if isinstance(key, str) and (result := record_of(self.picture(key))) is not None:
                yield {**result, "key": key}
