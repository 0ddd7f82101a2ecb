"""A concept LoRA fitted to a MODEL: what it is made of, on the layers that are there."""

from __future__ import annotations

from . import host
from .branch import Branch
from .lora import ConceptLoRA


def branch_of(model, lora: ConceptLoRA) -> Branch:
    """The branch of a concept LoRA on MODEL: low-rank pairs where they can carry it, changed weights elsewhere.

    Raises ValueError when the model lacks a layer that the LoRA was made for.
    """
    return Branch.of(lora, host.places(model), host.weight_changes(model, lora.others) if lora.others else None)
