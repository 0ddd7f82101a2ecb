"""How they are put in a folder; each gives what is opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

DEEP = 10_000

Make = Callable[[Path], "tuple[str, ...]"]
Table = dict[str, "tuple[str, Make, str]"]


def written(name: str, content: Callable[[], bytes] | bytes) -> Make:
    """A file with this content, or with what it returns."""

    def make(folder: Path) -> tuple[str, ...]:
        (folder / name).write_bytes(content() if callable(content) else content)
        return (str(folder / name),)

    return make


def special(name: str, place: Callable[[Path], object]) -> Make:
    """A thing that is no file, put at a path."""

    def make(folder: Path) -> tuple[str, ...]:
        place(folder / name)
        return (str(folder / name),)

    return make


def named(name: str, beside: Callable[[Path], object] = lambda folder: None) -> Make:
    """A name in a folder of the host, which is made before."""

    def make(folder: Path) -> tuple[str, ...]:
        (folder / "host").mkdir()
        (folder / "secret.json").write_text("{}")
        beside(folder / "host")
        return str(folder / "host"), name

    return make


def nested(depth: int = DEEP, name: str = "x") -> str:
    """JSON that deep."""
    return f'{{"{name}":' * depth + "1" + "}" * depth


def hollow(path: Path) -> None:
    """A file that takes no room on the disk."""
    path.touch()
    os.truncate(path, 5 * 10**9)
