"""What a sweep draws: every row of the list, by every LoRA in every mode, with every seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from dev.stages import DevError

DEMO = "demo"
BASE, LORA, HALF, PAPER, OURS = MODES = ("base", "lora", "half", "paper", "ours")


class Settings(BaseModel):
    """What the pictures and what is read from them depend on."""

    model_config = ConfigDict(frozen=True)

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
    steps: int = Field(default=20, ge=1, le=10_000)
    cfg: float = Field(default=7.5, ge=0, le=100, allow_inf_nan=False)
    sampler: str = "euler"
    scheduler: str = "normal"
    width: int = Field(default=64, ge=16, le=4096)
    height: int = Field(default=64, ge=16, le=4096)
    paper_seeds: int = Field(default=10, ge=1, le=1000)
    negative: str = ""
    judge: bool = True
    clip: str | None = None
    nudity: bool = False

    @property
    def lora_names(self) -> tuple[str, ...]:
        """What the LoRAs are called in results: files by their stem, trained ones by their preset."""
        return (*self.forget, *(path.stem for path in self.loras))

    def fingerprint(self) -> str:
        """Differs when a picture of the same name would. More LoRAs, modes, rows and seeds are no difference."""
        more = {"list", "loras", "forget", "modes", "limit", "offset", "seeds"}
        return self.model_dump_json(exclude=more | {"output", "host"}) + content_of(self.list)

    def fingerprints(self) -> dict[str, str]:
        """The same for each LoRA file."""
        return {path.stem: content_of(path) for path in self.loras}


def content_of(path: Path) -> str:
    """A hash of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()


@dataclass(frozen=True)
class Job:
    """One picture."""

    number: int  # of the row
    prompt: str
    name: str
    seed: int
    guidance: float
    mode: str
    lora: str  # "" for the base
    more: dict

    def more_named(self) -> dict:
        """The list's other columns, under names that hide none of ours."""
        return {f"list.{name}": cell for name, cell in self.more.items()}

    @property
    def folder(self) -> str:
        """Where its picture lies, below `pictures`."""
        return f"{self.lora}/{self.mode}" if self.lora else self.mode

    @property
    def key(self) -> str:
        """Unique in a sweep, and the picture's place."""
        return f"{self.folder}/{self.name}-s{self.seed}"


@dataclass(frozen=True)
class Words:
    """What a concept's file names: `ten`, the target and the other classes, and `thirteen`, its synonyms as well."""

    ten: tuple[str, ...] = ()
    thirteen: tuple[str, ...] = ()


class Plan:
    """The list, read anew for each LoRA and mode, so that its length costs no memory."""

    def __init__(self, settings: Settings):
        self.settings = settings
        doubled = {name for name in settings.lora_names if settings.lora_names.count(name) > 1}
        if doubled:
            raise DevError(f"two LoRAs are called {min(doubled)!r}: rename a file.")
        if unreadable := [name for name in settings.lora_names if not name.isprintable()]:
            raise DevError(f"a LoRA is called {ascii(unreadable[0])}, which cannot be written: rename its file.")
        if dots := [name for name in settings.lora_names if not name.strip(".")]:
            raise DevError(f"a LoRA called {dots[0]!r} can have no folder for its pictures: rename its file.")

    @property
    def columns(self) -> list[tuple[str, str]]:
        """(LoRA, mode)."""
        modes = self.settings.modes
        base = [("", BASE)] if BASE in modes else []
        return base + [(lora, mode) for lora in self.settings.lora_names for mode in modes if mode != BASE]

    def rows(self) -> Iterator:
        """The list's rows, and its problems."""
        from unguide_ops.prompt_lists import read_prompt_list

        start = self.settings.offset
        stop = None if self.settings.limit is None else start + self.settings.limit
        try:
            yield from islice(read_prompt_list(self.settings.list), start, stop)
        except ValueError as error:
            raise DevError(str(error)) from None

    @cached_property
    def problems(self) -> list[str]:
        """The rows that are left out, and why."""
        from unguide_ops.prompt_lists import Problem

        return [str(it) for it in self.rows() if isinstance(it, Problem)]

    @cached_property
    def words(self) -> Words:
        """Those of a list whose rows have a `part` and a `class`, as a concept's file has; else none."""
        found: dict[str, dict[str, None]] = {part: {} for part in ("target", "other", "synonyms")}
        for it in self.rows():
            more = getattr(it, "more", {})
            if more.get("class") and more.get("part") in found:
                found[more["part"]][it.prompt.split()[-1] if more["part"] == "synonyms" else more["class"]] = None
        if not all(found.values()):
            return Words()
        ten = tuple({**found["target"], **found["other"]})
        return Words(ten, tuple(dict.fromkeys((*ten, *found["synonyms"]))))

    @cached_property
    def _count(self) -> int:
        return sum(1 for _ in self.rows()) - len(self.problems)

    def __len__(self) -> int:
        return self._count * self.settings.seeds * len(self.columns)

    def jobs(self) -> Iterator[Job]:
        """All pictures, a LoRA and a mode after the other."""
        from unguide_ops.prompt_lists import Row

        for lora, mode in self.columns:
            for it in self.rows():
                if isinstance(it, Row):
                    first = it.index if it.seed is None else it.seed
                    guidance = self.settings.cfg if it.guidance is None else it.guidance
                    for seed in range(first, first + self.settings.seeds):
                        yield Job(it.index, it.prompt, it.name, seed % 2**64, guidance, mode, lora, dict(it.more))
