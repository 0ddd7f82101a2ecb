"""What has to be known of a tensor's numbers before anything is calculated with them, in any type and little memory."""

from __future__ import annotations

import math

import torch

AT_ONCE = 1 << 22  # numbers


def largest(tensor: torch.Tensor) -> float:
    """The largest absolute value, 0 if it is empty; NaN where any of its numbers is none."""
    parts = [part.float().abs().max() for part in tensor.flatten().split(AT_ONCE) if len(part)]
    return torch.stack(parts).max().item() if parts else 0.0


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether none is NaN or infinite."""
    return math.isfinite(largest(tensor))
