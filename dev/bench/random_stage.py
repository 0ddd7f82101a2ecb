"""A Stage on a model of random weights: a LoRA of random pairs, whose gate takes one of two prompts for the concept.

For time and memory, not for pictures.
"""

from __future__ import annotations

import torch

from dev.bench.ways import CFG, ERASED, UNRELATED, Stage
from dev.families.random_model import RandomModel

RANK, STRENGTH, STEPS = 4, 0.01, 10
HIGH = (0.9, 0.905, 0.91)
"""What everyday prompts are said to score, of the target's 1: to a random model all prompts are much alike."""


def new_stage(it: RandomModel, size: int, dtype: torch.dtype, **made) -> Stage:
    """The stage for pictures of size x size pixels, with the model's weights in `dtype`; `made`: see RandomModel.model.

    Its unrelated prompt is the target's with every number turned round.
    """
    from unguide.unguide_ops import host, targets
    from unguide.unguide_ops.calibration import Calibration, Level
    from unguide.unguide_ops.lora import ConceptLoRA, LowRankPair
    from unguide.unguide_ops.sites import training_sites

    model = it.model(dtype, **made)
    network = host.diffusion_model(model)
    selection, generator, pairs = targets.select(network, targets.AUTOMATIC), torch.Generator().manual_seed(0), {}
    for site in training_sites(selection, host.file_names(model, selection.naming)).values():
        inputs = selection.linears[site.place.path].in_features
        pair = LowRankPair.create(inputs, site.outputs, RANK, 1.0, generator)
        pair.up = STRENGTH * torch.randn(pair.up.shape, generator=generator)
        pairs[site.name] = pair
    prompts = {ERASED: it.prompt("target"), UNRELATED: turned(it.prompt("target")), "": it.prompt("")}
    sigma = model.get_model_object("model_sampling").sigma_max.item()
    known = Calibration(
        base=host.fingerprint(model), width=size, height=size, cfg=targets.guidance(network, CFG), steps=STEPS,
        levels=(Level(sigma=sigma, neutral=HIGH, preserved=(), target=(1.0,)),),
    )  # fmt: skip
    lora = ConceptLoRA(pairs, target_prompt=host.pack_conditioning(prompts[ERASED]), calibration=known)
    latent = host.empty_latent(model, size, size)
    return Stage(model, lora, prompts, latent, lambda: it.model(dtype, **made), targets.guidance(network, CFG))


def turned(conditioning: list) -> list:
    """CONDITIONING with the sign of each of its numbers changed."""
    return [
        [-text, {key: -it if isinstance(it, torch.Tensor) else it for key, it in extras.items()}]
        for text, extras in conditioning
    ]
