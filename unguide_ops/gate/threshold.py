"""How high a score must be to mean the concept, and how likely a score means it: pure statistics.

Both are made from the scores of prompts that are known to be unrelated to the concept. Such scores have heavy tails:
most everyday prompts are hardly changed by the LoRA, and one in a hundred scores nearly as high as the concept. So they
are modelled by Student's t distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from scipy.stats import t as student

DEGREES_OF_FREEDOM = 3  # of Student's t; a normal distribution would have infinitely many
FEWEST_SCORES = 3  # of unrelated prompts, for a threshold


def score_threshold(unrelated: Sequence[float], false_positive_rate: float) -> float:
    """The score that one more unrelated prompt exceeds with this probability, given the scores of some.

    A one-sided prediction limit: the fewer scores there are, the higher it is. Raises ValueError for fewer than
    FEWEST_SCORES.
    """
    if len(unrelated) < FEWEST_SCORES:
        raise ValueError(
            f"There are scores of {len(unrelated)} unrelated prompts, too few for a threshold: at least "
            f"{FEWEST_SCORES}."
        )
    center, scale = _fit(unrelated)
    return center + float(student.isf(false_positive_rate, DEGREES_OF_FREEDOM)) * scale


def concept_probability(score: float, unrelated: Sequence[float]) -> float:
    """The probability that a prompt with this score means the concept, if half of all prompts did.

    Scores of unrelated prompts are taken to be distributed as the given ones (see `score_threshold`); those of prompts
    for the concept to lie between 0 and the target prompt's 1, the higher the likelier: density 2 * score.
    """
    center, scale = _fit(unrelated)
    concept_density = 2 * min(max(score, 0.0), 1.0)
    unrelated_density = float(student.pdf((score - center) / scale, DEGREES_OF_FREEDOM)) / scale
    return concept_density / (concept_density + unrelated_density)


def _fit(scores: Sequence[float]) -> tuple[float, float]:
    """Centre and scale of the t distribution that one more score would have."""
    variance_ratio = (DEGREES_OF_FREEDOM - 2) / DEGREES_OF_FREEDOM * (1 + 1 / len(scores))
    return fmean(scores), max(1e-6, stdev(scores) * variance_ratio**0.5)
