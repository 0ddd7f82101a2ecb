"""What has to be known of a tensor's numbers before anything is calculated with them, in any type and little memory."""

from __future__ import annotations

import math

import torch

LARGEST_NUMBER = 65504.0  # a half's; a LoRA with larger ones is infinite on half of all devices
AT_ONCE = 1 << 20  # numbers


def largest(tensor: torch.Tensor) -> float:
    """The largest absolute value, 0 if it is empty; NaN where any of its numbers is none."""
    highest = 0.0
    for part in tensor.flatten().split(AT_ONCE):
        its = part.float().abs().max().item() if len(part) else 0.0
        if math.isnan(its):
            return its
        highest = max(highest, its)
    return highest


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether none is NaN or infinite."""
    return math.isfinite(largest(tensor))
