"""What a concept LoRA's gate knows of its own scores: measured once, kept in the LoRA's file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from statistics import fmean
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .decision import GateDecision
from .scores import fused
from .threshold import concept_probability, score_threshold

VERSION = 1
MOST_SCORES = 1000  # in a group
HIGHEST_SCORE = 1e6  # the target prompt's is 1
LARGEST_SIDE = 2**16  # pixels
HIGHEST_THRESHOLD = 0.25
"""Of the way from the unrelated prompts' mean to that of the concept's names; chosen on the `choose` words of the
benchmark."""

ASKED_FROM = 0.15
"""Of the same way among the votes of the words alone: below, the model need not be asked. Chosen on the same words, of
which it loses none that the model would find."""

MISMATCH = "This LoRA's gate was calibrated {}: put UnGuide Calibrate after the LoRA."

Score = Annotated[float, Field(ge=-HIGHEST_SCORE, le=HIGHEST_SCORE, allow_inf_nan=False)]
Scores = Annotated[tuple[Score, ...], Field(max_length=MOST_SCORES)]


class KnownScores(BaseModel):
    """The scores of prompts of known meaning."""

    model_config = ConfigDict(frozen=True)

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

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many prompts there are of each group."""
        return tuple(map(len, (self.neutral, self.preserved, self.target, self.synonyms)))


class LevelScores(KnownScores):
    """The scores of the vote of the prediction at one noise level, from one seed each."""

    sigma: float = Field(gt=0, allow_inf_nan=False)  # in the host's sigma space


class Calibration(BaseModel):
    """The scores at several noise levels, the highest level first, and what these scores depend on.

    A prompt's score is the geometric mean of two votes (`scores.fused`): how much of the LoRA's change under the target
    prompt it makes in the model's prediction (`scores.response`), and how plainly its words name the concept
    (`ConceptText.response`). Words far from the concept decide alone (`words_alone`). Where they cannot be read,
    the prediction votes alone, with a threshold of its own.
    """

    model_config = ConfigDict(frozen=True)

    version: int = Field(default=VERSION, ge=1, le=VERSION)
    base: str = Field(max_length=100)  # fingerprint of the model's weights
    width: int = Field(gt=0, le=LARGEST_SIDE)  # pixels
    height: int = Field(gt=0, le=LARGEST_SIDE)
    cfg: float = Field(ge=0, le=1000, allow_inf_nan=False)  # of the steps between the levels
    steps: int = Field(gt=0, le=1000)  # of the DDIM schedule
    levels: tuple[LevelScores, ...] = Field(min_length=1, max_length=50)
    text: KnownScores | None = None  # the vote of the words; None if they cannot be read
    false_alarms: float | None = Field(default=None, ge=0, le=1)  # see `error_rates`, at the default rate
    misses: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _levels_fit_together(self) -> Calibration:
        if len(self.levels) > self.steps:
            raise ValueError(f"there are {len(self.levels)} `levels` of {self.steps} `steps`: a step has one at most")
        sigmas = [level.sigma for level in self.levels]
        if any(later >= before for before, later in zip(sigmas, sigmas[1:], strict=False)):
            raise ValueError("`sigma` must become smaller from each of the `levels` to the next")
        if len({it.sizes for it in (*self.levels, *([self.text] if self.text else []))}) > 1:
            raise ValueError("the `levels` and `text` must hold scores of the same prompts, so as many of each group")
        return self

    def words_alone(self, text: float | None) -> GateDecision | None:
        """The decision on a prompt whose words, with this vote, are far from the concept; None: the model is asked."""
        if self.text is None or text is None:
            return None
        mean = fmean(self.text.unrelated)
        limit = mean + ASKED_FROM * (fmean(self.text.erased) - mean)
        return GateDecision(text, limit, votes=(None, text)) if text < limit else None

    def decide(
        self, scores: Mapping[float, float], false_positive_rate: float, text: float | None = None,
        words_first: bool = True,
    ) -> GateDecision:  # fmt: skip
        """The decision on a prompt with these scores of the prediction by noise level, and this one of its words.

        With `words_first` it is what `words_alone` decides, if that is something, and the fused score says otherwise.
        Score, threshold and probability are means over the levels. Raises ValueError if nothing can be decided: for
        scores that are NaN or infinite, and for a threshold that not even the target's score of 1 exceeds.
        """
        text = text if self.text is not None else None
        has_text = text is not None
        by_sigma = {sigma: fused(score, text) for sigma, score in scores.items()}
        decision = GateDecision(
            fmean(by_sigma.values()),
            fmean(self.threshold(sigma, false_positive_rate, has_text) for sigma in by_sigma),
            fmean(self.probability(sigma, score, has_text) for sigma, score in by_sigma.items()),
            votes=(fmean(scores.values()), text),
        )
        if decision.threshold >= 1:
            raise ValueError(
                "The gate cannot decide: when this LoRA was calibrated, everyday prompts scored as high as its target. "
                "Put UnGuide Calibrate after it, or train it again."
            )
        by_words = self.words_alone(text) if words_first and decision.erased else None
        return by_words or decision

    def threshold(self, sigma: float, false_positive_rate: float, has_text: bool | None = None) -> float:
        """The score above which a prompt means the concept, at any noise level: interpolated in log sigma.

        Unrelated prompts are mistaken for the concept at this rate, or more often: however noisy their scores are, the
        threshold is at most HIGHEST_THRESHOLD of the way from their mean to that of the concept's names. A false alarm
        is better than a name for the concept that gets through. `has_text`: whether the words vote, None: if they can.
        """

        def threshold_at(level: LevelScores) -> float:
            known = self.known(level, has_text)
            limit, mean = score_threshold(known.unrelated, false_positive_rate), fmean(known.unrelated)
            return min(limit, mean + HIGHEST_THRESHOLD * (fmean(known.erased) - mean))

        return self._interpolate(sigma, threshold_at)

    def probability(self, sigma: float, score: float, has_text: bool | None = None) -> float:
        """The probability that a prompt with this score means the concept (see `threshold.concept_probability`)."""
        return self._interpolate(sigma, lambda level: concept_probability(score, self.known(level, has_text).unrelated))

    def known(self, level: LevelScores, has_text: bool | None = None) -> KnownScores:
        """The scores of prompts of known meaning at a level: means of both votes, or the prediction's alone."""
        if self.text is None or has_text is False:
            return level
        by_group = ((group, zip(getattr(level, group), scores, strict=True)) for group, scores in self.text)
        return KnownScores(**{group: tuple(fused(*votes) for votes in pairs) for group, pairs in by_group})

    def error_rates(self, false_positive_rate: float) -> tuple[float, float]:
        """The shares of known unrelated prompts that are taken for the concept, and of its names that are not."""
        level = self.levels[0]
        known, threshold, words = self.known(level), self.threshold(level.sigma, false_positive_rate), self.text

        def share_erased(scores: Sequence[float], votes: Iterable[float | None]) -> float:
            pairs = zip(scores, votes, strict=False)
            return fmean(score > threshold and self.words_alone(vote) is None for score, vote in pairs)

        of_unrelated = share_erased(known.unrelated, words.unrelated if words else repeat(None))
        return of_unrelated, 1 - share_erased(known.erased, words.erased if words else repeat(None))

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
