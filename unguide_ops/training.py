"""The training loop (paper section 3.1): a small LoRA under which the target prompt predicts something else."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch

from . import host, targets
from .branch import Branch
from .checkpointing import checkpointed
from .concept import EncodedConcept
from .course import Course
from .lessons import Lessons
from .lora import ConceptLoRA, LowRankPair
from .monitor import Monitor
from .numbers import LARGEST_NUMBER, largest
from .objective import row_losses
from .settings import TrainingSettings
from .sites import create_pairs, resumed_pairs, training_sites

CANCELLED = "cancelled"
SOME_OVERFLOW = 0.1  # of the iterations; the first few find the scale
EARLY = "early: the target is gone, and nothing preserved is changed as much"


@dataclass
class Training:
    """A trained LoRA and how it came about.

    `stopped`: "" at the end, CANCELLED, or EARLY. `computed`: how many rows were predicted with gradients at once,
    whether activations were computed twice (`checkpointing`), whether the same seed gives the same LoRA (`repeatable`).
    """

    lora: ConceptLoRA
    monitor: Monitor
    evaluations: int
    seconds: float
    stopped: str
    computed: dict
    warnings: list[str] = field(default_factory=list)

    def doubts(self) -> list[str]:
        """Sentences on what the user may not expect of how it was computed."""
        found = []
        lost, all_of_them = self.monitor.overflows, len(self.monitor.history)
        if lost > SOME_OVERFLOW * all_of_them:
            found.append(f"{lost} of {all_of_them} iterations taught nothing, as their gradients did not fit into half "
                         f"precision: load the model in bf16 or fp32.")  # fmt: skip
        if not self.computed.get("repeatable", True):
            found.append("On this device the same seed does not give the same LoRA to the bit: torch has a kernel that "
                         "the model needs in no repeatable version.")  # fmt: skip
        return found

    def report(self) -> dict:
        """What training did and cost, JSON-like. Losses and the like are means over the last iterations."""
        return {
            "iterations": len(self.monitor.history),
            "stopped": self.stopped or "at the end",
            "warning": " ".join(self.warnings),
            "evaluations": self.evaluations,
            "seconds": round(self.seconds, 1),
            **self.computed,
            "erasing_loss": self.monitor.mean("erasing"),
            "retain_loss": self.monitor.mean("retain"),
            "erasure": self.monitor.mean("erasure"),
            "separation": self.monitor.separation(),
        }


def train(
    model,
    concept: EncodedConcept,
    settings: TrainingSettings,
    *,
    resume: ConceptLoRA | None = None,
    watch: host.Watch | None = None,
    rescue: Callable[[Training], None] = lambda training: None,
) -> Training:
    """Train a concept LoRA on MODEL; the model itself is left as it was, whatever happens.

    `resume` goes on with a LoRA's pairs. `watch` is shown how far it is; when the user cancels, what was trained so
    far is returned; when something fails, `rescue` gets it before the error is raised. All randomness comes from a CPU
    generator with `settings.seed`, and kernels are chosen that repeat: on one machine the same seed gives the same
    LoRA. How many rows are predicted at once, and whether with checkpointing, follows from the memory that is free; the
    result does not, rounding apart. Raises ValueError for settings that do not fit the model, and FloatingPointError
    when the loss is NaN or infinite, or when no gradient fits into the model's precision.
    """
    latent = host.empty_latent(model, settings.width, settings.height)
    selection = targets.select(host.diffusion_model(model), settings.targets, settings.pattern)
    host.check_trainable(selection.linears)
    sites = training_sites(selection, host.file_names(model, selection.naming))
    counter, monitor = host.EvaluationCounter(), Monitor()
    began = time.monotonic()
    failed: list[Exception] = []
    notes: dict = {}  # on how it was computed

    def body(live: host.LiveModel) -> tuple[dict[str, LowRankPair], dict[str, float], str]:
        generator = torch.Generator().manual_seed(settings.seed)
        if resume is None:
            pairs = create_pairs(selection, sites, concept, settings, generator)
        else:
            pairs = resumed_pairs(sites, resume, host.places(model), settings)
        for pair in pairs.values():
            pair.down, pair.up = (
                t.clone().to(live.device, torch.float32).requires_grad_() for t in (pair.down, pair.up)
            )
        branch = Branch(pairs)
        memory = host.TrainingMemory.of(model, latent, settings.lessons, settings.checkpointing)
        course = Course(live, branch, concept, settings, latent, generator, watch or host.Watch(), memory)
        twice = checkpointed(live.diffusion_model, branch, lambda: memory.checkpointing)
        with branch.attached(live.diffusion_model), twice:
            try:
                stopped = optimise(course, monitor)
            except host.Interrupted:
                if not monitor.history:
                    raise
                stopped = CANCELLED
            except Exception as error:
                if not monitor.history or isinstance(error, FloatingPointError):  # nothing worth keeping
                    raise
                stopped = f"by an error: {error}"
                failed.append(error)
        notes.update(rows_at_once=memory.rows, checkpointing=memory.checkpointing, repeatable=live.repeatable)
        done = {sites[place].name: sites[place].widened(pair.to("cpu")) for place, pair in pairs.items()}
        return {name: it.folded() for name, it in done.items()}, {name: it.alpha for name, it in done.items()}, stopped

    pairs, alphas, stopped = host.session(counter.watch(model), concept.prompts, latent, body, trainable=True)
    known = {name: it for name, it in alphas.items() if 0 < it <= LARGEST_NUMBER}  # of others the pair itself tells
    before = int(resume.training.get("iterations_done", 0)) if resume else 0
    lora = ConceptLoRA(
        pairs,
        concept.concept.model_dump(mode="json"),
        {**asdict(settings), "base_model": host.base_model(model), "alphas": known, "resumed": resume is not None,
         "iterations_done": before + len(monitor.history)},
        host.pack_conditioning(concept.prompts[concept.concept.target]),
    )  # fmt: skip
    training = Training(lora, monitor, counter.count, time.monotonic() - began, stopped, notes)
    training.warnings = [*filter(None, [selection.warning]), *training.doubts()]
    if failed:
        if is_sound(lora):
            rescue(training)
        raise failed[0]
    if not is_sound(lora):
        raise FloatingPointError(
            f"After {len(monitor.history)} iterations the LoRA's weights are NaN, infinite or beyond "
            f"{LARGEST_NUMBER:g}: lower `learning_rate` ({settings.learning_rate}) or `alpha` ({settings.alpha})."
        )
    return training


def is_sound(lora: ConceptLoRA) -> bool:
    """Whether every weight is a number that its file may hold."""
    return all(largest(half) <= LARGEST_NUMBER for pair in lora.pairs.values() for half in (pair.down, pair.up))


def optimise(course: Course, monitor: Monitor) -> str:
    """Train the course's branch to the last iteration, until Cancel, or until the monitor says enough: why it ended."""
    settings, live = course.settings, course.live
    parameters = [tensor for pair in course.branch.pairs.values() for tensor in (pair.down, pair.up)]
    optimizer = settings.new_optimizer(parameters)
    schedule = settings.new_schedule(optimizer)
    scaler = torch.amp.GradScaler(live.device.type, enabled=live.dtype == torch.float16)
    try:
        course.watch.begin(settings.iterations, live.latent_format)
        for iteration, lessons in enumerate(itertools.islice(course, settings.iterations), 1):
            optimizer.zero_grad()
            predicted, losses = backward(course, lessons, scaler)
            check_finite(lessons, losses, iteration, settings)
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            monitor.overflows += scaler.get_scale() < before  # the scaler has left this step out
            monitor.see(lessons, predicted, losses)
            course.watch.done(iteration, monitor.words())
            if settings.early_stop and monitor.is_done():
                return EARLY
    except host.Interrupted:
        return CANCELLED
    if monitor.overflows == settings.iterations:
        raise FloatingPointError(
            f"Nothing was learnt: in {live.dtype} the gradients of this model are too large in every iteration. Load "
            f"the model in bf16 or fp32."
        )
    return ""


