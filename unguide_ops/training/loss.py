"""The training objective (paper section 3.1) and the retain term, which the paper does not have. Pure torch."""

import torch


def erasing_target(e_target: torch.Tensor, e_reference: torch.Tensor, negative_guidance: float) -> torch.Tensor:
    """What the LoRA should predict under the target prompt: `e(c_m) - g * (e(c) - e(c_m))`, any shape.

    e are the base model's predictions at one latent, under the target prompt c and the reference prompt c_m; g is the
    negative guidance.
    """
    return e_reference - negative_guidance * (e_target - e_reference)


def prediction_losses(predicted: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
    """The paper's loss, the mean squared error of each prediction [N, ...] from its goal: [N].

    The goal under a prompt to erase is `erasing_target`, under a prompt to retain the base model's own prediction.
    """
    return (predicted.float() - goals.float()).square().flatten(1).mean(1)
