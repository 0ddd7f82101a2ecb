"""A sampling setup on a model of random weights, to measure time and memory, not pictures.

Its LoRA is made of random pairs, and its gate takes one of two prompts for the concept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from unguide.unguide_ops import host
from unguide.unguide_ops.concept_lora import ConceptLoRA
from unguide.unguide_ops.gate.calibration import Calibration, LevelScores
from unguide.unguide_ops.lora import target_layers
from unguide.unguide_ops.lora.low_rank import LowRankPair
from unguide.unguide_ops.training.trained_slices import trained_slices

from dev.bench.sampling_methods import CFG, ERASED, UNRELATED, SamplingSetup
from dev.families.random_model import RandomModel

RANK, STRENGTH, STEPS = 4, 0.01, 10
EVERYDAY_SCORES = (0.9, 0.905, 0.91)
"""Scores of everyday captions, where the target's is 1: to a random model all prompts are much alike."""


def random_model_setup(
    random_model: RandomModel, size: int, dtype: torch.dtype, load: Callable | None = None, **options
) -> SamplingSetup:
    """The setup for pictures of size x size pixels, with the model's weights in `dtype`.

    `load()` makes the MODEL; by default it is made with `options`: see RandomModel.model. The unrelated prompt is the
    target's with the sign of every number changed.
    """
    load = load or (lambda: random_model.model(dtype, **options))
    model = load()
    network = host.diffusion_model(model)
    target, cfg = random_model.prompt("target"), target_layers.effective_cfg(network, CFG)
    sigma = model.get_model_object("model_sampling").sigma_max.item()
    calibration = Calibration(
        base=host.fingerprint(model), width=size, height=size, cfg=cfg, steps=STEPS,
        levels=(LevelScores(sigma=sigma, neutral=EVERYDAY_SCORES, preserved=(), target=(1.0,)),),
    )  # fmt: skip
    lora = ConceptLoRA(random_pairs(model), target_prompt=host.pack_conditioning(target), calibration=calibration)
    prompts = {ERASED: target, UNRELATED: negated(target), "": random_model.prompt("")}
    latent = host.empty_latent(model, size, size)
    return SamplingSetup(model, lora, prompts, latent, load, cfg)


def random_pairs(model) -> dict[str, LowRankPair]:
    """A random pair for each automatic target layer of MODEL, by its name in a file."""
    generator, pairs = torch.Generator().manual_seed(0), {}
    selection = target_layers.select_target_layers(host.diffusion_model(model), target_layers.AUTOMATIC)
    for trained in trained_slices(selection, host.names_in_files(model, selection.naming)).values():
        inputs = selection.linears[trained.layer_slice.path].in_features
        pair = LowRankPair.create(inputs, trained.outputs, RANK, 1.0, generator)
        pair.up = STRENGTH * torch.randn(pair.up.shape, generator=generator)
        pairs[trained.name] = pair
    return pairs


def negated(conditioning: list) -> list:
    """CONDITIONING with the sign of each of its numbers changed."""
    return [
        [-text, {key: -value if isinstance(value, torch.Tensor) else value for key, value in extras.items()}]
        for text, extras in conditioning
    ]
