"""Classifier-free guidance and deterministic DDIM sampling, for training, the probe and the preview grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch


def classifier_free_guidance(uncond: torch.Tensor, cond: torch.Tensor, scale: float) -> torch.Tensor:
    """`uncond + scale * (cond - uncond)`, for predictions of any shape."""
    return uncond + scale * (cond - uncond)


def ddim_step(x: torch.Tensor, denoised: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
    """One deterministic (eta 0) DDIM step from noise level `sigma` to `sigma_next`, in the host's sigma space."""
    return denoised + (x - denoised) * (sigma_next / sigma)


def ddim_trajectory(
    x: torch.Tensor, sigmas: Sequence[float], denoise: Callable[[torch.Tensor, float], torch.Tensor]
) -> Iterator[torch.Tensor]:
    """The latents at each of the descending noise levels, starting with x [B, ...] at the first.

    `denoise(x, sigma)` predicts x0. It is called only when the next latents are requested, so a caller that stops early
    makes no further model calls.
    """
    yield x
    for sigma, sigma_next in pairwise(sigmas):
        x = ddim_step(x, denoise(x, sigma), sigma, sigma_next)
        yield x
