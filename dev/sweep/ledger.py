"""What is done. A picture counts when its line is in the ledger, which is written after the picture itself.

Killed in between, the picture is drawn again, the same, in the same place: nothing is lost, nothing is there twice.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
        """Whether it is done."""
        return self._base.execute("SELECT 1 FROM drawn WHERE key = ?", (job.key,)).fetchone() is not None

    def count(self) -> int:
        """How many are done."""
        return self._base.execute("SELECT count(*) FROM drawn").fetchone()[0]

    def enter(self, job: Job, drawn: Drawn) -> None:
        """Keep a picture, then its line."""
        path = self.picture(job.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_bytes(drawn.png)
        os.replace(unfinished, path)
        self._base.execute(
            "INSERT OR REPLACE INTO drawn VALUES (?, ?, ?, ?, ?, ?)",
            (job.key, job.number, str(job.seed), job.lora, job.mode, json.dumps(drawn.result, sort_keys=True)),
        )

    def picture(self, key: str) -> Path:
        """Where a picture lies."""
        return self.folder / "pictures" / f"{key}.png"

    def results(self) -> Iterator[dict]:
        """All of them, row by row."""
        for key, text in self._base.execute("SELECT key, result FROM drawn ORDER BY number, seed, lora, mode"):
            yield {"key": key, **json.loads(text)}
