"""Which Linears a concept LoRA hangs on, per model family (paper section 3). Pure torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast

import torch

CROSS_ATTENTION = "cross-attention k/v"
ALL_BUT_CROSS_ATTENTION = "all but cross-attention"
CHOICES = (CROSS_ATTENTION, ALL_BUT_CROSS_ATTENTION)


@dataclass(frozen=True)
class Family:
    """A model family, known by a pattern of its layer names, with one pattern of target names per choice."""

    name: str
    known_by: str
    targets: dict[str, str]


FAMILIES = (
    Family(
        "Stable Diffusion UNet",
        known_by=r"input_blocks\.\d+\.1\.transformer_blocks\.\d+\.attn2\.to_k$",
        targets={
            CROSS_ATTENTION: r"\.attn2\.to_[kv]$",
            ALL_BUT_CROSS_ATTENTION: r"^(?!out\.)(?!.*(attn2|time_embed))",
        },
    ),
)


def select(model: torch.nn.Module, choice: str) -> dict[str, torch.nn.Linear]:
    """The target Linears of a diffusion model by module path, in the model's own order.

    Linears are told by their attributes, since hosts bring classes of their own. Raises ValueError for a model whose
    family is not in the table.
    """
    linears = {
        name: cast(torch.nn.Linear, module)
        for name, module in model.named_modules()
        if isinstance(getattr(module, "in_features", None), int) and hasattr(module, "out_features")
    }
    family = next((f for f in FAMILIES if any(re.search(f.known_by, name) for name in linears)), None)
    if family is None:
        raise ValueError(
            f"This model ({type(model).__name__}) is of a family that UnGuide cannot train yet: "
            f"use one of {', '.join(f.name for f in FAMILIES)}."
        )
    if choice not in family.targets:
        raise ValueError(f"`targets` is {choice!r}: use one of {', '.join(map(repr, family.targets))}.")
    return {name: module for name, module in linears.items() if re.search(family.targets[choice], name)}
