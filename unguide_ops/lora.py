"""The low-rank pairs of a concept LoRA: create, scale, apply. Pure torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch.nn.functional import linear

from .calibration import Calibration


@dataclass
class LowRankPair:
    """One Linear's low-rank change `y += alpha * up @ down @ x` (paper section 3; A = down^T, B = up^T).

    `alpha` is the paper's raw multiplier. The host and kohya write `alpha * rank` into files and divide by the rank.
    """

    down: torch.Tensor  # [rank, in]
    up: torch.Tensor  # [out, rank]
    alpha: float

    @classmethod
    def create(cls, inputs: int, outputs: int, rank: int, alpha: float, generator: torch.Generator) -> LowRankPair:
        """A pair that changes nothing yet: down ~ N(0, 1/rank), up = 0; fp32 on the CPU."""
        if rank > min(inputs, outputs):
            raise ValueError(
                f"`rank` is {rank}, but a target layer has {inputs} inputs and {outputs} outputs: "
                f"use at most {min(inputs, outputs)}."
            )
        down = torch.randn(rank, inputs, generator=generator) / rank**0.5
        return cls(down, torch.zeros(outputs, rank), alpha)

    @property
    def rank(self) -> int:
        """Columns of `up`, rows of `down`."""
        return self.down.shape[0]

    def change(self, x: torch.Tensor) -> torch.Tensor:
        """What the pair adds to the Linear's output: [..., in] -> [..., out], in x's dtype and on its device."""
        return linear(linear(x, self.down.to(x)), self.up.to(x)) * self.alpha

    def to(self, *args, **kwargs) -> LowRankPair:
        """A copy on another device or in another dtype, detached from any graph."""
        return LowRankPair(self.down.detach().to(*args, **kwargs), self.up.detach().to(*args, **kwargs), self.alpha)


@dataclass
class ConceptLoRA:
    """A concept LoRA: its pairs by their names in the file, and what it was trained on.

    `concept` and `training` are JSON-like dicts, empty for a LoRA made elsewhere. `target_prompt` is the encoded
    target prompt as {"cross_attn": [1, tokens, width], ...}, with which the gate compares; `calibration` what is known
    of its scores.
    """

    pairs: Mapping[str, LowRankPair]
    concept: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    target_prompt: dict[str, torch.Tensor] = field(default_factory=dict)
    calibration: Calibration | None = None

    @property
    def is_zero(self) -> bool:
        """True when no pair changes anything, as right after creation."""
        return not any(pair.up.any() and pair.down.any() and pair.alpha for pair in self.pairs.values())

    @property
    def is_finite(self) -> bool:
        """True when every weight is a number."""
        return all(pair.up.isfinite().all() and pair.down.isfinite().all() for pair in self.pairs.values())
