"""Save a LoRA that must not be lost in the first of several folders that can be written to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..concept_lora import ConceptLoRA
from . import lora_file

SavePaths = Callable[[str], Iterable[tuple[Path, str]]]
"""From a prefix to the paths that a new file may have, each with its name for users (`host.new_lora_paths`)."""


def save_where_possible(lora: ConceptLoRA, prefix: str, folders: Sequence[SavePaths]) -> tuple[str, list[str]]:
    """The name under which the LoRA is saved ("" if nowhere), and what was wrong with the folders before.

    Raises nothing.
    """
    problems = []
    for save_paths in folders:
        try:
            name = lora_file.save_new_lora(save_paths(prefix), lora)
        except Exception as error:
            problems.append(str(getattr(error, "strerror", None) or error))
        else:
            return name, problems
    return "", problems
