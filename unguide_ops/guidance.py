"""w, and the blend (paper section 3.3). Pure torch."""

from __future__ import annotations

import math

import torch


def blend(base: torch.Tensor, lora: torch.Tensor, w: float | torch.Tensor) -> torch.Tensor:
    """UnGuidance: `e = w * e_base + (1 - w) * e_lora`, any shape.

    w = 1 is the base, w = 0 the LoRA, w = -1 steers away (2 * lora - base), w = 2 away from the LoRA. The weights sum
    to 1 and classifier-free guidance is linear, so cond and uncond predictions may be blended apart, before guidance,
    in x0, eps, v or velocity space: the result is the same number.
    """
    return w * base + (1.0 - w) * lora


def combine(base: torch.Tensor, blends: list[torch.Tensor]) -> torch.Tensor:
    """Several concepts at once, each with its blend: `e = e_base + sum_i (1 - w_i) * (e_i - e_base)`, in any order."""
    return blends[0] if len(blends) == 1 else base + sum(it - base for it in blends)


def soft_w(beyond: float, softness: float, w_erased: float, w_unrelated: float) -> float:
    """W for a score that lies so far beyond the threshold: a sigmoid from w_unrelated to w_erased.

    At a distance of `softness` from the threshold it has arrived at either; 0 is a hard decision.
    """
    if abs(beyond) >= softness:
        return w_erased if beyond > 0 else w_unrelated
    return w_unrelated + (w_erased - w_unrelated) / (1 + math.exp(-4 * beyond / softness))
