"""The training objective (paper section 3.1), its on-policy step, and the retain term. Pure torch."""

import torch


def erasing_target(e_target: torch.Tensor, e_reference: torch.Tensor, negative_guidance: float) -> torch.Tensor:
    """What the LoRA shall predict when asked for the target: `e(c_m) - g * (e(c) - e(c_m))`, any shape.

    e are the base model's predictions at one latent: c the target prompt, c_m the reference prompt, g the negative
    guidance.
    """
    return e_reference - negative_guidance * (e_target - e_reference)


def row_losses(predicted: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
    """The paper's loss, MSE, of each prediction [N, ...] to what is wanted of it: [N].

    Wanted is `erasing_target` under the target prompt. Not in the paper: under a retained prompt, the base's own.
    """
    return (predicted.float() - goals.float()).square().flatten(1).mean(1)


def classifier_free_guidance(uncond: torch.Tensor, cond: torch.Tensor, scale: float) -> torch.Tensor:
    """`uncond + scale * (cond - uncond)`, any shape."""
    return uncond + scale * (cond - uncond)


def ddim_step(x: torch.Tensor, denoised: torch.Tensor, sigma: float, sigma_next: float) -> torch.Tensor:
    """One deterministic (eta 0) DDIM step from noise level `sigma` to `sigma_next`, in the host's sigma space."""
    return denoised + (x - denoised) * (sigma_next / sigma)
