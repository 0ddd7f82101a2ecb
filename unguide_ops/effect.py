"""Whether a LoRA had an effect, measured: what is there with it against what is there without it. Pure torch."""

from __future__ import annotations

import torch

ROUNDING = 1e-6  # of a tensor's length: what equal results of a few fp32 operations differ by
LEAST_EFFECT = 1e-5  # of a prediction's length; below is rounding in one layer, seen through all that follow


class NoEffectError(RuntimeError):
    """The picture would be the base model's, though it was to be steered."""


def apart(before: torch.Tensor, after: torch.Tensor, share: float = ROUNDING) -> torch.Tensor:
    """For each row [B, ...]: whether they differ by more than this share of their length, in shape, or by NaN."""
    if before.shape != after.shape:
        return torch.ones(len(before), dtype=torch.bool, device=before.device)
    distance = (before.float() - after.float().to(before.device)).flatten(1).norm(dim=1)
    return ~(distance <= share * before.float().flatten(1).norm(dim=1))


def is_changed(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether a weight, in the dtype that it is kept in, is another one by more than rounding."""
    return bool(apart(before[None], after[None]).any())
