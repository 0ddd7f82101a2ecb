"""UnGuidance on a MODEL (paper section 3.3): any sampler, one model in memory, any number of concepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from .. import host
from ..concept_lora import ConceptLoRA
from ..gate.probe import calibration_of
from ..host.types import Model
from ..lora.adapter import LoRAAdapter
from ..model_adapter import adapter_for
from .blend import combine
from .config import INSTEAD, LORA_BRANCHES, ON_DOUBT, SteeringConfig
from .gate_in_run import ALWAYS_ERASE
from .report import PictureDecision, SamplingReport, decide_in_doubt
from .steering import ConceptSteering


@dataclass(frozen=True)
class AttachedConcept:
    """A concept LoRA attached to a MODEL; `on_run_end` gets the report of each of its sampling runs."""

    adapter: LoRAAdapter
    lora: ConceptLoRA
    config: SteeringConfig
    fixed_decision: PictureDecision | None  # for every picture; None if a gate decides
    on_run_end: Callable[[SamplingReport], None]


def unguide(
    model: Model,
    lora: ConceptLoRA,
    config: SteeringConfig,
    on_run_end: Callable[[SamplingReport], None] = lambda report: None,
) -> Model:
    """A clone of MODEL that predicts `w * e_base + (1 - w) * e_lora` wherever it is sampled.

    If the config has no w for all pictures, the gate decides on each, by the calibration that the LoRA carries. With
    w = 1 the LoRA is not called, and the picture is the base's, bit for bit; w = 0 calls the LoRA alone; any other w
    calls both, one after the other, so that memory stays that of plain sampling. Concepts that are already attached to
    the MODEL are steered away from as well (`blend.combine`). Raises ValueError for a LoRA that does not fit the model
    or has NaN or infinite weights, and, unless `on_doubt` is STEER, for a gate without a calibration for this model.
    """
    _check(lora, config)
    concept = AttachedConcept(adapter_for(model, lora), lora, config, _fixed_decision(model, lora, config), on_run_end)
    return host.steered_model(model, concept, _around_run)


def _fixed_decision(model: Model, lora: ConceptLoRA, config: SteeringConfig) -> PictureDecision | None:
    """The decision for every picture; None if a gate decides."""
    if config.w is not None:
        return PictureDecision(config.w)
    try:
        calibration_of(lora, ALWAYS_ERASE).check_base(host.fingerprint(model))
    except ValueError as error:
        return decide_in_doubt(config, str(error))
    return None


def _check(lora: ConceptLoRA, config: SteeringConfig) -> None:
    if not lora.is_finite:
        raise ValueError("`lora` has NaN or infinite weights: its training went wrong. Train it again, with a lower "
                         "learning rate.")  # fmt: skip
    if config.lora_branch not in LORA_BRANCHES:
        raise ValueError(f"`lora_branch` is {config.lora_branch!r}: use one of {', '.join(map(repr, LORA_BRANCHES))}.")
    if config.on_doubt not in ON_DOUBT:
        raise ValueError(f"`on_doubt` is {config.on_doubt!r}: use one of {', '.join(map(repr, ON_DOUBT))}.")
    if config.instead not in INSTEAD:
        raise ValueError(f"`instead` is {config.instead!r}: use one of {', '.join(map(repr, INSTEAD))}.")
    if not config.start < config.end:
        raise ValueError(f"`start` is {config.start:g} and `end` {config.end:g}: steering must end after it starts.")


@contextmanager
def _attached(model: Model, adapters: Iterable[LoRAAdapter]) -> Iterator[None]:
    """Adapters on MODEL's original layers, although other packs may have wrapped layers or injected modules."""
    with ExitStack() as attached:
        with host.original_modules(model) as network, host.injections_ejected(model):
            for adapter in adapters:
                attached.enter_context(adapter.attached(network))
        try:
            yield
        finally:
            with host.injections_ejected(model):
                attached.close()


@contextmanager
def _around_run(run: host.SamplingRun, concepts: Sequence[AttachedConcept]) -> Iterator[Callable]:
    """The context of a sampling run: yields the function that makes its predictions, then checks and reports."""
    if run.changes_weights and any(it.adapter.changes for it in concepts):
        raise ValueError(
            "This LoRA has more than low-rank pairs, so it acts by changing weights; so do hooks in this run's "
            "prompts, and each would undo the other's changes. Remove the hooks, or use a LoRA of low-rank pairs."
        )
    with _attached(run.guider.model_patcher, [it.adapter for it in concepts]):
        steerings = [ConceptSteering(run, it.adapter, it.lora, it.config, it.fixed_decision) for it in concepts]
        finite: list = []  # for `_check_finite`, evaluated only after the run: reading it now would wait for the device

        def predict(call: host.PredictionCall) -> list[torch.Tensor]:
            if all(it.is_idle for it in steerings):
                return call.predict_plainly()
            base, steered = _predict(call, steerings)
            if steered is not base:
                base_finite = [x0.isfinite().all() for x0 in base] if base else [True] * len(steered)
                finite.extend(zip(base_finite, [x0.isfinite().all() for x0 in steered], strict=True))
            return steered

        yield predict
    _check_finite(finite)
    for concept, steering in zip(concepts, steerings, strict=True):
        steering.check_at_end()
        report = steering.report
        report.evaluations, report.plain_evaluations = run.evaluations, run.plain_evaluations
        report.path = steering.describe()
        concept.on_run_end(report)


def _check_finite(predictions: Iterable[tuple[torch.Tensor | bool, torch.Tensor]]) -> None:
    """Raises ValueError if a steered prediction was NaN or infinite; the message says whether the base's was too.

    `predictions` are pairs in the order of the run: whether the base's prediction was finite, and the steered one. The
    first that was not decides, as all later ones follow from it. Unsteered predictions are not checked: they are what
    they would be without this pack.
    """
    base_is_finite = next((base for base, steered in predictions if not steered), None)
    if base_is_finite is None:
        return
    if not base_is_finite:
        raise ValueError(
            "There is no picture: the model itself, without the LoRA, predicts NaN or infinite values. Load it in "
            "another precision (bf16 or fp32)."
        )
    raise ValueError(
        "There is no picture: with the LoRA the model predicts NaN or infinite values. Load the model in another "
        "precision, or use another LoRA."
    )


def _predict(
    call: host.PredictionCall, steerings: Sequence[ConceptSteering]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The base's x0 for each cond of the call (an empty list if it was not called), and the steered x0.

    Both are the same list if nothing is steered.
    """
    for steering in steerings:
        steering.check_picture(call)
        steering.decide_by_words(call)
    active = [steering for steering in steerings if not steering.is_idle]
    if len(active) == 1 and active[0].can_predict_second_only(call):
        return [], active[0].predict_second_only(call)
    base = call.predict()
    blends = []
    for steering in steerings:
        if steering.undecided:
            steering.measure_gate(call, base)
        steering.look_again(call, base)
        weights = steering.weights_for(call)
        if any(w != 1 for w in weights):
            blends.append(steering.predict_steered(call, base, weights))
    if not blends:
        return base, base
    return base, [combine(base_x0, list(rest)) for base_x0, *rest in zip(base, *blends, strict=True)]
