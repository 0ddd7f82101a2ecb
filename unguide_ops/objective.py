"""The training objective (paper section 3.1), its on-policy step, and the retain term. Pure torch."""

import torch
from torch.nn.functional import mse_loss


def erasing_target(e_target: torch.Tensor, e_reference: torch.Tensor, negative_guidance: float) -> torch.Tensor:
    """What the LoRA shall predict when asked for the target: `e(c_m) - g * (e(c) - e(c_m))`, any shape.

    e are the base model's predictions at one latent: c the target prompt, c_m the reference prompt, g the negative
    guidance.
    """
    return e_reference - negative_guidance * (e_target - e_reference)


def erasing_loss(e_lora: torch.Tensor, e_target: torch.Tensor, e_reference: torch.Tensor, g: float) -> torch.Tensor:
    """The paper's loss: MSE of the LoRA's prediction under the target prompt to `erasing_target`. A scalar."""
    return mse_loss(e_lora, erasing_target(e_target, e_reference, g))


def retain_loss(e_lora: torch.Tensor, e_base: torch.Tensor) -> torch.Tensor:
    """Not in the paper: under every other prompt the LoRA shall predict what the base predicts. A scalar."""
    return mse_loss(e_lora, e_base)


def classifier_free_guidance(uncond: torch.Tensor, cond: torch.Tensor, scale: float) -> torch.Tensor:
    """`uncond + scale * (cond - uncond)`, any shape."""
    return uncond + scale * (cond - uncond)


def ddim_step(x: torch.Tensor, denoised: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
    """One deterministic (eta 0) DDIM step from noise level `sigma` to `sigma_next`, in the host's sigma space."""
    return denoised + (x - denoised) * (sigma_next / sigma)
