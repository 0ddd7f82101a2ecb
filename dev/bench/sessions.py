"""A tiny trained model in a worker's own ComfyUI: encodes, trains and draws at the benchmark's settings."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy.sample
import numpy as np
import torch
from unguide.demo_model.loader import FOLDER, load_demo_model
from unguide.unguide_ops import host
from unguide.unguide_ops.concept import EncodedConcept, concept_from
from unguide.unguide_ops.pipeline import TrainedConcept, train_concept
from unguide.unguide_ops.training import config

from dev.families.trained import TRAINED, load_trained

DEMO = "demo"  # the embedded model
MODELS = (DEMO, *TRAINED)
PICTURES = 16  # per prompt
STEPS, CFG, SEED = 20, 7.5, 0
FAMILY_CFG = 5.0  # of the other families
SAMPLER, SCHEDULER = "euler", "normal"
SIZE = 64  # pixels


class Session:
    """A model with its text encoder and autoencoder, and stock sampling."""

    def __init__(self, name: str = DEMO, folder: Path = FOLDER):
        """One of MODELS; the embedded model comes from `folder`."""
        with torch.inference_mode():
            self.model, self.clip, self.vae = load_demo_model(folder) if name == DEMO else load_trained(name)
        self.name, self.cfg = name, CFG if name == DEMO else FAMILY_CFG
        self._decode = host.decoder(self.model, self.vae)

    def encode(self, prompt: str) -> list:
        """A prompt as CONDITIONING."""
        return host.encode(self.clip, prompt)

    def concept(self, name: str) -> EncodedConcept:
        """A preset's concept with its prompts encoded."""
        return EncodedConcept.of(concept_from(name, "", "", "", ""), self.encode)

    def train(self, concept: str | EncodedConcept, preset: str = "object", **changes) -> TrainedConcept:
        """A LoRA that forgets a class, or a concept, calibrated; `changes` replace settings of the preset."""
        settings = dataclasses.replace(config.preset(preset, width=SIZE, height=SIZE), **changes)
        with torch.inference_mode():
            concept = self.concept(concept) if isinstance(concept, str) else concept
            return train_concept(self.model, concept, settings)

    def empty(self, number: int) -> torch.Tensor:
        """Empty latents of so many pictures."""
        return host.empty_latent(self.model, SIZE, SIZE, number)

    def draw(self, prompt: str, model=None, number: int = PICTURES) -> np.ndarray:
        """Pictures of a prompt by MODEL (default: the base model), uint8 [N, 3, 64, 64]."""
        return self.sample(model, prompt, {"samples": self.empty(number)})

    @torch.inference_mode()
    def sample(
        self, model, prompt: str | list, latent: dict, seed: int = SEED, denoise: float = 1.0, negative: str = "",
        noise: torch.Tensor | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Pictures of a prompt, or of CONDITIONING, that sampling starts from `latent`, uint8 [N, 3, 64, 64].

        `noise` replaces that of the seed.
        """
        positive = self.encode(prompt) if isinstance(prompt, str) else prompt
        model, prompts = model or self.model, (positive, self.encode(negative))
        if noise is not None:
            start = latent["samples"]
            return self.pictures_of(
                comfy.sample.sample(model, noise, STEPS, self.cfg, SAMPLER, SCHEDULER, *prompts, start)
            )
        sampled = host.ksample(model, seed, STEPS, self.cfg, SAMPLER, SCHEDULER, *prompts, latent, denoise)
        return self.pictures_of(sampled["samples"])

    def pictures_of(self, latents: torch.Tensor) -> np.ndarray:
        """Latents as pictures, uint8 [N, 3, 64, 64]."""
        pixels = self._decode(latents).clamp(0, 1)
        return (pixels.movedim(-1, 1) * 255).round().byte().numpy()

    def latents_of(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures [N, 3, 64, 64] in [0, 1] as latents."""
        return self.vae.encode(pictures.movedim(1, -1))


@functools.cache
def session_of(name: str) -> Session:
    """A worker's one session with one of MODELS."""
    return Session(name)


@functools.cache
def demo_session(folder: Path) -> Session:
    """A worker's one session with the embedded model in `folder`."""
    return Session(DEMO, folder)


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
