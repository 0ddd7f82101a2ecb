"""The low-rank pairs of a concept LoRA: create, scale, apply. Pure torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch.nn.functional import linear

from .calibration import Calibration
from .numbers import LARGEST_NUMBER, all_finite, largest


@dataclass(frozen=True)
class Place:
    """Where a pair acts: on a module of the diffusion model, or on some of its outputs only (a fused projection's)."""

    path: str
    first: int = 0
    outputs: int | None = None  # None: all

    def __str__(self) -> str:
        if self.outputs is None:
            return self.path
        return f"{self.path}, outputs {self.first} to {self.first + self.outputs - 1}"

    @property
    def rows(self) -> slice:
        """Of the module's weight."""
        return slice(self.first, None if self.outputs is None else self.first + self.outputs)


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

    def in_file(self) -> dict[str, torch.Tensor]:
        """The tensors that carry the pair in files in kohya's layout, by suffix."""
        return {
            "lora_down.weight": self.down.contiguous(),
            "lora_up.weight": self.up.contiguous(),
            "alpha": torch.tensor(self.alpha * self.rank),
        }

    def narrowed(self, first: int, outputs: int) -> LowRankPair:
        """The pair for these outputs alone."""
        return LowRankPair(self.down, self.up[first : first + outputs], self.alpha)

    def widened(self, first: int, outputs: int) -> LowRankPair:
        """The pair among so many outputs, of which its own begin at `first`; nothing happens to the others."""
        behind = outputs - first - self.up.shape[0]
        return LowRankPair(self.down, torch.nn.functional.pad(self.up, (0, 0, first, behind)), self.alpha)

    def folded(self) -> LowRankPair:
        """The same change with alpha 1. Not all loaders get a file right whose layers differ in alpha (diffusers).

        Where `up` would not fit into a half, a power of two goes to `down`.
        """
        down, up = self.down, self.up * self.alpha
        excess = largest(up) / LARGEST_NUMBER
        if excess > 1 and math.isfinite(excess):
            power = 2.0 ** math.ceil(math.log2(excess))
            down, up = down * power, up / power
        return LowRankPair(down, up, 1.0)

    def unfolded(self, alpha: float) -> LowRankPair:
        """The same change with this alpha: what a learning rate was made for."""
        return LowRankPair(self.down, self.up * (self.alpha / alpha), alpha)

    def to(self, *args, **kwargs) -> LowRankPair:
        """A copy on another device or in another dtype, detached from any graph."""
        return LowRankPair(self.down.detach().to(*args, **kwargs), self.up.detach().to(*args, **kwargs), self.alpha)


class StoredPair(LowRankPair):
    """A pair as its file holds it: fp32 when it is asked, and no more memory than there until then."""

    @property
    def down(self) -> torch.Tensor:  # type: ignore[override]
        """[rank, in]."""
        return self._down.float()

    @down.setter
    def down(self, it: torch.Tensor) -> None:
        self._down = it

    @property
    def up(self) -> torch.Tensor:  # type: ignore[override]
        """[out, rank]."""
        return self._up.float()

    @up.setter
    def up(self, it: torch.Tensor) -> None:
        self._up = it


@dataclass
class ConceptLoRA:
    """A concept LoRA: its pairs by their names in the file, and what it was trained on.

    `others` holds what no pair can carry, of LoRAs of other kinds made elsewhere (convolutions, LoHa, LoKr, DoRA, whole
    weights): the file's tensors by layer and then by suffix. `concept` and `training` are JSON-like dicts,
    empty for a LoRA made elsewhere. `target_prompt` is the encoded
    target prompt as {"cross_attn": [1, tokens, width], ...}, with which the gate compares; `calibration` what is known
    of its scores.
    """

    pairs: Mapping[str, LowRankPair]
    concept: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    target_prompt: dict[str, torch.Tensor] = field(default_factory=dict)
    calibration: Calibration | None = None
    others: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    preview: torch.Tensor | None = None  # [H, W, 3], what it does in a picture; kept beside its file

    def without_prompts(self) -> ConceptLoRA:
        """The same, with nothing that can be read or seen of its concept; the target prompt's encoding it needs."""
        return replace(self, concept={}, preview=None)

    @property
    def is_zero(self) -> bool:
        """True when no pair changes anything, as right after creation."""
        acts = (bool(largest(pair.up) and largest(pair.down) and pair.alpha) for pair in self.pairs.values())
        return not self.others and not any(acts)

    @property
    def is_finite(self) -> bool:
        """True when every weight is a number."""
        tensors = [it for pair in self.pairs.values() for it in (pair.up, pair.down)]
        tensors += [it for its in self.others.values() for it in its.values()]
        return all(map(all_finite, tensors))
