"""The weight w, and the blend of base and LoRA predictions (paper section 3.3). Pure torch."""

from __future__ import annotations

import math

import torch


def blend(base: torch.Tensor, lora: torch.Tensor, w: float | torch.Tensor, eta: float = 1.0) -> torch.Tensor:
    """UnGuidance: `e = w * e_base + (1 - w) * e_lora`, x0 of shape [B, ...], w a number or [B, 1, ...].

    w = 1 is the base, w = 0 the LoRA, w = -1 steers away (2 * lora - base), w = 2 away from the LoRA. The weights sum
    to 1 and classifier-free guidance is linear, so cond and uncond predictions may be blended separately, before
    guidance, in x0, eps, v or velocity space: the result is the same number.

    A w below 0 or above 1 goes beyond what either model predicts, and raises contrast. `eta` < 1 keeps that share of
    the excess that is parallel to the prediction itself, 0 none of it (adaptive projected guidance, arXiv 2410.02416);
    then x0 is the space to blend in.
    """
    if eta == 1:
        return w * base + (1.0 - w) * lora
    w = torch.as_tensor(w, dtype=base.dtype, device=base.device)
    inside = w.clamp(0.0, 1.0)
    between, excess = inside * base + (1.0 - inside) * lora, (w - inside) * (base - lora)
    return between + excess - (1.0 - eta) * _projection(excess, between)


def _projection(vector: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """The projection of each row on its direction."""
    unit = torch.nn.functional.normalize(direction.flatten(1), dim=1)
    return ((vector.flatten(1) * unit).sum(1, keepdim=True) * unit).view_as(vector)


def combine(base: torch.Tensor, blends: list[torch.Tensor]) -> torch.Tensor:
    """Several concepts at once, each with its blend: `e = e_base + sum_i (1 - w_i) * (e_i - e_base)`, in any order."""
    return blends[0] if len(blends) == 1 else base + sum(it - base for it in blends)


def soft_w(margin: float, softness: float, w_erased: float, w_unrelated: float) -> float:
    """The w for a score that lies `margin` above the threshold: a sigmoid from w_unrelated to w_erased.

    It reaches either end at a distance of `softness` from the threshold; a softness of 0 is a hard decision.
    """
    if abs(margin) >= softness:
        return w_erased if margin > 0 else w_unrelated
    return w_unrelated + (w_erased - w_unrelated) / (1 + math.exp(-4 * margin / softness))
