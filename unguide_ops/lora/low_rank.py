"""The low-rank pairs that a LoRA consists of, and the slices of layers that they change. Pure torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import linear

from ..magnitude import FP16_MAX, max_abs


@dataclass(frozen=True)
class LayerSlice:
    """The outputs that a pair changes: all of a module of the diffusion model, or some of a fused projection's.

    `path` is the module's path; the slice begins at the output `first` and has `outputs` of them, None meaning all.
    """

    path: str
    first: int = 0
    outputs: int | None = None

    def __str__(self) -> str:
        if self.outputs is None:
            return self.path
        return f"{self.path}, outputs {self.first} to {self.first + self.outputs - 1}"

    @property
    def rows(self) -> slice:
        """The rows of the module's weight [out, in] that make these outputs."""
        return slice(self.first, None if self.outputs is None else self.first + self.outputs)


@dataclass
class LowRankPair:
    """A low-rank change of one Linear, `y += scale * up @ down @ x` (paper section 3; A = down^T, B = up^T).

    `scale` is the paper's alpha, a plain multiplier. In files, as kohya and the host have them, alpha is
    `scale * rank`, and is divided by the rank when they are loaded.
    """

    down: torch.Tensor  # [rank, in]
    up: torch.Tensor  # [out, rank]
    scale: float

    @classmethod
    def create(cls, inputs: int, outputs: int, rank: int, scale: float, generator: torch.Generator) -> LowRankPair:
        """A pair that changes nothing yet: down ~ N(0, 1/rank), up = 0; fp32 on the CPU.

        Raises ValueError if `rank` exceeds the layer's inputs or outputs.
        """
        if rank > min(inputs, outputs):
            raise ValueError(
                f"`rank` is {rank}, but a target layer has {inputs} inputs and {outputs} outputs: "
                f"use at most {min(inputs, outputs)}."
            )
        down = torch.randn(rank, inputs, generator=generator) / rank**0.5
        return cls(down, torch.zeros(outputs, rank), scale)

    @property
    def rank(self) -> int:
        """The number of rows of `down` and of columns of `up`."""
        return self.down.shape[0]

    def change(self, x: torch.Tensor) -> torch.Tensor:
        """What the pair adds to the Linear's output for x [..., in]: [..., out], in x's dtype and on its device."""
        return linear(linear(x, self.down.to(x)), self.up.to(x)) * self.scale

    def in_file(self) -> dict[str, torch.Tensor]:
        """The pair's tensors in a file in kohya's layout, by the suffix of their names."""
        return {
            "lora_down.weight": self.down.contiguous(),
            "lora_up.weight": self.up.contiguous(),
            "alpha": torch.tensor(self.scale * self.rank),
        }

    def narrowed(self, first: int, outputs: int) -> LowRankPair:
        """The pair restricted to `outputs` of its outputs, from the output `first` on."""
        return LowRankPair(self.down, self.up[first : first + outputs], self.scale)

    def widened(self, first: int, outputs: int) -> LowRankPair:
        """A pair for a layer of `outputs`, which changes those from `first` on as this pair does, and no others."""
        after = outputs - first - self.up.shape[0]
        return LowRankPair(self.down, torch.nn.functional.pad(self.up, (0, 0, first, after)), self.scale)

    def with_unit_scale(self) -> LowRankPair:
        """The same change with scale 1, for files: diffusers misreads those in which alpha differs between layers.

        If `up` would exceed half precision, a power of two is moved from it to `down`.
        """
        down, up = self.down, self.up * self.scale
        excess = max_abs(up) / FP16_MAX
        if excess > 1 and math.isfinite(excess):
            power = 2.0 ** math.ceil(math.log2(excess))
            down, up = down * power, up / power
        return LowRankPair(down, up, 1.0)

    def with_scale(self, scale: float) -> LowRankPair:
        """The same change with another scale, since a learning rate suits only the scale that it was chosen for."""
        return LowRankPair(self.down, self.up * (self.scale / scale), scale)

    def to(self, *args, **kwargs) -> LowRankPair:
        """A copy on another device or in another dtype, detached from any graph."""
        return LowRankPair(self.down.detach().to(*args, **kwargs), self.up.detach().to(*args, **kwargs), self.scale)


class StoredPair(LowRankPair):
    """A pair that is kept in its file's dtype to save memory, and converted to fp32 whenever it is read."""

    @property
    def down(self) -> torch.Tensor:  # type: ignore[override]
        """The first factor, [rank, in], fp32."""
        return self._down.float()

    @down.setter
    def down(self, tensor: torch.Tensor) -> None:
        self._down = tensor

    @property
    def up(self) -> torch.Tensor:  # type: ignore[override]
        """The second factor, [out, rank], fp32."""
        return self._up.float()

    @up.setter
    def up(self, tensor: torch.Tensor) -> None:
        self._up = tensor
