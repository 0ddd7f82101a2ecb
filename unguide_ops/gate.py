"""From scores to a decision: does a prompt touch the erased concept? Pure torch.

A score compares predictions at one latent and is higher the more the prompt touches the concept. c is the prompt, c*
the target prompt; predictions are [B, ...], scores [B].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from statistics import fmean, stdev

import torch
from scipy.stats import t as student

from .effect import LEAST_EFFECT

CALIBRATED, PAPER = "calibrated", "paper"
MODES = (CALIBRATED, PAPER)
NO_NUMBER = (
    "The gate cannot decide: the model or the LoRA predicts what is no number (NaN or infinite). Load the model in "
    "another precision, or train the LoRA again."
)
TAILS = 3  # normal ones would be infinitely many
FEWEST = 3  # scores of unrelated prompts that a threshold can be made of


@dataclass(frozen=True)
class Verdict:
    """A prompt's score, the threshold it is held against, and how likely it means the concept (None: not known).

    Raises ValueError for what is no number: compared with one, every prompt would be unrelated.
    """

    score: float
    threshold: float
    probability: float | None = None

    def __post_init__(self):
        if not (isfinite(self.score) and isfinite(self.threshold)):
            raise ValueError(NO_NUMBER)

    @property
    def erased(self) -> bool:
        """Does it touch the erased concept?"""
        return self.score > self.threshold

    @property
    def beyond(self) -> float:
        """How far the score lies beyond the threshold; negative before it."""
        return self.score - self.threshold

    @property
    def decided(self) -> str:
        """The decision in words."""
        return "recognised as the concept" if self.erased else "not the concept, left to the base model"

    def explained(self) -> str:
        """The calibrated gate's decision, and why."""
        return (f"{self.decided}. The LoRA changes it {self.score:.0%} as much as its target; from "
                f"{self.threshold:.0%} on it counts as the concept.")  # fmt: skip

    def report(self) -> dict:
        """JSON-like."""
        return {**asdict(self), "erased": self.erased}


def change_norm(base: torch.Tensor, lora: torch.Tensor) -> torch.Tensor:
    """The paper's score (section 3.2): `||e_lora(c) - e_base(c)||_2` over the flattened latent."""
    return (lora - base).flatten(1).norm(dim=1)


def response(base, lora, base_target, lora_target) -> torch.Tensor:
    """How much of the LoRA's change under the target prompt it makes under this one: 1 as much, 0 none of it.

    With d(c) = e_lora(c) - e_base(c): `<d(c), d(c*)> / ||d(c*)||^2`. Not in the paper, whose norm depends on the LoRA's
    strength and the noise level, and counts changes of any kind; this is a pure number, the same in x0, eps and v.
    NaN where a prediction is no number. Raises ValueError when the LoRA changes nothing under its target: steering
    would change nothing either.
    """
    change, goal = (lora - base).flatten(1).float(), (lora_target - base_target).flatten(1).float()
    scores = (change * goal).sum(1) / goal.square().sum(1)
    effect = goal.norm(dim=1) / base_target.flatten(1).float().norm(dim=1)
    if (effect <= LEAST_EFFECT).any():
        raise ValueError(
            "The gate cannot decide: under its own target prompt the LoRA changes nothing. Train it again, or check "
            "that it was made for this model."
        )
    return scores.where(scores.isfinite(), torch.nan)


def threshold(unrelated: Sequence[float], false_positive_rate: float) -> float:
    """The score that one more unrelated prompt exceeds with this probability, given some that are known.

    A one-sided prediction limit for scores with heavy tails (Student's t with TAILS degrees of freedom): of everyday
    prompts most are not touched at all, and one in a hundred is a near thing. The fewer are known, the higher. Raises
    ValueError for less than FEWEST.
    """
    if len(unrelated) < FEWEST:
        raise ValueError(
            f"There are scores of {len(unrelated)} unrelated prompts, too few for a threshold: at least {FEWEST}."
        )
    center, scale = _heavy_tails(unrelated)
    return center + float(student.isf(false_positive_rate, TAILS)) * scale


def probability(score: float, unrelated: Sequence[float]) -> float:
    """That a prompt with this score means the concept, if half of all prompts did.

    Unrelated prompts score as those that are known (see `threshold`); names for the concept anywhere between 0 and the
    target's 1, the higher the likelier: density 2 * score.
    """
    center, scale = _heavy_tails(unrelated)
    named = 2 * min(max(score, 0.0), 1.0)
    return named / (named + float(student.pdf((score - center) / scale, TAILS)) / scale)


def _heavy_tails(scores: Sequence[float]) -> tuple[float, float]:
    """Centre and scale of the t distribution that one more score would have."""
    return fmean(scores), max(1e-6, stdev(scores) * ((TAILS - 2) / TAILS * (1 + 1 / len(scores))) ** 0.5)
