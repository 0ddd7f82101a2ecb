"""What one concept LoRA does in a sampling run: the first predictions tell which pictures touch the concept, and only
these are steered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from . import gate, host
from .branch import Branch
from .guidance import blend, soft_w
from .lora import ConceptLoRA
from .probe import TARGET, ProbeSettings, calibration_of

BOTH_SIDES, POSITIVE_ONLY = "cond and uncond", "cond only"
SIDES = (BOTH_SIDES, POSITIVE_ONLY)
STOP, STEER = "stop", "steer"
ON_DOUBT = (STOP, STEER)


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
        self._target = f"{TARGET} {id(self)}"
        self._checked = lora.is_zero  # a LoRA of zeros rightly changes nothing
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
        behind = self.run.step(call.sigma) / self.run.steps
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
        conds = [cond for cond, _ in prompts]
        unknown = [cond for cond, number in prompts if number is None]
        base_target, *found = call.of(self._target, *unknown)
        rest = iter(found)
        bases = [base[number] if number is not None else next(rest) for _, number in prompts]
        with self.branch.on():
            lora_target, *loras = call.of(self._target, *conds)
        self._note(call)
        scores = [gate.response(b, e, base_target, lora_target) for b, e in zip(bases, loras, strict=True)]
        self._scores[call.sigma] = torch.stack(scores).amax(0).tolist()
        if len(self._scores) == self.settings.gate_steps:
            self._decide()

    def _decide(self) -> None:
        pictures = zip(*self._scores.values(), strict=True)
        self.course.decisions = [self._decided(dict(zip(self._scores, scores, strict=True))) for scores in pictures]
        steered = any(it.w != self.settings.w_unrelated for it in self.course.decisions)
        if self.settings.restart and self.settings.gate_steps > 1 and steered:
            raise host.RunAgain

    def _decided(self, scores: Mapping[float, float]) -> Decision:
        """On a picture's scores by noise level."""
        try:
            verdict = calibration_of(self.lora, "give a w").judge(scores, self.settings.false_positive_rate)
        except ValueError as error:
            return in_doubt(self.settings, str(error))
        beyond = verdict.score - verdict.threshold
        w = soft_w(beyond, self.settings.softness, self.settings.w_erased, self.settings.w_unrelated)
        return Decision(w, verdict)

    def is_alone(self, call: host.Call) -> bool:
        """Whether w = 0 everywhere, so that the base's predictions are not needed where the LoRA's are."""
        return not any(self.ws(call))

    def alone(self, call: host.Call) -> list[torch.Tensor]:
        """The LoRA's predictions, and the base's for the sides that the LoRA is kept from."""
        changed = call.evaluate(self.branch.on, negatives=self.settings.sides == BOTH_SIDES)
        self._note(call)
        self._check([])
        return changed

    def steer(self, call: host.Call, base: list[torch.Tensor], ws: list[float]) -> list[torch.Tensor]:
        """The blend of base and LoRA for each cond, from the LoRA's predictions of the rows that need them."""
        rows = [row for row, w in enumerate(ws) if w != 1]
        with self.branch.on():
            changed = call.evaluate_again(rows, negatives=self.settings.sides == BOTH_SIDES)
        self._note(call)
        self._check([(b[rows], e[rows]) for b, e in zip(base, changed, strict=True) if e is not None])
        w = base[0].new_tensor(ws).view(-1, *[1] * (base[0].ndim - 1))

        def of(b: torch.Tensor, e: torch.Tensor | None) -> torch.Tensor:
            if e is None:
                return b
            blended = blend(b, e, w, self.settings.eta)
            return torch.where(w == 1, b, blended)  # a row that nobody asked for may hold anything

        return [of(b, e) for b, e in zip(base, changed, strict=True)]

    def _note(self, call: host.Call) -> None:
        step = self.run.step(call.sigma)
        if step not in self.course.lora_steps:
            self.course.lora_steps.append(step)

    def _check(self, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """The no-effect guard, once a run: an error where something keeps the LoRA from acting on a prediction."""
        if not self._checked and (not self.branch.calls or (pairs and all(torch.equal(b, e) for b, e in pairs))):
            some = ", ".join(map(str, list(self.branch.pairs)[:2]))
            raise RuntimeError(
                f"The concept LoRA had no effect on its layers ({some}, ...): "
                f"something else on this MODEL replaces or fuses them. Connect UnGuidance to the model before such a "
                f"patch, or leave that patch out."
            )
        self._checked = True
