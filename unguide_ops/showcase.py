"""What a LoRA does, in pictures: a few prompts by the base, by the LoRA alone, and by UnGuidance."""

from __future__ import annotations

import torch

from . import figures, host, targets
from .branch import Branch
from .concept import NEUTRAL, EncodedConcept, spread
from .fitting import branch_of
from .guidance import blend
from .lora import ConceptLoRA
from .objective import classifier_free_guidance, ddim_step
from .steering import SteeringSettings

COLUMNS = {"base": 1.0, "LoRA alone": 0.0, "UnGuidance": -1.0}
ERASED, KEPT = 2, 2  # prompts shown of either kind, at most
CFG = 7.5


def showcase(model, lora: ConceptLoRA, concept: EncodedConcept, latent: torch.Tensor, steps: int, decode):
    """A labelled grid, IMAGE [1, H, W, 3], and the evaluations it took. `decode`: latents [N, ...] -> [N, H, W, 3].

    Rows are the target, a synonym and preserved prompts. Under the latter UnGuidance is the base (w = 1).
    """
    erased, kept = concept.concept.erased[:ERASED], spread(concept.concept.kept, KEPT)
    prompts = [*erased, *kept]
    branch, counter = branch_of(model, lora), host.EvaluationCounter()
    noise, cfg = host.noise_like(latent, 0), targets.guidance(host.diffusion_model(model), CFG)

    def body(live: host.LiveModel) -> list[torch.Tensor]:
        with branch.attached(live.diffusion_model):
            base, alone = (sample(live, branch, noise, prompts, steps, w, cfg) for w in (1.0, 0.0))
            steered = sample(live, branch, noise, list(erased), steps, -1.0, cfg)
        return [base, alone, torch.cat([steered, base[len(erased) :]])]

    columns = host.session(counter.watch(model), concept.prompts, latent, body)
    pictures = torch.stack([decode(column) for column in columns], 1)[:, :, None].cpu()
    return figures.comparison_grid(prompts, list(COLUMNS), pictures, ""), counter.count


def sample(
    live, branch: Branch, noise: torch.Tensor, prompts: list[str], steps: int, w: float, cfg: float
) -> torch.Tensor:
    """The latents of one picture a prompt, all from the same noise [1, ...]: DDIM under one w; cfg 1: no uncond."""
    sigmas = live.ddim_sigmas(steps)
    x = live.first_latents(sigmas[0], noise).repeat(len(prompts), *[1] * (noise.ndim - 1))
    neutral = [NEUTRAL] * len(prompts)

    for sigma, sigma_next in zip(sigmas, sigmas[1:], strict=False):
        levels = x.new_full((len(prompts),), sigma)
        sides = (prompts, neutral) if cfg != 1 else (prompts,)
        cond, *uncond = (x - sigma * live.row_predictions(x, levels, them) for them in sides)
        if w != 1.0:
            with branch.on():
                changed = x - sigma * live.row_predictions(x, levels, prompts)
            cond = blend(cond, changed, w, SteeringSettings.eta)
        denoised = classifier_free_guidance(uncond[0], cond, cfg) if uncond else cond
        x = ddim_step(x, denoised, sigma, sigma_next)
    return x
