"""The training loop (paper section 3.1): it makes a LoRA predict the erasing target under the target prompt."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch

from .. import host
from ..concept import EncodedConcept
from ..concept_lora import ConceptLoRA
from ..host.types import Model
from ..lora import target_layers
from ..lora.adapter import LoRAAdapter
from ..lora.low_rank import LowRankPair
from ..magnitude import FP16_MAX, max_abs
from .batch_sampler import BatchSampler
from .batches import TrainingBatch
from .checkpointing import checkpointed
from .config import CONCEPT_DIRECTIONS, TrainingConfig
from .layer_inputs import LayerInputs
from .loss import prediction_losses
from .metrics import TrainingMetrics
from .start import create_pairs, start_from_concept
from .trained_slices import resumed_pairs, trained_slices

CANCELLED = "cancelled"
OVERFLOW_WARNING_SHARE = 0.1  # of the iterations; the first few may overflow until the gradients' scale is found
STOPPED_EARLY = "once the target was erased, and nothing preserved is changed as much"


@dataclass
class TrainingResult:
    """A trained LoRA and how it was trained.

    stopped: "" after the last iteration, CANCELLED, STOPPED_EARLY, or "by an error: ...".
    computed: how many rows were predicted with gradients at once (`rows_at_once`), whether activations were computed
        twice (`checkpointing`), whether the same seed gives the same LoRA (`repeatable`).
    warnings: sentences for the user.
    """

    lora: ConceptLoRA
    metrics: TrainingMetrics
    evaluations: int
    seconds: float
    stopped: str
    computed: dict
    warnings: list[str] = field(default_factory=list)

    def numerical_warnings(self) -> list[str]:
        """Warnings about gradients that overflowed and about results that cannot be repeated."""
        warnings = []
        overflows, iterations = self.metrics.overflows, len(self.metrics.history)
        if overflows > OVERFLOW_WARNING_SHARE * iterations:
            warnings.append(f"{overflows} of {iterations} iterations changed nothing, as their gradients did not fit "
                            f"into half precision: load the model in bf16 or fp32.")  # fmt: skip
        if not self.computed.get("repeatable", True):
            warnings.append("On this device the same seed does not give the same LoRA to the bit: for an operation of "
                            "this model, torch has no repeatable kernel.")  # fmt: skip
        return warnings

    def report(self) -> dict:
        """What training did and cost, as JSON values. Losses, erasure and separation are over the last iterations."""
        return {
            "iterations": len(self.metrics.history),
            "stopped": self.stopped or "at the end",
            "warning": " ".join(self.warnings),
            "evaluations": self.evaluations,
            "seconds": round(self.seconds, 1),
            **self.computed,
            "erasing_loss": self.metrics.mean("erasing"),
            "retain_loss": self.metrics.mean("retain"),
            "erasure": self.metrics.mean("erasure"),
            "separation": self.metrics.separation(),
        }


def train(
    model: Model,
    concept: EncodedConcept,
    config: TrainingConfig,
    *,
    resume: ConceptLoRA | None = None,
    progress: host.ProgressReporter | None = None,
    rescue: Callable[[TrainingResult], None] = lambda training: None,
) -> TrainingResult:
    """Train a concept LoRA on MODEL. In any case, the model itself is left as it was.

    resume: a LoRA to train further, instead of a new one.
    progress: is updated after each iteration. If the user cancels, the LoRA trained so far is returned.
    rescue: is called with the result so far before an error is raised, if there is anything worth keeping.

    All randomness comes from a CPU generator seeded with `config.seed`, and repeatable kernels are used if torch has
    them: on one machine the same seed gives the same LoRA. Free memory decides how many rows are predicted at once and
    whether with checkpointing; that changes the result by rounding only.

    Raises ValueError if the configuration does not suit the model, and FloatingPointError if the loss or the LoRA
    becomes NaN or infinite, or if no iteration's gradients fit into the model's precision.
    """
    latent = host.empty_latent(model, config.width, config.height)
    selection = target_layers.select_target_layers(host.diffusion_model(model), config.targets, config.pattern)
    host.check_trainable(selection.linears)
    slices = trained_slices(selection, host.names_in_files(model, selection.naming))
    counter, metrics = host.EvaluationCounter(), TrainingMetrics()
    began = time.monotonic()
    errors: list[Exception] = []
    computed: dict = {}  # see TrainingResult

    def body(live: host.LiveModel) -> tuple[dict[str, LowRankPair], dict[str, float], str]:
        generator = torch.Generator().manual_seed(config.seed)
        if resume is None:
            pairs = create_pairs(selection, slices, config, generator)
            if config.initialisation == CONCEPT_DIRECTIONS:
                noises = torch.randn((2, *latent.shape[1:]), generator=generator)
                layer_inputs = LayerInputs(live, noises, config.steps)
                start_from_concept(pairs, selection, layer_inputs, concept.concept, config)
        else:
            pairs = resumed_pairs(slices, resume, host.layer_slices(model), config)
        for pair in pairs.values():
            pair.down, pair.up = (
                tensor.clone().to(live.device, torch.float32).requires_grad_() for tensor in (pair.down, pair.up)
            )
        adapter = LoRAAdapter(pairs)
        memory = host.TrainingMemory.of(model, latent, config.rows_per_iteration, config.checkpointing)
        sampler = BatchSampler(
            live, adapter, concept, config, latent, generator, progress or host.ProgressReporter(), memory
        )
        checkpointing = checkpointed(live.diffusion_model, adapter, lambda: memory.checkpointing)
        with adapter.attached(live.diffusion_model), checkpointing:
            try:
                stopped = optimise(sampler, metrics)
            except host.Interrupted:
                if not metrics.history:
                    raise
                stopped = CANCELLED
            except Exception as error:
                if not metrics.history or isinstance(error, FloatingPointError):  # nothing worth keeping
                    raise
                stopped = f"by an error: {error}"
                errors.append(error)
        computed.update(rows_at_once=memory.rows, checkpointing=memory.checkpointing, repeatable=live.repeatable)
        file_pairs = {slices[trained].name: slices[trained].widened(pair.to("cpu")) for trained, pair in pairs.items()}
        return (
            {name: pair.with_unit_scale() for name, pair in file_pairs.items()},
            {name: pair.scale for name, pair in file_pairs.items()},
            stopped,
        )

    pairs, scales, stopped = host.session(counter.count_on(model), concept.prompts, latent, body, trainable=True)
    alphas = {name: scale for name, scale in scales.items() if 0 < scale <= FP16_MAX}  # others resume at scale 1
    earlier_iterations = int(resume.training.get("iterations_done", 0)) if resume else 0
    lora = ConceptLoRA(
        pairs,
        concept.concept.model_dump(mode="json"),
        {**asdict(config), "base_model": host.base_model(model), "alphas": alphas, "resumed": resume is not None,
         "iterations_done": earlier_iterations + len(metrics.history)},
        host.pack_conditioning(concept.prompts[concept.concept.target]),
    )  # fmt: skip
    result = TrainingResult(lora, metrics, counter.count, time.monotonic() - began, stopped, computed)
    result.warnings = [*filter(None, [selection.warning]), *result.numerical_warnings()]
    if config.early_stop and not stopped:
        result.warnings.append(metrics.what_is_missing())
    if errors:
        if is_storable(lora):
            rescue(result)
        raise errors[0]
    if not is_storable(lora):
        raise FloatingPointError(
            f"After {len(metrics.history)} iterations the LoRA's weights are NaN, infinite or beyond "
            f"{FP16_MAX:g}: lower `learning_rate` ({config.learning_rate}) or `alpha` ({config.alpha})."
        )
    return result


def is_storable(lora: ConceptLoRA) -> bool:
    """Whether every weight of the LoRA's pairs is finite and fits into half precision, as loading its file requires."""
    return all(max_abs(factor) <= FP16_MAX for pair in lora.pairs.values() for factor in (pair.down, pair.up))


