"""UnGuidance on a MODEL (paper section 3.3): any sampler, one model in memory, any number of concepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from . import host
from .branch import Branch
from .fitting import branch_of
from .guidance import combine
from .lora import ConceptLoRA
from .probe import calibration_of
from .steering import ON_DOUBT, SIDES, Course, Decision, Steered, SteeringSettings, in_doubt


@dataclass(frozen=True)
class Concept:
    """A concept LoRA that hangs on a MODEL; `told` hears what became of each of its sampling runs."""

    branch: Branch
    lora: ConceptLoRA
    settings: SteeringSettings
    known: Decision | None  # of every picture, where no gate decides
    told: Callable[[Course], None]


def unguide(model, lora: ConceptLoRA, settings: SteeringSettings, told: Callable[[Course], None] = lambda course: None):
    """A clone of MODEL that predicts `w * e_base + (1 - w) * e_lora` wherever it is sampled.

    Without a w of its own for all pictures, the gate finds it for each, by the calibration that the LoRA carries. Where
    w = 1 the LoRA is not asked, and the picture is the base's, bit for bit; w = 0 asks the LoRA alone; any other w asks
    both, one after the other, so that memory stays that of plain sampling. Concepts that already hang on the MODEL are
    steered away from as well (`guidance.combine`). Raises ValueError for a LoRA that does not fit the model or carries
    what is no number, and, unless `on_doubt` says otherwise, for a gate without a calibration for this model.
    """
    _check(lora, settings)
    concept = Concept(branch_of(model, lora), lora, settings, _known(model, lora, settings), told)
    return host.steer(model, concept, _around)


def _known(model, lora: ConceptLoRA, settings: SteeringSettings) -> Decision | None:
    """What is decided for every picture; None where a gate decides."""
    if settings.w is not None:
        return Decision(settings.w)
    try:
        calibration_of(lora, "set `gate` to 'always erase'").check_base(host.fingerprint(model))
    except ValueError as error:
        return in_doubt(settings, str(error))
    return None


def _check(lora: ConceptLoRA, settings: SteeringSettings) -> None:
    if not lora.is_finite:
        raise ValueError("`lora` has weights that are no numbers (NaN or infinite): its training went wrong. Train it "
                         "again, with a lower learning rate.")  # fmt: skip
    if settings.sides not in SIDES:
        raise ValueError(f"`lora_branch` is {settings.sides!r}: use one of {', '.join(map(repr, SIDES))}.")
    if settings.on_doubt not in ON_DOUBT:
        raise ValueError(f"`on_doubt` is {settings.on_doubt!r}: use one of {', '.join(map(repr, ON_DOUBT))}.")
    if not settings.start < settings.end:
        raise ValueError(
            f"`start` is {settings.start:g} and `end` {settings.end:g}: steering must end after it starts."
        )


@contextmanager
def _around(run: host.Run, diffusion_model: torch.nn.Module, concepts: Sequence[Concept]) -> Iterator[Callable]:
    with ExitStack() as attached:
        for concept in concepts:
            attached.enter_context(concept.branch.attached(diffusion_model))
        steered = [Steered(run, it.branch, it.lora, it.settings, it.known) for it in concepts]
        finite: list[torch.Tensor] = []  # looked at when all is done: until then nothing waits for the device

        def predict(call: host.Call) -> list[torch.Tensor]:
            predicted = _predict(call, steered)
            if any(it.course.lora_steps for it in steered):
                finite.extend(it.isfinite().all() for it in predicted)
            return predicted

        yield predict
    if not all(finite):
        raise ValueError(
            "There is no picture: with the LoRA the model predicts what is no number (NaN or infinite). Load the model "
            "in another precision, or use another LoRA."
        )
    for concept, it in zip(concepts, steered, strict=True):
        if it.undecided and run.evaluations:
            raise RuntimeError(
                "The gate never saw the prompt of this picture: the guider of this run hides it. Set `gate` to "
                "'linked' with UnGuide Stability Probe, or to 'always erase'."
            )
        it.course.evaluations, it.course.plain_evaluations = run.evaluations, run.plain_evaluations
        it.course.path = it.branch.path()
        concept.told(it.course)


def _predict(call: host.Call, steered: Sequence[Steered]) -> list[torch.Tensor]:
    """x0 for each cond of the call."""
    if len(steered) == 1 and steered[0].is_alone(call):
        return steered[0].alone(call)
    base = call.evaluate()
    blends = []
    for it in steered:
        if it.undecided:
            it.look(call, base)
        ws = it.ws(call)
        if any(w != 1 for w in ws):
            blends.append(it.steer(call, base, ws))
    return [combine(b, list(its)) for b, *its in zip(base, *blends, strict=True)] if blends else base
