"""The report of a sampling run: each picture's w and decision, warnings, and the number of model calls."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from ..gate.decision import GateDecision
from .config import STEER, SteeringConfig


@dataclass(frozen=True)
class PictureDecision:
    """The w of a picture, the gate's decision if there was a gate, and `doubt`: why it could not decide.

    `second_look`: the score by which the concept was found in the picture, though the gate had not found it.
    """

    w: float
    decision: GateDecision | None = None
    doubt: str = ""
    second_look: float | None = None

    def report(self) -> dict:
        """The w, the decision's own report and the doubt, as JSON data."""
        doubt = {"doubt": self.doubt} if self.doubt else {}
        seen = {} if self.second_look is None else {"second_look": self.second_look}
        return {"w": self.w, **(self.decision.report() if self.decision else {}), **doubt, **seen}

    def describe(self) -> str:
        """The w and its reason, in words."""
        reason = self.decision.describe() if self.decision else ""
        if self.doubt:
            reason = f"in doubt, so it is steered. {self.doubt}"
        if self.second_look is not None:
            reason = (f"recognised as the concept at a second look: the picture becomes {self.second_look:.0%} what "
                      f"the target's would. The reference is drawn instead.")  # fmt: skip
        return f"w = {self.w:g}" + (f": {reason}" if reason else "")


def decide_in_doubt(config: SteeringConfig, doubt: str) -> PictureDecision:
    """The decision on a picture that the gate cannot decide. Raises ValueError if the config says so (`on_doubt`)."""
    if config.on_doubt == STEER:
        return PictureDecision(config.w_erased, doubt=doubt)
    raise ValueError(f"{doubt} Or set `on_doubt` to {STEER!r}: what cannot be decided is sampled with `w_erased`.")


@dataclass
class SamplingReport:
    """What a concept LoRA did in a sampling run, and the number of model calls."""

    decisions: list[PictureDecision] = field(default_factory=list)  # one per picture; empty until the gate has decided
    warnings: list[str] = field(default_factory=list)
    lora_steps: list[int] = field(default_factory=list)  # the steps with predictions of the LoRA
    evaluations: int = 0  # model calls of the run
    plain_evaluations: int = 0  # model calls that plain sampling would have made
    has_checked_picture: bool = False  # that the run starts from
    path: str = ""  # how the LoRA acts on the model, in words

    def report(self) -> dict:
        """The report as JSON data."""
        return {
            "evaluations": self.evaluations,
            "plain_evaluations": self.plain_evaluations,
            "lora_steps": self.lora_steps,
            "path": self.path,
            "warnings": self.warnings,
            "decisions": [it.report() for it in self.decisions],
        }


def idle_layers_warning(idle: Sequence, layers: int) -> str:
    """The warning that some of a LoRA's `layers` layers were never computed in a run."""
    examples = ", ".join(map(str, idle[:2]))
    return (
        f"Only a part of the LoRA acted: {len(idle)} of its {layers} layers ({examples}, ...) were never computed, as "
        f"something else on this MODEL replaces them. The concept may still be visible: remove that patch."
    )


def unchanged_weights_warning(unchanged: Collection[str], weights: int) -> str:
    """The warning that a LoRA left some of the `weights` weights that it is made for as they are."""
    examples = ", ".join(sorted(unchanged)[:2])
    return (
        f"Only a part of the LoRA acted: {len(unchanged)} of the {weights} weights that it changes ({examples}, ...) "
        f"are not changed, as its numbers for them are zero or do not fit. The concept may still be visible."
    )
