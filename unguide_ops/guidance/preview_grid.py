"""`preview_grid`: a few prompts drawn by the base model, by the LoRA alone, and by UnGuidance, side by side."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from .. import host, plots
from ..concept import EMPTY_PROMPT, EncodedConcept, evenly_picked
from ..concept_lora import ConceptLoRA
from ..ddim import classifier_free_guidance, ddim_trajectory
from ..host.types import Model
from ..lora import target_layers
from ..model_adapter import adapter_for

COLUMNS = ("base", "LoRA alone", "UnGuidance")
MOST_ERASED, MOST_PRESERVED = 2, 2  # prompts shown of either kind
CFG = 7.5


def preview_grid(
    model: Model,
    lora: ConceptLoRA,
    concept: EncodedConcept,
    latent: torch.Tensor,
    steps: int,
    decode: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, int]:
    """A labelled grid of pictures, IMAGE [1, H, W, 3], and the number of model calls it took.

    Its rows are the target, a synonym and prompts to preserve; under the first UnGuidance equals the LoRA alone
    (w = 0), under the others the base model (w = 1). Each picture takes `steps` DDIM steps from the same noise.
    `decode`: latents [N, ...] -> pictures [N, H, W, 3].
    """
    erased = concept.concept.erased[:MOST_ERASED]
    preserved = evenly_picked(concept.concept.preserved, MOST_PRESERVED)
    prompts = [*erased, *preserved]
    adapter, counter = adapter_for(model, lora), host.EvaluationCounter()
    noise, cfg = host.noise_like(latent, 0), target_layers.effective_cfg(host.diffusion_model(model), CFG)

    def body(live: host.LiveModel) -> list[torch.Tensor]:
        with adapter.attached(live.diffusion_model):
            base, lora_only = (
                sample_latents(live, within, noise, prompts, steps, cfg) for within in (nullcontext, adapter.on)
            )
        return [base, lora_only, torch.cat([lora_only[: len(erased)], base[len(erased) :]])]

    columns = host.session(counter.count_on(model), concept.prompts, latent, body)
    pictures = torch.stack([decode(column) for column in columns], 1)[:, :, None].cpu()
    return plots.comparison_grid(prompts, COLUMNS, pictures, ""), counter.count


def sample_latents(
    live: host.LiveModel,
    within: Callable[[], AbstractContextManager],
    noise: torch.Tensor,
    prompts: list[str],
    steps: int,
    cfg: float,
) -> torch.Tensor:
    """Latents [N, ...] of N prompts, drawn by DDIM from the same noise [1, ...], predicted inside `within()`.

    `cfg` is the scale of classifier-free guidance; with 1, the empty prompt is not predicted. It is predicted outside.
    """
    sigmas = live.ddim_sigmas(steps)
    first = live.first_latents(sigmas[0], noise).repeat(len(prompts), *[1] * (noise.ndim - 1))

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        levels = x.new_full((len(prompts),), sigma)
        with within():
            cond = x - sigma * live.row_predictions(x, levels, prompts)
        if cfg == 1:
            return cond
        uncond = x - sigma * live.row_predictions(x, levels, [EMPTY_PROMPT] * len(prompts))
        return classifier_free_guidance(uncond, cond, cfg)

    *_, last = ddim_trajectory(first, sigmas, denoise)
    return last
