"""A second look, later in the run, at pictures that the gate left to the base model.

A prompt made by gradient descent can deceive LoRA and gate, but it must still draw the concept, and the base model can
be asked whether it does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from .. import host
from ..gate.scores import guidance_response
from .config import SteeringConfig
from .report import PictureDecision

AT = 0.3  # the share of the run after which it is taken
THRESHOLD = 0.45
"""From this score on a picture becomes the concept: chosen on prompts of words, none of which is taken for it."""


def scores(call: host.PredictionCall, base: Sequence[torch.Tensor], target: str) -> list[float] | None:
    """How much of the guidance towards the target each picture has (`guidance_response`), for one model call a picture.

    `base` is the base's x0 for each cond of the call, `target` the name of the target prompt in the run. Empty if the
    call predicts nothing for a negative prompt, None if nothing for a positive one.
    """
    positive, negative = call.positive_and_negative()
    if positive is None:
        return None
    if negative is None:
        return []
    of_target = call.predict_instead(positive, target)
    return guidance_response(base[positive], base[negative], of_target).tolist()


def revised(
    decisions: Sequence[PictureDecision], found: Sequence[float], config: SteeringConfig
) -> list[PictureDecision]:
    """The decisions, with those revised by which a picture that becomes the concept was left to the base model."""
    if len(found) != len(decisions):  # a context window: its rows are frames of one video
        found = [max(found)] * len(decisions)
    return [
        dataclasses.replace(decision, w=config.w_erased, second_look=score)
        if decision.w == config.w_unrelated and not score < THRESHOLD
        else decision
        for decision, score in zip(decisions, found, strict=True)
    ]