def optimise(sampler: BatchSampler, metrics: TrainingMetrics) -> str:
    """Train the sampler's adapter until the last iteration, Cancel, or, if configured, convergence.

    Returns `TrainingResult.stopped`. Raises FloatingPointError if predictions are NaN or infinite, or if the gradients
    overflowed in every iteration.
    """
    config, live = sampler.config, sampler.live
    parameters = [tensor for pair in sampler.adapter.pairs.values() for tensor in (pair.down, pair.up)]
    optimizer = config.new_optimizer(parameters)
    schedule = config.new_schedule(optimizer)
    scaler = torch.amp.GradScaler(live.device.type, enabled=live.dtype == torch.float16)
    try:
        sampler.progress.begin(config.iterations, live.latent_format)
        for iteration, batch in enumerate(itertools.islice(sampler, config.iterations), 1):
            optimizer.zero_grad()
            predicted, losses = backward(sampler, batch, scaler)
            check_finite(batch, losses, iteration, config)
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            metrics.overflows += scaler.get_scale() < scale  # the scaler has skipped this step
            metrics.update(batch, predicted, losses)
            sampler.progress.update(iteration, metrics.summary())
            if config.early_stop and metrics.is_converged():
                return STOPPED_EARLY
    except host.Interrupted:
        return CANCELLED
    if metrics.overflows == config.iterations:
        raise FloatingPointError(
            f"Nothing was learnt: in {live.dtype} the gradients of this model are too large in every iteration. Load "
            f"the model in bf16 or fp32."
        )
    return ""


