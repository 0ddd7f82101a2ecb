"""What one concept LoRA does in a sampling run: the first predictions tell which pictures touch the concept, and only
these are steered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import isfinite
from statistics import fmean

import torch

from . import gate, host
from .branch import Branch
from .effect import LEAST_EFFECT, NoEffectError, apart
from .guidance import blend, soft_w
from .lora import ConceptLoRA
from .probe import TARGET, ProbeSettings, calibration_of

BOTH_SIDES, POSITIVE_ONLY = "cond and uncond", "cond only"
SIDES = (BOTH_SIDES, POSITIVE_ONLY)
STOP, STEER = "stop", "steer"
ON_DOUBT = (STOP, STEER)
Predictions = Sequence[torch.Tensor | None]
HALF = 1e-2  # what equal texts differ by of which one is kept in half precision


@dataclass(frozen=True)
class SteeringSettings:
    """How a concept LoRA steers. With a `w` it does so for every picture; else a gate decides, picture by picture."""

    w: float | None = None
    w_erased: float = -1.0
    w_unrelated: float = 1.0
    gate_steps: int = 1  # the first ones, in which the base drives and the LoRA's predictions are compared with its
    false_positive_rate: float = ProbeSettings.false_positive_rate
    softness: float = 0.0  # see `guidance.soft_w`
    restart: bool = False  # after the gate's steps, if they have found the concept
    sides: str = POSITIVE_ONLY  # whose predictions are blended
    eta: float = 0.0  # see `guidance.blend`
    start: float = 0.0  # of the run; from here to the end
    end: float = 1.0  # it is steered
    on_doubt: str = STOP  # what becomes of pictures that the gate cannot decide


@dataclass(frozen=True)
class Decision:
    """The w of a picture, and what the gate found if it was asked; `doubt`: why it could not decide."""

    w: float
    verdict: gate.Verdict | None = None
    doubt: str = ""

    def report(self) -> dict:
        """JSON-like."""
        doubt = {"doubt": self.doubt} if self.doubt else {}
        return {"w": self.w, **(self.verdict.report() if self.verdict else {}), **doubt}

    def explained(self) -> str:
        """In words."""
        verdict = self.verdict.explained() if self.verdict else ""
        why = f"in doubt, so it is steered. {self.doubt}" if self.doubt else verdict
        return f"w = {self.w:g}" + (f": {why}" if why else "")


def in_doubt(settings: SteeringSettings, why: str) -> Decision:
    """What becomes of a picture that the gate cannot decide. Raises ValueError if the settings say that it stops."""
    if settings.on_doubt == STEER:
        return Decision(settings.w_erased, doubt=why)
    raise ValueError(f"{why} Or set `on_doubt` to {STEER!r}: what cannot be decided is sampled with `w_erased`.")


@dataclass
class Course:
    """What became of a run: each picture's decision, the steps in which the LoRA was asked, and the cost."""

    decisions: list[Decision] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # where the gate may decide wrongly
    lora_steps: list[int] = field(default_factory=list)
    evaluations: int = 0
    plain_evaluations: int = 0  # what plain sampling takes
    path: str = ""  # by which the LoRA acts

    def report(self) -> dict:
        """JSON-like."""
        return {
            "evaluations": self.evaluations,
            "plain_evaluations": self.plain_evaluations,
            "lora_steps": self.lora_steps,
            "path": self.path,
            "warnings": self.warnings,
            "decisions": [it.report() for it in self.decisions],
        }


