"""What a concept LoRA's gate knows of its own scores: measured once, kept in the LoRA's file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from statistics import fmean
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from . import gate

VERSION = 1
MOST = 1000  # scores of a group
QUARTER = 0.25  # of the way to the target; chosen on the `choose` words of the benchmark
HIGHEST = 1e6  # score; the target's is 1
LARGEST = 2**16  # pixels of a side
MISFIT = "This LoRA's gate was calibrated {}: put UnGuide Calibrate behind the LoRA."

Score = Annotated[float, Field(ge=-HIGHEST, le=HIGHEST, allow_inf_nan=False)]
Scores = Annotated[tuple[Score, ...], Field(max_length=MOST)]


class Level(BaseModel):
    """The scores of known prompts at one noise level, one seed each."""

    model_config = ConfigDict(frozen=True)

    sigma: float = Field(gt=0, allow_inf_nan=False)  # in the host's sigma space
    neutral: Scores  # everyday captions, the empty prompt first
    preserved: Scores  # prompts that the concept preserves
    target: Scores = Field(min_length=1)
    synonyms: Scores = ()

    @cached_property
    def unrelated(self) -> tuple[float, ...]:
        """Of all prompts that do not mean the concept."""
        return (*self.neutral, *self.preserved)

    @cached_property
    def erased(self) -> tuple[float, ...]:
        """Of all that do."""
        return (*self.target, *self.synonyms)


class Calibration(BaseModel):
    """The scores at several noise levels, the highest first, and what they depend on."""

    model_config = ConfigDict(frozen=True)

    version: int = Field(default=VERSION, ge=1, le=VERSION)
    base: str = Field(max_length=100)  # fingerprint of the model's weights
    width: int = Field(gt=0, le=LARGEST)  # pixels
    height: int = Field(gt=0, le=LARGEST)
    cfg: float = Field(ge=0, le=1000, allow_inf_nan=False)  # of the steps between the levels
    steps: int = Field(gt=0, le=1000)  # of the DDIM schedule
    levels: tuple[Level, ...] = Field(min_length=1, max_length=50)

    @model_validator(mode="after")
    def _levels_fit_together(self) -> Calibration:
        if len(self.levels) > self.steps:
            raise ValueError(f"there are {len(self.levels)} `levels` of {self.steps} `steps`: a step has one at most")
        sigmas = [it.sigma for it in self.levels]
        if any(later >= before for before, later in zip(sigmas, sigmas[1:], strict=False)):
            raise ValueError("`sigma` must become smaller from each of the `levels` to the next")
        sizes = {tuple(map(len, (it.neutral, it.preserved, it.target, it.synonyms))) for it in self.levels}
        if len(sizes) > 1:
            raise ValueError("the `levels` must hold scores of the same prompts, so as many of each group")
        return self

    def judge(self, course: Mapping[float, float], false_positive_rate: float) -> gate.Verdict:
        """On a prompt's scores at some noise levels: score, threshold and probability are means over them.

        Raises ValueError where nothing can be decided: scores that are no numbers, or a threshold that not even the
        target's score of 1 exceeds.
        """
        verdict = gate.Verdict(
            fmean(course.values()),
            fmean(self.threshold(sigma, false_positive_rate) for sigma in course),
            fmean(self.probability(sigma, score) for sigma, score in course.items()),
        )
        if verdict.threshold >= 1:
            raise ValueError(
                "The gate cannot decide: when this LoRA was calibrated, everyday prompts scored as high as its target. "
                "Put UnGuide Calibrate behind it, or train it again."
            )
        return verdict

    def threshold(self, sigma: float, false_positive_rate: float) -> float:
        """The score beyond which a prompt means the concept, at any noise level: between levels, in log sigma.

        With it unrelated prompts are taken for the concept at this rate, or at a higher one: the threshold is at most
        a quarter of the way from their mean to the target's 1, however noisy they are. Rather a false alarm than a name
        for the concept that gets through.
        """

        def at(level: Level) -> float:
            limit, mean = gate.threshold(level.unrelated, false_positive_rate), fmean(level.unrelated)
            return min(limit, mean + QUARTER * (1 - mean))

        return self._at(sigma, at)

    def probability(self, sigma: float, score: float) -> float:
        """That a prompt with this score means the concept (see `gate.probability`)."""
        return self._at(sigma, lambda level: gate.probability(score, level.unrelated))

    def _at(self, sigma: float, value) -> float:
        above = min((level for level in self.levels if level.sigma >= sigma), key=_sigma, default=None)
        below = max((level for level in self.levels if level.sigma <= sigma), key=_sigma, default=None)
        if above is None or below is None or above is below:
            return value(above or below)
        share = math.log(sigma / below.sigma) / math.log(above.sigma / below.sigma)
        return (1 - share) * value(below) + share * value(above)

    def check_base(self, fingerprint: str) -> None:
        """Raises ValueError for another model than it was made on: what it knows holds for that one alone."""
        if fingerprint != self.base:
            raise ValueError(MISFIT.format("on another base model, or this one in another precision"))

    def misfits(self, size: tuple[int, int] | None, cfg: float | None) -> list[str]:
        """Sentences on where a picture's size (width and height in pixels) and cfg, if known, differ from its own."""
        found = []
        if size is not None and size != (self.width, self.height):
            found.append(f"at {self.width} x {self.height} pixels, not {size[0]} x {size[1]}")
        if cfg is not None and abs(cfg - self.cfg) > 0.5 * self.cfg:
            found.append(f"with cfg {self.cfg:g}, not {cfg:g}")
        return [MISFIT.format(it) for it in found]


def _sigma(level: Level) -> float:
    return level.sigma
