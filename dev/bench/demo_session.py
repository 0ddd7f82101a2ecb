"""The embedded model in a worker's own ComfyUI: encodes, trains and draws at the benchmark's settings."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nodes
import numpy as np
import torch
from unguide.demo_model.loader import load_demo_model
from unguide.unguide_ops import host
from unguide.unguide_ops.concept import EncodedConcept, concept_from
from unguide.unguide_ops.pipeline import TrainedConcept, train_concept
from unguide.unguide_ops.training import config

PICTURES = 16  # per prompt
STEPS, CFG, SEED = 20, 7.5, 0
SAMPLER, SCHEDULER = "euler", "normal"
SIZE = 64  # pixels


class DemoSession:
    """The embedded model from `folder`, with stock sampling."""

    def __init__(self, folder: Path):
        with torch.inference_mode():
            self.model, self.clip, self.vae = load_demo_model(folder)

    def encode(self, prompt: str) -> list:
        """A prompt as CONDITIONING."""
        return host.encode(self.clip, prompt)

    def concept(self, name: str) -> EncodedConcept:
        """A preset's concept with its prompts encoded."""
        return EncodedConcept.of(concept_from(name, "", "", "", ""), self.encode)

    def train(self, name: str, preset: str = "object", **changes) -> TrainedConcept:
        """A LoRA that forgets the class, calibrated; `changes` replace settings of the preset."""
        settings = dataclasses.replace(config.preset(preset, width=SIZE, height=SIZE), **changes)
        with torch.inference_mode():
            return train_concept(self.model, self.concept(name), settings)

    def draw(self, prompt: str, model=None, number: int = PICTURES) -> np.ndarray:
        """Pictures of a prompt by MODEL (default: the base model), uint8 [N, 3, 64, 64]."""
        latent = nodes.EmptyLatentImage().generate(SIZE, SIZE, number)[0]
        return self.sample(model, prompt, latent)

    @torch.inference_mode()
    def sample(self, model, prompt: str | list, latent: dict, seed: int = SEED, denoise: float = 1.0) -> np.ndarray:
        """Pictures of a prompt, or of CONDITIONING, that sampling starts from `latent`, uint8 [N, 3, 64, 64]."""
        positive = self.encode(prompt) if isinstance(prompt, str) else prompt
        sampled = host.ksample(
            model or self.model, seed, STEPS, CFG, SAMPLER, SCHEDULER, positive, self.encode(""), latent, denoise
        )
        pixels = self.vae.decode(sampled["samples"]).clamp(0, 1)
        return (pixels.movedim(-1, 1) * 255).round().byte().numpy()


@functools.cache
def demo_session(folder: Path) -> DemoSession:
    """The one session of a worker."""
    return DemoSession(folder)


def draw_base(folder: Path, prompt: str, number: int = PICTURES) -> np.ndarray:
    """A worker's task: a prompt drawn by the base model."""
    return demo_session(folder).draw(prompt, number=number)


@contextmanager
def all_threads() -> Iterator[None]:
    """Let torch use every core, for a task that runs alone; workers otherwise use one thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(torch.multiprocessing.cpu_count())
    try:
        yield
    finally:
        torch.set_num_threads(before)
