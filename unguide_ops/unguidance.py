"""UnGuidance on a MODEL (paper section 3.3): any sampler, one model in memory, any number of concepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
def _attached(model, branches: Iterable[Branch]) -> Iterator[None]:
    """The branches on MODEL's own layers, which others may have put into modules of theirs, or injected something."""
    with ExitStack() as attached:
        with host.as_in_its_file(model) as network, host.ejected(model):
            for it in branches:
                attached.enter_context(it.attached(network))
        try:
            yield
        finally:
            with host.ejected(model):
                attached.close()


@contextmanager
def _around(run: host.Run, concepts: Sequence[Concept]) -> Iterator[Callable]:
    if run.changes_weights and any(it.branch.changes for it in concepts):
        raise ValueError(
            "This LoRA is more than low-rank pairs, and acts by changed weights; so do hooks in this run's prompts, "
            "and either would undo the other's. Leave the hooks out, or use a LoRA of low-rank pairs."
        )
    with _attached(run.guider.model_patcher, [it.branch for it in concepts]):
        steered = [Steered(run, it.branch, it.lora, it.settings, it.known) for it in concepts]
        finite: list = []  # see `_check_finite`; looked at when all is done: until then nothing waits for the device

        def predict(call: host.Call) -> list[torch.Tensor]:
            base, predicted = _predict(call, steered)
            if predicted is not base:
                known = [it.isfinite().all() for it in base] if base else [True] * len(predicted)
                finite.extend(zip(known, [it.isfinite().all() for it in predicted], strict=True))
            return predicted

        yield predict
    _check_finite(finite)
    for concept, it in zip(concepts, steered, strict=True):
        it.check()
        it.course.evaluations, it.course.plain_evaluations = run.evaluations, run.plain_evaluations
        it.course.path = it.branch.path()
        concept.told(it.course)


def _check_finite(predictions: Iterable[tuple[torch.Tensor | bool, torch.Tensor]]) -> None:
    """Raises ValueError where a steered prediction was NaN or infinite, and says whose fault it is.

    Whether the base's and ours were finite, in the order of the run: what comes after the first that was not is made of
    it. Of predictions that are the base's alone nothing is said: they are what they would be without this pack.
    """
    of_the_base = next((base for base, ours in predictions if not ours), None)
    if of_the_base is None:
        return
    if not of_the_base:
        raise ValueError(
            "There is no picture: the model itself, without the LoRA, predicts NaN or infinite values. Load it in "
            "another precision (bf16 or fp32)."
        )
    raise ValueError(
        "There is no picture: with the LoRA the model predicts NaN or infinite values. Load the model in another "
        "precision, or use another LoRA."
    )


def _predict(call: host.Call, steered: Sequence[Steered]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """x0 for each cond of the call: the base's (none where it was not asked), and what becomes of it."""
    if len(steered) == 1 and steered[0].is_alone(call):
        return [], steered[0].alone(call)
    base = call.evaluate()
    blends = []
    for it in steered:
        if it.undecided:
            it.look(call, base)
        ws = it.ws(call)
        if any(w != 1 for w in ws):
            blends.append(it.steer(call, base, ws))
    return base, [combine(b, list(its)) for b, *its in zip(base, *blends, strict=True)] if blends else base
