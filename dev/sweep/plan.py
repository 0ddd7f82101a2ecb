"""What a sweep draws: every row of the list, by every LoRA in every mode, with every seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, Field
from unguide.unguide_ops.files.prompt_list import Problem, Row, read_prompt_list

from dev.console import DevError
from dev.sweep import BASE, DEFAULTS, DEMO, MODES


class Settings(BaseModel, frozen=True):
    """What the pictures and their scores depend on."""

    list: Path
    output: Path = Field(exclude=True)
    host: Path = Field(exclude=True)
    device: str = "cpu"
    model: str = DEMO
    loras: tuple[Path, ...] = ()
    forget: tuple[str, ...] = ()
    modes: tuple[str, ...] = MODES
    seeds: int = Field(default=1, ge=1, le=10_000)
    offset: int = Field(default=0, ge=0)
    limit: int | None = Field(default=None, ge=1)
    steps: int = Field(default=DEFAULTS["steps"], ge=1, le=10_000)
    cfg: float = Field(default=DEFAULTS["cfg"], ge=0, le=100, allow_inf_nan=False)
    sampler: str = DEFAULTS["sampler"]
    scheduler: str = DEFAULTS["scheduler"]
    width: int = Field(default=DEFAULTS["width"], ge=16, le=4096)
    height: int = Field(default=DEFAULTS["height"], ge=16, le=4096)
    paper_seeds: int = Field(default=DEFAULTS["paper_seeds"], ge=1, le=1000)
    negative: str = DEFAULTS["negative"]
    judge: bool = True
    clip: str | None = None
    nudity: bool = False

    @property
    def lora_names(self) -> tuple[str, ...]:
        """The LoRAs' names in results: a trained one's preset, a file's stem."""
        return (*self.forget, *(path.stem for path in self.loras))

    def fingerprints(self) -> dict[str, str]:
        """A LoRA file's name in results -> its hash, and "" -> a text that differs if other pictures would.

        A sweep can be continued with more LoRAs, modes, rows and seeds.
        """
        extendable = {"list", "loras", "forget", "modes", "limit", "offset", "seeds"}
        settings = self.model_dump_json(exclude=extendable | {"output", "host"}) + content_hash(self.list)
        return {"": settings, **{path.stem: content_hash(path) for path in self.loras}}


def content_hash(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class RenderJob:
    """One picture to draw."""

    number: int  # of the row
    prompt: str
    name: str
    seed: int
    guidance: float
    mode: str
    lora: str  # "" for the base model
    other_columns: dict

    def listed(self) -> dict:
        """The list's other columns, as `list.NAME`, so that none hides a field of the result."""
        return {f"list.{name}": cell for name, cell in self.other_columns.items()}

    @property
    def key(self) -> str:
        """The picture's file below `pictures`, without suffix: unique in a sweep."""
        return "/".join(filter(None, (self.lora, self.mode, f"{self.name}-s{self.seed}")))


class Classes(NamedTuple):
    """Names in a concept's file: `ten`, the target and the other classes, and `thirteen`, its synonyms as well."""

    ten: tuple[str, ...] = ()
    thirteen: tuple[str, ...] = ()


class Plan:
    """The list, read anew for each LoRA and mode, so that memory does not grow with its length."""

    def __init__(self, settings: Settings):
        self.settings, names = settings, settings.lora_names
        if repeated := {name for name in names if names.count(name) > 1}:
            raise DevError(f"two LoRAs are called {min(repeated)!r}: rename a file.")
        if unprintable := [name for name in names if not name.isprintable()]:
            raise DevError(f"a LoRA is called {ascii(unprintable[0])}, which cannot be written: rename its file.")
        if dots := [name for name in names if not name.strip(".")]:
            raise DevError(f"a LoRA called {dots[0]!r} can have no folder for its pictures: rename its file.")

    @property
    def columns(self) -> list[tuple[str, str]]:
        """(LoRA, mode) of every column of the report."""
        modes = self.settings.modes
        base = [("", BASE)] if BASE in modes else []
        return base + [(lora, mode) for lora in self.settings.lora_names for mode in modes if mode != BASE]

    def rows(self) -> Iterator[Row | Problem]:
        """The list's rows, and a Problem for each that is left out. Raises DevError for a file that is not a list."""
        start, limit = self.settings.offset, self.settings.limit
        try:
            yield from islice(read_prompt_list(self.settings.list), start, None if limit is None else start + limit)
        except ValueError as error:
            raise DevError(str(error)) from None

    @cached_property
    def problems(self) -> list[str]:
        """Which rows are left out, and why."""
        return [str(row) for row in self.rows() if isinstance(row, Problem)]

    @cached_property
    def classes(self) -> Classes:
        """Those of a list whose rows have a `part` and a `class`, as a concept's file has; of another list none."""
        names: dict[str, dict[str, None]] = {part: {} for part in ("target", "other", "synonyms")}
        for row in self.rows():
            cells = row.other_columns if isinstance(row, Row) else {}
            if cells.get("class") and cells.get("part") in names:
                name = row.prompt.split()[-1] if cells["part"] == "synonyms" else cells["class"]
                names[cells["part"]][name] = None
        if not all(names.values()):
            return Classes()
        ten = tuple({**names["target"], **names["other"]})
        return Classes(ten, tuple(dict.fromkeys((*ten, *names["synonyms"]))))

    def __len__(self) -> int:
        rows = sum(1 for _ in self.rows()) - len(self.problems)
        return rows * self.settings.seeds * len(self.columns)

    def jobs(self) -> Iterator[RenderJob]:
        """All pictures, by LoRA, mode, row and seed."""
        for lora, mode in self.columns:
            for row in self.rows():
                if isinstance(row, Row):
                    first = row.index if row.seed is None else row.seed
                    guidance = self.settings.cfg if row.guidance is None else row.guidance
                    for seed in range(first, first + self.settings.seeds):
                        yield RenderJob(row.index, row.prompt, row.name, seed % 2**64, guidance, mode, lora,
                                        dict(row.other_columns))  # fmt: skip