class Steered:
    """A concept LoRA in one sampling run."""

    def __init__(
        self, run: host.Run, branch: Branch, lora: ConceptLoRA, settings: SteeringSettings, known: Decision | None
    ):
        """`known`: what is decided for every picture, without a gate."""
        self.run, self.branch, self.lora, self.settings = run, branch, lora, settings
        self.course = run.memory.setdefault(branch, Course())  # a run that begins again is decided already
        self._scores: dict[float, list[float]] = {}  # noise level -> the pictures'
        self._alike: list[list[int]] = []  # the pictures that share a prompt
        self._doubt = ""  # why no score means anything here
        self._target = f"{TARGET} {id(self)}"
        self._asked = False  # the LoRA, for a picture that is steered
        self._acts = False  # whether it has been seen to have an effect
        if known is not None:
            self.course.decisions = [known] * run.pictures
        if self.undecided:
            if settings.gate_steps > run.steps:
                raise ValueError(
                    f"`gate_steps` is {settings.gate_steps}, but this run has {run.steps} steps: lower it to 1."
                )
            run.add(self._target, host.unpack_conditioning(lora.target_prompt))
            calibration = calibration_of(lora, "give a w")
            self.course.warnings = calibration.misfits(run.size, run.cfg)

    @property
    def undecided(self) -> bool:
        """Whether the gate is still looking."""
        return not self.course.decisions

    def ws(self, call: host.Call) -> list[float]:
        """The pictures' own at this prediction, 1 where none are steered."""
        behind = call.step / self.run.steps
        outside = not self.settings.start <= behind < self.settings.end
        if self.undecided or outside or (self.settings.sides == POSITIVE_ONLY and call.is_negative):
            return [1.0] * len(call.rows)
        ws = [it.w for it in self.course.decisions]
        if len(ws) != len(call.rows):  # a window on some of the pictures: they are frames of one
            ws = [max(ws, key=lambda w: abs(1 - w))] * len(call.rows)
        return ws

    def look(self, call: host.Call, base: list[torch.Tensor]) -> None:
        """The gate: compare what LoRA and base predict, once at each noise level; decide after `gate_steps` of them.

        Where several prompts make a picture, the one that touches the concept most counts.
        """
        prompts = call.prompts()
        if not prompts or call.sigma in self._scores:
            return
        targets: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        scores = []
        for prompt in prompts:
            number = prompt.number if call.has_others else prompts[0].number  # they may go by a cond's number
            if number not in targets:
                targets[number] = call.instead(number, self._target), call.instead(number, self._target, self.branch.on)
            b = base[prompt.number] if prompt.alone else call.instead(prompt.number, prompt.conds)
            e = call.instead(prompt.number, prompt.conds, self.branch.on)
            self._doubt = self._doubt or self._about_the_text(prompt, b, targets[number][0])
            scores.append(gate.response(b, e, *targets[number]))
        self._note(call)
        texts = [it for it in (prompt.text(len(call.x)) for prompt in prompts) if it is not None]
        apart = any(prompt.has_hooked_parts for prompt in prompts)
        self._alike = [[row] for row in call.rows] if apart else alike(texts, len(call.x))
        self._scores[call.sigma] = torch.stack(scores).amax(0).tolist()
        if len(self._scores) == self.settings.gate_steps:
            self._decide()

    def _about_the_text(self, prompt: host.Prompt, base: torch.Tensor, base_target: torch.Tensor) -> str:
        """Why the target cannot be asked: its text is not the prompt's, and the base predicts the same of both."""
        rows = len(base)
        own, target = prompt.text(rows), host.text_of(self.run.guider.conds[self._target], rows)
        if own is None or target is None:
            return ""
        if not (apart(own, target, HALF) & ~apart(base, base_target)).any():
            return ""
        return (
            "The gate cannot decide: something else on this MODEL puts its own text in place of every prompt's, of "
            "the LoRA's target as well (regional prompts that hang on the MODEL do), so that no prompt can be compared "
            "with it. Give the prompts as conditioning, with areas or masks, or set `gate` to 'always erase'."
        )

    def _decide(self) -> None:
        """For each picture; those that share a prompt share the decision, on the mean of their scores."""
        decisions: dict[int, Decision] = {}
        for its in self._alike:
            finite = [i for i in its if all(isfinite(scores[i]) for scores in self._scores.values())]
            for some in (finite, *([i] for i in its if i not in finite)):
                if some:
                    means = {sigma: fmean(scores[i] for i in some) for sigma, scores in self._scores.items()}
                    decisions |= dict.fromkeys(some, self._decided(means))
        self.course.decisions = [decisions[i] for i in sorted(decisions)]
        steered = any(it.w != self.settings.w_unrelated for it in self.course.decisions)
        if self.settings.restart and self.settings.gate_steps > 1 and steered:
            raise host.RunAgain

    def _decided(self, scores: Mapping[float, float]) -> Decision:
        """On scores by noise level."""
        try:
            if self._doubt:
                raise ValueError(self._doubt)
            verdict = calibration_of(self.lora, "give a w").judge(scores, self.settings.false_positive_rate)
        except ValueError as error:
            return in_doubt(self.settings, str(error))
        w = soft_w(verdict.beyond, self.settings.softness, self.settings.w_erased, self.settings.w_unrelated)
        return Decision(w, verdict)

    def is_alone(self, call: host.Call) -> bool:
        """Whether w = 0 everywhere, so that the base's predictions are not needed where the LoRA's are."""
        return not any(self.ws(call)) and (self.settings.sides == BOTH_SIDES or not call.has_others)

    def alone(self, call: host.Call) -> list[torch.Tensor]:
        """The LoRA's predictions, and the base's for the sides that the LoRA is kept from."""
        self._begin(call)
        both = self.settings.sides == BOTH_SIDES
        changed = call.evaluate(self.branch.on) if both else call.evaluate_sides(self.branch.on)
        if not self._acts:
            self._check(call, self._base_again(call, call.rows), changed, call.rows)
        return changed

    def steer(self, call: host.Call, base: list[torch.Tensor], ws: list[float]) -> list[torch.Tensor]:
        """The blend of base and LoRA for each cond, from the LoRA's predictions of the rows that need them."""
        self._begin(call)
        rows = [row for row, w in enumerate(ws) if w != 1]
        both = self.settings.sides == BOTH_SIDES
        changed = call.evaluate_again(self.branch, self.branch.on, rows, negatives=both)
        if not self._acts or not self.branch.calls:  # not yet seen to act, or its layers were not computed
            far = call.is_batched_alike(rows, both) or self._are_apart(base, changed, rows, call.batching_error)
            self._check(call, base if far else self._base_again(call, rows), changed, rows)
        w = base[0].new_tensor(ws).view(-1, *[1] * (base[0].ndim - 1))

        def of(b: torch.Tensor, e: torch.Tensor | None) -> torch.Tensor:
            if e is None:
                return b
            blended = blend(b, e, w, self.settings.eta)
            return torch.where(w == 1, b, blended)  # a row that nobody asked for may hold anything

        return [of(b, e) for b, e in zip(base, changed, strict=True)]

    def _begin(self, call: host.Call) -> None:
        self._asked, self.branch.calls = True, 0
        self._note(call)

    def _note(self, call: host.Call) -> None:
        if call.step not in self.course.lora_steps:
            self.course.lora_steps.append(call.step)

    def _base_again(self, call: host.Call, rows: Sequence[int]) -> list[torch.Tensor | None]:
        """The base's predictions, batched as the LoRA's are: where nothing acts they are the same to the bit."""
        both = self.settings.sides == BOTH_SIDES
        return call.evaluate_again((self.branch, "base"), nullcontext, rows, negatives=both)

    def _check(self, call: host.Call, base: Predictions, changed: Predictions, rows: Sequence[int]) -> None:
        """The no-effect guard: an error where something keeps the LoRA from acting on predictions of these rows."""
        if self._are_apart(base, changed, rows):
            self._acts = True
        elif any(b[rows].any() for b, e in zip(base, changed, strict=True) if b is not None and e is not None):
            raise self._no_effect()  # not zeros: of a cond that counts at other noise levels

    @staticmethod
    def _are_apart(base: Predictions, changed: Predictions, rows: Sequence[int], share: float = LEAST_EFFECT) -> bool:
        pairs = ((b, e) for b, e in zip(base, changed, strict=True) if b is not None and e is not None)
        return any(bool(apart(b[rows], e[rows], share).any()) for b, e in pairs)

    def _no_effect(self) -> NoEffectError:
        if self.lora.is_zero:
            return NoEffectError("The concept LoRA changes nothing: its weights are zero. Train it, or use another.")
        layers = [*map(str, self.branch.pairs), *self.branch.changes]
        if not layers:
            return NoEffectError(
                "The concept LoRA changes nothing: the layers that it was made for have no such weights in this model. "
                "Use it with the model family that it was made for."
            )
        return NoEffectError(
            f"The concept LoRA had no effect on its layers ({', '.join(layers[:2])}, ...) in step "
            f"{self.course.lora_steps[-1] + 1}: something else on this MODEL replaces or fuses them, or answers from "
            f"what it keeps of an earlier step. Connect UnGuidance to the model before such a patch, or leave that "
            f"patch out. If there is none, the LoRA is too weak, or does not touch this prompt at all."
        )

    def check(self) -> None:
        """At the end of a run: an error where a picture was to be decided or steered, and the LoRA was not asked."""
        if self.undecided:
            raise RuntimeError(f"The gate never saw the prompt of this picture: {self._why_not_asked()}.")
        ws = [it.w for it in self.course.decisions if it.w != 1]
        if ws and not self._asked:
            raise RuntimeError(
                f"This picture was to be steered (w = {ws[0]:g}), and the LoRA was never asked: "
                f"{self._why_not_asked()}."
            )
        if ws and not self._acts:
            raise self._no_effect()
        acted, unchanged = self.branch.acted, self.branch.unchanged
        if unchanged:
            self.course.warnings = [*self.course.warnings, _partly_changed(unchanged, len(self.branch.changes))]
        if acted and (idle := [it for it in self.branch.pairs if it not in acted]):
            self.course.warnings = [*self.course.warnings, _partly(idle, len(self.branch.pairs))]

    def _why_not_asked(self) -> str:
        guider = type(self.run.guider).__name__
        if not self.run.calls:
            return (f"{guider}, or something else on this MODEL, asks the model in a way of its own. Use KSampler or "
                    f"UnGuidance Guider, or leave out what hangs on the MODEL")  # fmt: skip
        if any(self.settings.start <= step / self.run.steps < self.settings.end for step in range(self.run.steps)):
            return f"{guider} asks for nothing that the picture shall show. Use KSampler or UnGuidance Guider"
        return f"none of the {self.run.steps} steps of this run lies between `start` and `end`. Move these apart"


