"""The host's own sampling."""

from __future__ import annotations

import comfy.samplers
import nodes


def ksample(model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise) -> dict:
    """What the host's KSampler node does, with its progress bar and previews. Returns a LATENT."""
    return nodes.common_ksampler(  # type: ignore[attr-defined] # the host's nodes, which mypy takes for ours
        model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise=denoise
    )[0]


def cfg_guider(model, positive, negative, cfg: float):
    """The GUIDER of the host's CFGGuider node."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


SAMPLERS = comfy.samplers.KSampler.SAMPLERS

SCHEDULERS = comfy.samplers.KSampler.SCHEDULERS
