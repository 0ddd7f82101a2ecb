"""The gate's scores: how strongly the LoRA changes the prediction for a prompt. Pure torch.

A score compares predictions made at one latent, and is higher the more the prompt touches the concept. c is the prompt,
c* the target prompt; predictions are [B, ...], scores [B].
"""

from __future__ import annotations

import math

import torch

from ..lora.effect import LEAST_EFFECT

NOT_FINITE = (
    "The gate cannot decide: the model or the LoRA predicts NaN or infinite values. Load the model in another "
    "precision, or train the LoRA again."
)


def fused(prediction: float, words: float | None) -> float:
    """The score of a prompt: the geometric mean of the votes of the prediction (`response`) and of its words.

    Where one is sure and the other is not, as for a word among many or for a name never seen, it is still high; where
    one sees nothing of the concept, it is 0. Without a vote of the words it is the prediction's.
    """
    return prediction if words is None else math.sqrt(max(prediction, 0.0) * max(words, 0.0))


def guidance_response(base: torch.Tensor, base_negative: torch.Tensor, base_target: torch.Tensor) -> torch.Tensor:
    """How much of the guidance towards the target prompt the base model's guidance under this prompt holds, [B].

    With g(c) = e_base(c) - e_base(negative): `<g(c), g(c*)> / ||g(c*)||^2`. It asks the base model alone what the
    picture is becoming, so that a prompt made to deceive the LoRA and its gate is still seen for what it draws.
    """
    guidance, target = (base - base_negative).flatten(1).float(), (base_target - base_negative).flatten(1).float()
    return (guidance * target).sum(1) / target.square().sum(1)


def change_norm(base: torch.Tensor, lora: torch.Tensor) -> torch.Tensor:
    """The paper's score (section 3.2): `||e_lora(c) - e_base(c)||_2` over the flattened latent."""
    return (lora - base).flatten(1).norm(dim=1)


def response(
    base: torch.Tensor, lora: torch.Tensor, base_target: torch.Tensor, lora_target: torch.Tensor
) -> torch.Tensor:
    """How much of the LoRA's change under the target prompt it makes under this prompt: 1 as much, 0 none of it.

    With d(c) = e_lora(c) - e_base(c): `<d(c), d(c*)> / ||d(c*)||^2`. Not in the paper, whose norm depends on the LoRA's
    strength and the noise level, and counts changes of any kind; this is a pure number, the same in x0, eps and v.
    NaN if a prediction is NaN or infinite. Raises ValueError if the LoRA changes nothing under the target prompt:
    steering would change nothing either.
    """
    change, target_change = (lora - base).flatten(1).float(), (lora_target - base_target).flatten(1).float()
    scores = (change * target_change).sum(1) / target_change.square().sum(1)
    effect = target_change.norm(dim=1) / base_target.flatten(1).float().norm(dim=1)
    if (effect <= LEAST_EFFECT).any():
        raise ValueError(
            "The gate cannot decide: under its own target prompt the LoRA changes nothing. Train it again, or check "
            "that it was made for this model."
        )
    return scores.where(scores.isfinite(), torch.nan)