def check_finite(batch: TrainingBatch, losses: torch.Tensor, iteration: int, config: TrainingConfig) -> None:
    """Raises FloatingPointError if losses [N] are NaN or infinite, saying whether the base model or the LoRA is why."""
    if losses.isfinite().all():
        return
    without_lora = batch.latents.isfinite().all() or iteration == 1  # later latents depend on the LoRA
    if without_lora and not batch.goals.isfinite().all():
        raise FloatingPointError(
            f"The model itself predicts NaN or infinite values, without the LoRA (iteration {iteration}): load it in "
            f"bf16 or fp32, or choose its native `width` and `height`."
        )
    raise FloatingPointError(
        f"With the LoRA the model predicts NaN or infinite values after {iteration} iterations: lower `learning_rate` "
        f"({config.learning_rate}) or `alpha` ({config.alpha})."
    )


def backward(
    sampler: BatchSampler, batch: TrainingBatch, scaler: torch.amp.GradScaler
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the gradients of a batch's loss, predicting as many rows at once as `sampler.memory` plans.

    The loss is the mean over the examples that erase plus `retain_weight` times the mean over those that retain.
    Returns the predictions [N, ...] and the losses [N]. Out of memory, starts again with fewer rows at once, as long as
    that is possible.
    """
    while True:
        try:
            return _backward(sampler, batch, scaler)
        except host.OutOfMemory as error:
            out_of_memory = error.with_traceback(None)  # the traceback would keep the computed tensors alive
        for pair in sampler.adapter.pairs.values():
            pair.down.grad = pair.up.grad = None
        if not sampler.memory.shrink():
            raise out_of_memory


def _backward(
    sampler: BatchSampler, batch: TrainingBatch, scaler: torch.amp.GradScaler
) -> tuple[torch.Tensor, torch.Tensor]:
    erasing, retaining = int(batch.erases.sum()), int((~batch.erases).sum())
    weights = torch.where(batch.erases, 1 / erasing, sampler.config.retain_weight / max(1, retaining))
    predicted, losses = [], []
    for rows in torch.arange(len(batch.prompts)).split(sampler.memory.rows):
        part = batch.rows(rows.tolist())
        with sampler.adapter.on():
            prediction = sampler.live.row_predictions(part.latents, part.sigmas, part.prompts)
        loss = prediction_losses(prediction, part.goals)
        scaler.scale((loss * weights[rows.to(weights.device)]).sum()).backward()
        predicted.append(prediction.detach())
        losses.append(loss.detach())
    return torch.cat(predicted), torch.cat(losses)