def check_finite(lessons: Lessons, losses: torch.Tensor, iteration: int, settings: TrainingSettings) -> None:
    """Raises FloatingPointError for losses [N] that are NaN or infinite: whether the model or the LoRA made them."""
    if losses.isfinite().all():
        return
    on_its_own = lessons.latents.isfinite().all() or iteration == 1  # later latents are those of the LoRA's own making
    if on_its_own and not lessons.goals.isfinite().all():
        raise FloatingPointError(
            f"The model itself predicts NaN or infinite values, without the LoRA (iteration {iteration}): load it in "
            f"bf16 or fp32, or choose its native `width` and `height`."
        )
    raise FloatingPointError(
        f"With the LoRA the model predicts NaN or infinite values after {iteration} iterations: lower `learning_rate` "
        f"({settings.learning_rate}) or `alpha` ({settings.alpha})."
    )


def backward(course: Course, lessons: Lessons, scaler) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the lessons' mean losses, so many rows at once as memory allows; out of it, with fewer.

    Returns the predictions [N, ...] and the losses [N]. The erasing lessons weigh 1 together, the retaining ones
    `retain_weight`.
    """
    while True:
        try:
            return _backward(course, lessons, scaler)
        except host.OutOfMemory as error:
            failed = error.with_traceback(None)  # which holds on to what was computed
        for pair in course.branch.pairs.values():
            pair.down.grad = pair.up.grad = None
        if not course.memory.shrink():
            raise failed


def _backward(course: Course, lessons: Lessons, scaler) -> tuple[torch.Tensor, torch.Tensor]:
    erasing, retaining = int(lessons.erases.sum()), int((~lessons.erases).sum())
    weights = torch.where(lessons.erases, 1 / erasing, course.settings.retain_weight / max(1, retaining))
    predicted, losses = [], []
    for rows in torch.arange(len(lessons.prompts)).split(course.memory.rows):
        some = lessons.rows(rows.tolist())
        with course.branch.on():
            prediction = course.live.row_predictions(some.latents, some.sigmas, some.prompts)
        loss = row_losses(prediction, some.goals)
        scaler.scale((loss * weights[rows.to(weights.device)]).sum()).backward()
        predicted.append(prediction.detach())
        losses.append(loss.detach())
    return torch.cat(predicted), torch.cat(losses)
