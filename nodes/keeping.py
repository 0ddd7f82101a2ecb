"""LoRAs that are not to be lost, saved in the first folder that takes them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..unguide_ops import files
from ..unguide_ops.lora import ConceptLoRA

Places = Callable[[str], Iterable[tuple[Path, str]]]
"""From a prefix, where a new file may be, and how users find it (`host.new_lora_paths`, `host.new_output_paths`)."""


def kept(lora: ConceptLoRA, prefix: str, folders: Sequence[Places]) -> tuple[str, list[str]]:
    """The name under which it is saved ("": nowhere), and what was wrong with the folders before. Raises nothing."""
    problems = []
    for places in folders:
        try:
            name = files.save_new_lora(places(prefix), lora)
        except Exception as error:
            problems.append(str(getattr(error, "strerror", None) or error))
        else:
            return name, problems
    return "", problems
