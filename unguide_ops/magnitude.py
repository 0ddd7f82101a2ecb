"""The largest absolute value of a tensor and whether it is finite, in any dtype and with little extra memory."""

from __future__ import annotations

import math

import torch

FP16_MAX = 65504.0  # larger weights become infinite on every device that computes in half precision
CHUNK = 1 << 20  # elements converted to fp32 at a time


def max_abs(tensor: torch.Tensor) -> float:
    """The largest absolute value of a tensor of any shape: 0 if it is empty, NaN if it contains NaN."""
    largest = 0.0
    for chunk in tensor.flatten().split(CHUNK):
        value = chunk.float().abs().max().item() if len(chunk) else 0.0
        if math.isnan(value):
            return value
        largest = max(largest, value)
    return largest


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether no element is NaN or infinite."""
    return math.isfinite(max_abs(tensor))
