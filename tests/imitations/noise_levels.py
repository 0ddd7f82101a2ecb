"""Packs of samplers and noise levels: restarts, split runs, unsampling (RES4LYF, ComfyUI_Noise), no step at all."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import torch
from imitations.parts import Expected, Part
from imitations.sampling import SEED, Sampling

GROUP = "runs of other kinds"


def no_steps(sampling: Sampling) -> None:
    """One noise level, so that no step is made."""
    sampling.sigmas = sampling.sigmas_of(sampling.assets.model)[:1]


def restarting(sampling: Sampling) -> None:
    """Noise levels that fall, rise and fall again."""
    sigmas = sampling.sigmas_of(sampling.assets.model)
    sampling.sigmas = torch.cat([sigmas[:-1], sigmas[1:]])


def restarting_sampler(sampling: Sampling) -> None:
    """A sampler that raises the noise between two noise levels of its list."""

    def restart(model, x, sigmas, extra_args=None, callback=None, disable=None):
        generator = torch.Generator().manual_seed(SEED)
        ones = x.new_ones(len(x))
        for sigma, next_sigma in zip(sigmas, sigmas[1:], strict=False):
            for _ in range(2):
                x0 = model(x, sigma * ones, **(extra_args or {}))
                lower = x0 + (x - x0) * next_sigma / sigma
                noise = torch.randn(x.shape, generator=generator)
                x = lower + noise * (sigma**2 - next_sigma**2).clamp(min=0) ** 0.5
            x = lower
        return x

    sampling.sampler = comfy.samplers.KSAMPLER(restart)


def split(sampling: Sampling) -> None:
    """High noise levels in one run, low ones in a second run."""

    def run(model):
        sigmas = sampling.sigmas_of(model)
        noise = comfy.sample.prepare_noise(sampling.latent, SEED)
        half = sampling.sample_from(model, noise, sampling.latent, sigmas[:3])
        return sampling.sample_from(model, torch.zeros_like(noise), half, sigmas[2:])

    sampling.run = run


def unsampling(sampling: Sampling) -> None:
    """From the model's own picture up to noise, by the noise levels in reverse order, and down again."""
    picture = Sampling(sampling.assets, sampling.prompts, steps=6).sample(sampling.assets.model)

    def run(model):
        sigmas = sampling.sigmas_of(model)[:-1]
        noise = sampling.sample_from(model, torch.zeros_like(picture), picture, sigmas.flip(0))
        return sampling.sample_from(model, torch.zeros_like(noise), noise, sigmas)

    sampling.run = run


PARTS = [
    Part("no steps", GROUP, change=no_steps, fast=True),
    Part("noise levels that rise again", GROUP, change=restarting, fast=True),
    Part("a sampler that raises the noise", GROUP, change=restarting_sampler, steps=2, fast=True),
    Part("SplitSigmas", GROUP, change=split, steps=4, expected=Expected(no_effect="in two runs the same steps"),
         fast=True),
    Part("unsampling", GROUP, change=unsampling, fast=True),
]  # fmt: skip
