"""The gate's decision on one prompt: its score against a threshold, as data and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite

from .scores import NOT_FINITE

CALIBRATED, PAPER = "calibrated", "paper"
MODES = (CALIBRATED, PAPER)


@dataclass(frozen=True)
class GateDecision:
    """A prompt's score, the threshold it is compared with, and the probability that it means the concept.

    The probability is None if it is unknown. `votes`: those of the prediction and of the words, from which the score
    follows; None for one that was not made. Raises ValueError for a score or threshold that is NaN or infinite: every
    comparison with NaN is false, so that every prompt would pass as unrelated.
    """

    score: float
    threshold: float
    probability: float | None = None
    votes: tuple[float | None, float | None] = (None, None)

    def __post_init__(self):
        if not (isfinite(self.score) and isfinite(self.threshold)):
            raise ValueError(NOT_FINITE)

    @property
    def erased(self) -> bool:
        """Whether the prompt touches the erased concept."""
        return self.score > self.threshold

    @property
    def margin(self) -> float:
        """How far the score lies above the threshold; negative if it lies below."""
        return self.score - self.threshold

    @property
    def outcome(self) -> str:
        """The decision as a phrase, without its reason."""
        return "recognised as the concept" if self.erased else "not the concept, left to the base model"

    def describe(self) -> str:
        """The decision of a calibrated gate and its reason, as sentences."""
        prediction, words = self.votes
        if prediction is None and words is not None:
            return (f"{self.outcome}. Its words name it to {words:.0%}, and below {self.threshold:.0%} the model need "
                    f"not be asked.")  # fmt: skip
        both = "" if words is None or prediction is None else f", and its words name it to {words:.0%}"
        change = self.score if prediction is None else prediction
        together = f"together {self.score:.0%}, and " if both else ""
        return (f"{self.outcome}. The LoRA changes it {change:.0%} as much as its target{both}: {together}from "
                f"{self.threshold:.0%} on it counts as the concept.")  # fmt: skip

    def report(self) -> dict:
        """The decision as JSON data: score, threshold, probability, votes (`prediction`, `words`), erased."""
        prediction, words = self.votes
        values = {key: value for key, value in asdict(self).items() if key != "votes"}
        return {**values, "prediction": prediction, "words": words, "erased": self.erased}
