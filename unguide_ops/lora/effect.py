"""Whether a LoRA has an effect: comparing weights and predictions with it to those without it. Pure torch."""

from __future__ import annotations

import torch

ROUNDING = 1e-6  # of a tensor's norm: the most by which equal results of a few fp32 operations differ
LEAST_EFFECT = 1e-5  # of a prediction's norm; less may be rounding in one layer, amplified by the layers after it


class NoEffectError(RuntimeError):
    """Raised if a LoRA changes nothing, so that the picture would be the base model's."""


def rows_differ(before: torch.Tensor, after: torch.Tensor, share: float = ROUNDING) -> torch.Tensor:
    """Whether the rows of two tensors [B, ...] differ by more than this share of their norm, or by NaN: bool [B].

    All rows differ if the shapes do.
    """
    if before.shape != after.shape:
        return torch.ones(len(before), dtype=torch.bool, device=before.device)
    distance = (before.float() - after.float().to(before.device)).flatten(1).norm(dim=1)
    return ~(distance <= share * before.float().flatten(1).norm(dim=1))


def is_changed(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether a weight was changed by more than rounding in its own dtype."""
    return bool(rows_differ(before[None], after[None]).any())
