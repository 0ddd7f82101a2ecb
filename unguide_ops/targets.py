"""Which Linears a concept LoRA hangs on, per model family (paper section 3). Pure torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast

import torch

CROSS_ATTENTION = "cross-attention k/v"
ALL_BUT_CROSS_ATTENTION = "all but cross-attention"
AUTOMATIC = "automatic"
CHOICES = (AUTOMATIC, CROSS_ATTENTION, ALL_BUT_CROSS_ATTENTION)
READS_TEXT = r"\.attn2\.to_[kv]$"
"""Layers whose input is the encoded prompt itself."""


@dataclass(frozen=True)
class Family:
    """A model family, known by a pattern of its layer names, with one pattern of target names per choice.

    "automatic" is the first.
    """

    name: str
    known_by: str
    targets: dict[str, str]


FAMILIES = (
    Family(
        "Stable Diffusion UNet",
        known_by=r"input_blocks\.\d+\.1\.transformer_blocks\.\d+\.attn2\.to_k$",
        targets={
            CROSS_ATTENTION: READS_TEXT,
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
    if choice not in CHOICES:
        raise ValueError(f"`targets` is {choice!r}: use one of {', '.join(map(repr, CHOICES))}.")
    pattern = next(iter(family.targets.values())) if choice == AUTOMATIC else family.targets[choice]
    return {name: module for name, module in linears.items() if re.search(pattern, name)}


def reads_text(path: str) -> bool:
    """Whether the Linear with this module path is given the encoded prompt."""
    return re.search(READS_TEXT, path) is not None
