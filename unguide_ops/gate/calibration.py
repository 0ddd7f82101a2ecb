"""What a concept LoRA's gate knows of its own scores: measured once, kept in the LoRA's file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from statistics import fmean
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .decision import GateDecision
from .threshold import concept_probability, score_threshold

VERSION = 1
MOST_SCORES = 1000  # in a group
HIGHEST_SCORE = 1e6  # the target prompt's is 1
LARGEST_SIDE = 2**16  # pixels
HIGHEST_THRESHOLD = 0.25
"""Of the way from the unrelated prompts' mean to the target's 1; chosen on the `choose` words of the benchmark."""

MISMATCH = "This LoRA's gate was calibrated {}: put UnGuide Calibrate after the LoRA."

Score = Annotated[float, Field(ge=-HIGHEST_SCORE, le=HIGHEST_SCORE, allow_inf_nan=False)]
Scores = Annotated[tuple[Score, ...], Field(max_length=MOST_SCORES)]


class LevelScores(BaseModel):
    """The scores of prompts of known meaning at one noise level, from one seed each."""

    model_config = ConfigDict(frozen=True)

    sigma: float = Field(gt=0, allow_inf_nan=False)  # in the host's sigma space
    neutral: Scores  # everyday captions, the empty prompt first
    preserved: Scores  # prompts that the concept preserves
    target: Scores = Field(min_length=1)
    synonyms: Scores = ()

    @cached_property
    def unrelated(self) -> tuple[float, ...]:
        """The scores of all prompts that do not mean the concept."""
        return (*self.neutral, *self.preserved)

    @cached_property
    def erased(self) -> tuple[float, ...]:
        """The scores of all prompts that mean the concept."""
        return (*self.target, *self.synonyms)


class Calibration(BaseModel):
    """The scores at several noise levels, the highest level first, and what these scores depend on."""

    model_config = ConfigDict(frozen=True)

    version: int = Field(default=VERSION, ge=1, le=VERSION)
    base: str = Field(max_length=100)  # fingerprint of the model's weights
    width: int = Field(gt=0, le=LARGEST_SIDE)  # pixels
    height: int = Field(gt=0, le=LARGEST_SIDE)
    cfg: float = Field(ge=0, le=1000, allow_inf_nan=False)  # of the steps between the levels
    steps: int = Field(gt=0, le=1000)  # of the DDIM schedule
    levels: tuple[LevelScores, ...] = Field(min_length=1, max_length=50)

    @model_validator(mode="after")
    def _levels_fit_together(self) -> Calibration:
        if len(self.levels) > self.steps:
            raise ValueError(f"there are {len(self.levels)} `levels` of {self.steps} `steps`: a step has one at most")
        sigmas = [level.sigma for level in self.levels]
        if any(later >= before for before, later in zip(sigmas, sigmas[1:], strict=False)):
            raise ValueError("`sigma` must become smaller from each of the `levels` to the next")
        sizes = {tuple(map(len, (it.neutral, it.preserved, it.target, it.synonyms))) for it in self.levels}
        if len(sizes) > 1:
            raise ValueError("the `levels` must hold scores of the same prompts, so as many of each group")
        return self

    def decide(self, scores: Mapping[float, float], false_positive_rate: float) -> GateDecision:
        """The decision on a prompt with these scores by noise level: score, threshold and probability are means.

        Raises ValueError if nothing can be decided: for scores that are NaN or infinite, and for a threshold that not
        even the target's score of 1 exceeds.
        """
        decision = GateDecision(
            fmean(scores.values()),
            fmean(self.threshold(sigma, false_positive_rate) for sigma in scores),
            fmean(self.probability(sigma, score) for sigma, score in scores.items()),
        )
        if decision.threshold >= 1:
            raise ValueError(
                "The gate cannot decide: when this LoRA was calibrated, everyday prompts scored as high as its target. "
                "Put UnGuide Calibrate after it, or train it again."
            )
        return decision

    def threshold(self, sigma: float, false_positive_rate: float) -> float:
        """The score above which a prompt means the concept, at any noise level: interpolated in log sigma.

        Unrelated prompts are mistaken for the concept at this rate, or more often: however noisy their scores are, the
        threshold is at most a quarter of the way from their mean to the target's 1. A false alarm is better than a name
        for the concept that gets through.
        """

        def threshold_at(level: LevelScores) -> float:
            limit, mean = score_threshold(level.unrelated, false_positive_rate), fmean(level.unrelated)
            return min(limit, mean + HIGHEST_THRESHOLD * (1 - mean))

        return self._interpolate(sigma, threshold_at)

    def probability(self, sigma: float, score: float) -> float:
        """The probability that a prompt with this score means the concept (see `threshold.concept_probability`)."""
        return self._interpolate(sigma, lambda level: concept_probability(score, level.unrelated))

    def _interpolate(self, sigma: float, value: Callable[[LevelScores], float]) -> float:
        above = min((level for level in self.levels if level.sigma >= sigma), key=_sigma, default=None)
        below = max((level for level in self.levels if level.sigma <= sigma), key=_sigma, default=None)
        if below is None:
            return value(self.levels[-1])
        if above is None or above is below:
            return value(below)
        share = math.log(sigma / below.sigma) / math.log(above.sigma / below.sigma)
        return (1 - share) * value(below) + share * value(above)

    def check_base(self, fingerprint: str) -> None:
        """Raises ValueError for another base model than it was made on: its scores hold for that one alone."""
        if fingerprint != self.base:
            raise ValueError(MISMATCH.format("on another base model, or this one in another precision"))

    def mismatches(self, size: tuple[int, int] | None, cfg: float | None) -> list[str]:
        """Warnings if a picture's size (width and height in pixels) or cfg, where known, differ from its own."""
        differences = []
        if size is not None and size != (self.width, self.height):
            differences.append(f"at {self.width} x {self.height} pixels, not {size[0]} x {size[1]}")
        if cfg is not None and abs(cfg - self.cfg) > 0.5 * self.cfg:
            differences.append(f"with cfg {self.cfg:g}, not {cfg:g}")
        return [MISMATCH.format(it) for it in differences]


def _sigma(level: LevelScores) -> float:
    return level.sigma
