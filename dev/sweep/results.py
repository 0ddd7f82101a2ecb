"""The results of a sweep: pictures as PNG files that hold their own results, and a database with a line for each.

A picture counts as drawn if it is there, whole, holds its result, and has a line, which is written after it. After a
crash in between it is drawn again, the same, in the same place, so that nothing is lost or doubled. A picture that was
deleted, emptied or changed is drawn again; a changed line is corrected from its picture.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from pydantic import BaseModel, ValidationError

from dev.console import DevError
from dev.sweep.plan import RenderJob, Settings

TABLES = """
CREATE TABLE IF NOT EXISTS sweep (name TEXT PRIMARY KEY, fingerprint TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS drawn (
    key TEXT PRIMARY KEY, number INTEGER, seed TEXT, lora TEXT, mode TEXT, result TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_row ON drawn (number, seed);
"""


@dataclass(frozen=True)
class RenderedPicture:
    """A picture as PNG, and its result: what it was drawn from and how it was scored."""

    png: bytes
    result: dict


class DecisionRecord(BaseModel, strict=True, extra="allow"):
    """The fields of a decision that are checked when a result is read; a decision may have more."""

    w: float
    score: float | None = None


class ResultRecord(BaseModel, strict=True, extra="allow"):
    """The fields of a result that are checked when it is read; a result may have more."""

    number: int
    prompt: str
    seed: int
    guidance: float
    lora: str
    mode: str
    evaluations: float
    decisions: list[DecisionRecord] = []
    seen: list[str] = []
    accuracies: dict[str, float] = {}
    nudity: dict[str, float] = {}


def read_result(path: Path) -> dict | None:
    """The result that a picture holds, or None if there is no whole picture with one."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            result = json.loads(image.info["unguide"])
            image.verify()
        ResultRecord.model_validate(result)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, AttributeError, ValidationError, EOFError,
            Image.DecompressionBombError):  # fmt: skip
        return None
    return result


class Results(AbstractContextManager):
    """The results of a sweep in its folder, which one process at a time can open."""

    def __init__(self, folder: Path, settings: Settings):
        self.folder = folder
        self._database = sqlite3.connect(folder / "sweep.sqlite3", timeout=1, isolation_level=None)
        fingerprints = settings.fingerprints()
        try:
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.executescript(TABLES)
            self._database.execute("BEGIN EXCLUSIVE")
            before = dict(self._database.execute("SELECT name, fingerprint FROM sweep"))
            self._database.executemany("INSERT OR IGNORE INTO sweep VALUES (?, ?)", fingerprints.items())
            self._database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            problem = f"another sweep is at work in {folder} ({error}): wait, or choose another `--output`."
            raise DevError(problem) from None
        except sqlite3.DatabaseError as error:
            problem = f"{folder / 'sweep.sqlite3'} is not a sweep's database ({error}): choose another `--output`."
            raise DevError(problem) from None
        changed = [name for name in fingerprints if before.get(name, fingerprints[name]) != fingerprints[name]]
        if changed:
            reason = f"another LoRA {changed[0]!r}" if changed[0] else "other settings or another list"
            raise DevError(f"{folder} holds a sweep with {reason}: choose another `--output`, or delete that folder.")

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def has(self, job: RenderJob) -> bool:
        """Whether the job is drawn. Corrects its line if that does not agree with its picture."""
        fields = (job.number, str(job.seed), job.lora, job.mode)
        query = "SELECT number, seed, lora, mode FROM drawn WHERE key = ?"
        line = self._database.execute(query, (job.key,)).fetchone()
        result = None if line is None else read_result(self.picture_path(job.key))
        if result is None or result["prompt"] != job.prompt:
            return False
        if (result["number"], str(result["seed"]), result["lora"], result["mode"]) != fields:
            return False
        if line != fields:
            self._write_line(job, result)
        return True

    def add(self, job: RenderJob, picture: RenderedPicture) -> None:
        """Write the picture, then its line."""
        path = self.picture_path(job.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_bytes(picture.png)
        os.replace(unfinished, path)
        self._write_line(job, picture.result)

    def _write_line(self, job: RenderJob, result: dict) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO drawn VALUES (?, ?, ?, ?, ?, ?)",
            (job.key, job.number, str(job.seed), job.lora, job.mode, json.dumps(result, sort_keys=True)),
        )

    def picture_path(self, key: str) -> Path:
        """The path of a picture."""
        return self.folder / "pictures" / f"{key}.png"

    def read(self) -> Iterator[dict]:
        """The results of all pictures that are there, row by row, each with its `key`."""
        for (key,) in self._database.execute("SELECT key FROM drawn ORDER BY number, seed, lora, mode"):
            if isinstance(key, str) and (result := read_result(self.picture_path(key))) is not None:
                yield {**result, "key": key}
