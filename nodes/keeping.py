"""LoRAs that are not to be lost, saved in the first place that takes them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ..unguide_ops import files
from ..unguide_ops.lora import ConceptLoRA

Place = Callable[[str], tuple[Path, str]]
"""From a prefix, where to save the next file, and how users find it (`host.new_lora_path`, `host.new_output_path`)."""


def kept(lora: ConceptLoRA, prefix: str, places: Sequence[Place]) -> tuple[str, list[str]]:
    """The name under which it is saved ("": nowhere), and what was wrong with the places before. Raises nothing."""
    problems = []
    for place in places:
        try:
            path, name = place(prefix)
            files.save_lora(path, lora)
        except Exception as error:
            problems.append(str(getattr(error, "strerror", None) or error))
        else:
            return name, problems
    return "", problems
