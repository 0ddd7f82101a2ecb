"""The course of a training: one trajectory after the other, and the batches of lessons that each serves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from . import host, targets
from .branch import Branch
from .concept import EncodedConcept
from .lessons import Lessons, lessons_at, trajectory
from .settings import TrainingSettings

NEUTRAL_SHARE = 0.25
"""Of the latents, at which the neutral prompt is retained: it is one side of the guidance of every picture."""


@dataclass
class Course:
    """The lessons of a training, from a live model whose branch is the LoRA."""

    live: host.LiveModel
    branch: Branch
    concept: EncodedConcept
    settings: TrainingSettings
    latent: torch.Tensor  # zeros [1, ...]
    generator: torch.Generator
    watch: host.Watch
    memory: host.TrainingMemory

    def __iter__(self) -> Iterator[Lessons]:
        """Endless batches: each trajectory serves `reuse` iterations, `batch_size` of its latents at a time."""
        settings, concept = self.settings, self.concept.concept
        turns = itertools.cycle(settings.erased(concept))
        g = settings.negative_guidance
        while True:
            latents, sigmas = self.new_latents()
            asked = list(itertools.islice(turns, len(latents)))
            kept = [self.some_retained() for _ in latents]
            lessons = lessons_at(
                self.live, latents, sigmas, asked, kept, concept.reference, g, max(2, self.memory.rows)
            )
            order = itertools.chain.from_iterable(self.shuffled(len(latents)) for _ in itertools.count())
            for _ in range(settings.reuse):
                yield lessons.at(list(itertools.islice(order, settings.batch_size)))

    @cached_property
    def guidance(self) -> float:
        """The trajectories' cfg."""
        return targets.guidance(self.live.diffusion_model, self.settings.start_guidance)

    def new_latents(self) -> tuple[torch.Tensor, list[float]]:
        """As many latents z_t of one new trajectory as there are uses for, at random steps of its schedule."""
        settings, levels = self.settings, len(self.live.ddim_sigmas(self.settings.steps)) - 1
        stops = sorted(self.shuffled(levels)[: settings.batch_size * settings.reuse])
        noise = torch.randn(self.latent.shape, generator=self.generator)
        target, guidance = self.concept.concept.target, self.guidance
        path = trajectory(self.live, self.branch, noise, target, guidance, settings.steps, stops, self.watch.picture)
        latents, sigmas = zip(*path, strict=True)
        return torch.cat(latents), list(sigmas)

    def some_retained(self) -> list[str]:
        """`retain_prompts` random ones of the concept's retained prompts; none if they have no weight."""
        neutral, *kept = self.concept.concept.retained
        number = self.settings.retain_prompts if self.settings.retain_weight else 0
        some = [kept[i] for i in self.shuffled(len(kept))]
        if torch.rand((), generator=self.generator) < NEUTRAL_SHARE or len(kept) < number:
            some.insert(0, neutral)
        return some[:number]

    def shuffled(self, number: int) -> list[int]:
        """0 to number - 1, in random order."""
        return torch.randperm(number, generator=self.generator).tolist()
