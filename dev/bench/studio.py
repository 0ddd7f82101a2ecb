"""A worker's studio: the embedded model in a real host, in a process of its own with one thread."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch

from dev.environment import ROOT
from dev.inprocess import load_pack, start_host

PICTURES, STEPS, CFG, SEED = 16, 20, 7.5, 0
SAMPLER, SCHEDULER = "euler", "normal"
SIZE = 64
WORDS = ROOT / "prompts" / "benchmark" / "words.json"


def read_words() -> dict:
    """The benchmark's fixed words: `classes` (name -> seen, unseen, neighbours, compounds, attributes), `pairs`."""
    return json.loads(WORDS.read_text(encoding="utf-8"))


def photo(word: str) -> str:
    """A word in the prompt that everything is measured with."""
    return f"a photo of the {word}"


class Studio:
    """The embedded model from `folder`, with stock sampling."""

    def __init__(self, folder: Path) -> None:
        """Starts the host in this process."""
        torch.set_num_threads(1)  # the other cores have workers of their own
        start_host()
        load_pack()
        from unguide.demo_model import load_demo_model

        with torch.inference_mode():
            self.model, self.clip, self.vae = load_demo_model(folder)

    def draw(self, prompt: str, model=None, number: int = PICTURES) -> torch.Tensor:
        """Pictures of a prompt by MODEL (default: the base), uint8 [N, 3, 64, 64]."""
        import nodes
        from unguide.unguide_ops import host

        with torch.inference_mode():
            latent = nodes.EmptyLatentImage().generate(SIZE, SIZE, number)[0]
            positive, negative = host.encode(self.clip, prompt), host.encode(self.clip, "")
            sampled = host.ksample(
                model or self.model, SEED, STEPS, CFG, SAMPLER, SCHEDULER, positive, negative, latent, 1.0
            )
            pixels = self.vae.decode(sampled["samples"]).clamp(0, 1)
            return (pixels.movedim(-1, 1) * 255).round().byte()


@functools.cache
def studio(folder: Path) -> Studio:
    """The one studio of a worker."""
    return Studio(folder)


def draw_base(folder: Path, prompt: str, number: int = PICTURES):
    """A task for a worker: a prompt drawn by the base model, as a numpy array."""
    return studio(folder).draw(prompt, number=number).numpy()
