"""ComfyUI's own sampling: what its KSampler and CFGGuider nodes do, its samplers and schedulers."""

from __future__ import annotations

import importlib
from typing import Any

import comfy.samplers

from .types import Conditioning, Latent, Model

host_nodes = importlib.import_module("nodes")  # ComfyUI's own module of that name, not this pack's

SAMPLERS = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS = comfy.samplers.KSampler.SCHEDULERS


def ksample(
    model: Model,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: Latent,
    denoise: float,
) -> Latent:
    """The result of the host's KSampler node, with its progress bar and previews."""
    return host_nodes.common_ksampler(
        model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise=denoise
    )[0]


def cfg_guider(model: Model, positive: Conditioning, negative: Conditioning, cfg: float) -> Any:
    """The GUIDER of the host's CFGGuider node."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider
