"""From a concept to a finished LoRA: train it, calibrate its gate, draw a preview grid, and rescue what was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from . import host
from .concept import EncodedConcept
from .concept_lora import ConceptLoRA
from .gate.calibrate import CAPTIONS, calibrate
from .guidance.preview_grid import preview_grid
from .host.types import Model
from .training.config import TrainingConfig
from .training.near_words import NearWord, with_near_words
from .training.trainer import CANCELLED, TrainingResult, train


@dataclass
class TrainedConcept:
    """A trained LoRA with its calibrated gate and preview grid, and the model calls that each of these took."""

    lora: ConceptLoRA
    training: TrainingResult
    near: list[NearWord]
    problem: str = ""  # why the gate could not be calibrated, "" if it was
    grid: torch.Tensor | None = None  # IMAGE [1, H, W, 3] in [0, 1]
    evaluations_calibration: int = 0
    evaluations_grid: int = 0

    def report(self) -> dict:
        """What training, calibration and preview grid did and cost, as JSON values."""
        gate = self.lora.calibration
        return {
            **self.training.report(),
            "gate": {"false_alarms": gate and gate.false_alarms, "misses": gate and gate.misses},
            "near": [
                {**asdict(word), "response": round(word.response, 3), "likeness": round(word.likeness, 3)}
                for word in self.near
            ],
            "calibration": self.problem or "done",
            "evaluations_calibration": self.evaluations_calibration,
            "evaluations_grid": self.evaluations_grid,
        }


def train_concept(
    model: Model,
    concept: EncodedConcept,
    config: TrainingConfig,
    *,
    resume: ConceptLoRA | None = None,
    progress: host.ProgressReporter | None = None,
    rescue: Callable[[TrainingResult], None] = lambda training: None,
    captions: int = CAPTIONS,
    grid_steps: int = 0,
    decode: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> TrainedConcept:
    """Train a concept LoRA on MODEL and calibrate its gate on that many everyday `captions`.

    `resume`, `progress` and `rescue` are as for `train`, but `rescue` is also called with the trained LoRA if an error
    or Cancel ends calibration or preview grid. With `grid_steps` (DDIM steps) and `decode` (latents [N, ...] ->
    pictures [N, H, W, 3]) a preview grid is drawn, which also becomes the LoRA's preview. A LoRA that changes nothing
    yet cannot be calibrated, but can be trained further: `problem` says so. Raises what `train` raises, and the host's
    interrupt after Cancel.
    """
    progress = progress or host.ProgressReporter()
    concept, near = with_near_words(concept, config, progress)
    training = train(model, concept, config, resume=resume, progress=progress, rescue=rescue)
    try:
        if training.stopped == CANCELLED:
            raise host.Interrupted
        trained = TrainedConcept(training.lora, training, near)
        try:
            trained.lora, trained.evaluations_calibration = calibrate(
                model, training.lora, concept, config.width, config.height, captions=captions
            )
        except ValueError as error:
            trained.problem = str(error)
        if grid_steps and decode is not None:
            latent = host.empty_latent(model, config.width, config.height)
            trained.grid, trained.evaluations_grid = preview_grid(
                model, trained.lora, concept, latent, grid_steps, decode
            )
            trained.lora.preview = trained.grid[0].float().cpu()
    except (Exception, host.Interrupted):  # in newer versions of ComfyUI the interrupt is a BaseException
        rescue(training)
        raise
    return trained
