"""The gate inside sampling: the first steps tell which pictures touch the concept, and only these are steered."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from . import gate, host
from .guidance import blend
from .lora import ConceptLoRA
from .probe import TARGET, ProbeSettings, calibration_of
from .unguidance import branch_of


@dataclass(frozen=True)
class GateSettings:
    """How the gate inside sampling decides, and what follows."""

    w_erased: float = -1.0
    w_unrelated: float = 1.0
    steps: int = 1  # predictions, the first ones, that the LoRA's are compared at
    false_positive_rate: float = ProbeSettings.false_positive_rate


@dataclass(frozen=True)
class Decision:
    """What the gate found of one picture of a batch, and the w it goes on with."""

    verdict: gate.Verdict
    w: float


def unguide_where_erased(model, lora: ConceptLoRA, settings: GateSettings, decided: Callable[[list[Decision]], None]):
    """A clone of MODEL that finds out in the first steps of a run which of its pictures touch the erased concept.

    Until it has, the base drives. Then `decided` is told, and each picture goes on with its own w: where all have
    w = 1 the LoRA is not asked again, and such a picture is the base's, bit for bit. Raises ValueError for a LoRA
    without a calibration.
    """
    calibration = calibration_of(lora, "set `gate` to 'always erase'")
    branch = branch_of(model, lora)
    target = f"{TARGET} {id(branch)}"
    seen: dict[float, list[float]] = {}  # noise level -> the pictures' scores
    ws: list[float] = []  # the pictures' own, once decided

    @contextmanager
    def attached(diffusion_model: torch.nn.Module):
        seen.clear()
        ws.clear()
        with branch.attached(diffusion_model):
            yield

    def look(call: host.Call, base: torch.Tensor) -> None:
        (base_target,) = call.of(target)
        with branch.on():
            lora_prompt, lora_target = call.of(call.positive, target)
        seen[call.sigma] = gate.response(base, lora_prompt, base_target, lora_target).tolist()

    def decide() -> list[Decision]:
        courses = [dict(zip(seen, scores, strict=True)) for scores in zip(*seen.values(), strict=True)]
        verdicts = [calibration.judge(course, settings.false_positive_rate) for course in courses]
        return [Decision(it, settings.w_erased if it.erased else settings.w_unrelated) for it in verdicts]

    def predict(call: host.Call) -> list[torch.Tensor]:
        base = call.evaluate()
        if not ws:
            look(call, base[call.positive])
            if len(seen) < settings.steps:
                return base
            decisions = decide()
            decided(decisions)
            ws[:] = [it.w for it in decisions]
        if all(w == 1 for w in ws):
            return base
        with branch.on():
            changed = call.evaluate()
        weights = base[0].new_tensor(ws).view(-1, *[1] * (base[0].ndim - 1))
        return [torch.where(weights == 1, b, blend(b, c, weights)) for b, c in zip(base, changed, strict=True)]

    return host.with_branch(model, attached, predict, {target: host.unpack_conditioning(lora.target_prompt)})
