"""`BatchSampler`: the endless sequence of training batches, drawn from one student trajectory after another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from .. import host
from ..concept import EncodedConcept
from ..lora import target_layers
from ..lora.adapter import LoRAAdapter
from .batches import TrainingBatch, batch_at, student_trajectory
from .config import TrainingConfig

EMPTY_PROMPT_SHARE = 0.25
"""The share of latents at which the empty prompt is retained: guidance of every picture depends on it."""


@dataclass
class BatchSampler:
    """Iterates over the batches of a training, drawn with a live model and the LoRA that is being trained on it."""

    live: host.LiveModel
    adapter: LoRAAdapter
    concept: EncodedConcept
    config: TrainingConfig
    latent: torch.Tensor  # zeros [1, ...]
    generator: torch.Generator
    progress: host.ProgressReporter
    memory: host.TrainingMemory

    def __iter__(self) -> Iterator[TrainingBatch]:
        """Endless batches: each trajectory serves `reuse` iterations, with `batch_size` of its latents in each."""
        config, concept = self.config, self.concept.concept
        erased_prompts = itertools.cycle(config.erased(concept))
        g = config.negative_guidance
        while True:
            latents, sigmas = self.new_latents()
            erased = list(itertools.islice(erased_prompts, len(latents)))
            retained = [self.random_retained() for _ in latents]
            batch = batch_at(
                self.live, latents, sigmas, erased, retained, concept.reference, g, max(2, self.memory.rows)
            )
            order = itertools.chain.from_iterable(self.shuffled(len(latents)) for _ in itertools.count())
            for _ in range(config.reuse):
                yield batch.at(list(itertools.islice(order, config.batch_size)))

    @cached_property
    def guidance(self) -> float:
        """The scale of the classifier-free guidance of the trajectories."""
        return target_layers.effective_cfg(self.live.diffusion_model, self.config.start_guidance)

    def new_latents(self) -> tuple[torch.Tensor, list[float]]:
        """Latents z_t [N, ...] at distinct random steps of a new trajectory, and their noise levels.

        There is one for each use, but at most one for each step of the schedule.
        """
        config, levels = self.config, len(self.live.ddim_sigmas(self.config.steps)) - 1
        stops = sorted(self.shuffled(levels)[: config.batch_size * config.reuse])
        noise = torch.randn(self.latent.shape, generator=self.generator)
        trajectory = student_trajectory(
            self.live,
            self.adapter,
            noise,
            self.concept.concept.target,
            self.guidance,
            config.steps,
            stops,
            self.progress.set_preview,
        )
        latents, sigmas = zip(*trajectory, strict=True)
        return torch.cat(latents), list(sigmas)

    def random_retained(self) -> list[str]:
        """`retain_prompts` random ones of the concept's retained prompts; none if `retain_weight` is 0."""
        empty, *preserved = self.concept.concept.retained
        number = self.config.retain_prompts if self.config.retain_weight else 0
        prompts = [preserved[i] for i in self.shuffled(len(preserved))]
        if torch.rand((), generator=self.generator) < EMPTY_PROMPT_SHARE or len(preserved) < number:
            prompts.insert(0, empty)
        return prompts[:number]

    def shuffled(self, number: int) -> list[int]:
        """The numbers from 0 to `number` - 1 in random order."""
        return torch.randperm(number, generator=self.generator).tolist()