def _partly(idle: Sequence, layers: int) -> str:
    """The warning of a run in which some of a LoRA's layers were never computed."""
    some = ", ".join(map(str, idle[:2]))
    return (
        f"Only a part of the LoRA acted: {len(idle)} of its {layers} layers ({some}, ...) were never computed, as "
        f"something else on this MODEL replaces them. What was to be forgotten may be seen: leave that patch out."
    )


def _partly_changed(unchanged: Collection[str], weights: int) -> str:
    """The warning of a run in which a LoRA left some of its weights as they are."""
    some = ", ".join(sorted(unchanged)[:2])
    return (
        f"Only a part of the LoRA acted: {len(unchanged)} of the {weights} weights that it changes ({some}, ...) stay "
        f"what they are, as its numbers for them are zero or do not fit. What was to be forgotten may be seen."
    )


def alike(texts: Sequence[torch.Tensor], pictures: int) -> list[list[int]]:
    """The numbers of the pictures, those together whose rows in all texts [pictures, ...] are equal."""
    groups: dict[tuple, list[int]] = {}
    same = [torch.unique(it.flatten(1), dim=0, return_inverse=True)[1].tolist() for it in texts]
    for picture in range(pictures):
        groups.setdefault(tuple(its[picture] for its in same), []).append(picture)
    return list(groups.values())
