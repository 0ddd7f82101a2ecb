"""Small imitations of packs that act inside attention: regional prompts, image prompts, guidance, merged tokens."""

from __future__ import annotations

import random
from typing import Any

import comfy.hooks
import comfy.samplers
import torch
from comfy.ldm.modules.attention import optimized_attention

from dev.composition.parts import Expected, Part
from dev.composition.stage import CAT, DOG, HOUSE, Scene, Stage

GROUP = "attention, as packs change it"
BATCH = "the pictures of a batch look at each other"
TEXT = "puts its own text in place of every prompt's"


class MovedAlong:
    """A patch that the host calls `to` on."""

    def __init__(self, patch):
        self._patch = patch

    def __call__(self, *args):
        """The patch."""
        return self._patch(*args)

    def to(self, *args, **kwargs):
        """It has nothing to move."""
        return self


def of_conds(change, numbers, it: torch.Tensor) -> torch.Tensor:
    """`change(chunk)` where a chunk of the batch is a cond, by its number 0."""
    return torch.cat([change(c) if n == 0 else c for n, c in zip(numbers, it.chunk(len(numbers)), strict=True)])


def regions_in_a_hook(scene: Scene) -> None:
    """The picture's own prompt is a region's, in a hook of a base prompt (as prompt-control's COUPLE)."""
    there = scene.positive[0][0]

    def patch(q, k, v, extra):
        text = of_conds(lambda chunk: there.to(chunk), extra["cond_or_uncond"], k)
        return q, text, text

    patches = {"patches": {"attn2_patch": [MovedAlong(patch)]}}
    group = comfy.hooks.HookGroup()
    group.add(comfy.hooks.TransformerOptionsHook(patches, comfy.hooks.EnumHookScope.HookedOnly))
    base = scene.stage.encode(*[HOUSE] * len(scene.prompts))
    scene.positive = [[text, {**more, "hooks": group}] for text, more in base]


def couple(stage: Stage, model):
    """Regions that hang on the MODEL, with texts of their own (attention couple)."""
    there = (stage.encode(CAT)[0][0] + stage.encode(HOUSE)[0][0]) / 2

    def patch(q, k, v, extra):
        text = of_conds(lambda chunk: there.expand_as(chunk).to(chunk), extra["cond_or_uncond"], k)
        return q, text, text

    model = model.clone()
    model.set_model_attn2_patch(patch)
    return model


def away_from_a_text(stage: Stage, model):
    """Normalised attention guidance on the text: pushed away from another."""
    away = stage.encode(HOUSE)[0][0]

    def patch(q, k, v, extra):
        text = of_conds(lambda chunk: chunk + 0.5 * (chunk - away.to(chunk)), extra["cond_or_uncond"], k)
        return q, text, text

    model = model.clone()
    model.set_model_attn2_patch(patch)
    return model


def away_from_uncond(stage: Stage, model):
    """Normalised attention guidance on what attention gives; nothing where cond and uncond are not in one batch."""

    def patch(n, extra):
        numbers = extra["cond_or_uncond"]
        if 0 not in numbers or 1 not in numbers:
            return n
        negative = n.chunk(len(numbers))[numbers.index(1)]

        def guided(positive):
            pushed = positive + 1.5 * (positive - negative)
            length = positive.norm(p=1, dim=-1, keepdim=True) / pushed.norm(p=1, dim=-1, keepdim=True).clamp(min=1e-6)
            return 0.5 * pushed * length.clamp(max=1.0) + 0.5 * positive

        return of_conds(guided, numbers, n)

    model = model.clone()
    model.set_model_attn2_output_patch(patch)
    return model


def image_prompt(stage: Stage, model):
    """More tokens for the cond alone, at high noise alone (IPAdapter)."""
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randn(1, 4, 1024, generator=generator)

    def patch(q, k, v, extra):
        out = optimized_attention(q, k, v, extra["n_heads"])
        if extra["sigmas"][0] < 1.0:
            return out
        image = tokens[..., : k.shape[-1]].expand(len(q), -1, -1).to(k)
        seen = optimized_attention(q, image, image, extra["n_heads"])
        kept = of_conds(torch.ones_like, extra["cond_or_uncond"], torch.zeros_like(out))
        return out + 0.2 * seen * kept

    model = model.clone()
    for block, number in (("input", 1), ("input", 3), ("middle", 0), ("output", 0), ("output", 2)):
        model.set_model_attn2_replace(patch, block, number)
    return model


def perturbed(stage: Stage, model):
    """Asks once more without self-attention (PAG), or without a layer (skip-layer guidance), after guidance."""
    model = model.clone()

    def after(args):
        options = args["model_options"].copy()
        asked = comfy.model_patcher.set_model_options_patch_replace(
            options, lambda q, k, v, extra: v, "attn1", "middle", 0
        )
        (worse,) = comfy.samplers.calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], asked)
        return args["denoised"] + 2.0 * (args["cond_denoised"] - worse)

    model.set_model_sampler_post_cfg_function(after)
    return model


def self_attention(stage: Stage, model):
    """Keeps what attention sees of the uncond, and asks once more for the picture blurred there (SAG)."""
    kept: dict[str, Any] = {}

    def seen(q, k, v, extra):
        numbers = extra["cond_or_uncond"]
        if 1 in numbers:
            one = q.chunk(len(numbers))[numbers.index(1)]
            kept["map"] = one.float().norm(dim=-1)
        return optimized_attention(q, k, v, extra["n_heads"])

    def after(args):
        x, seen = args["uncond_denoised"], kept["map"]
        side = int(seen.shape[-1] ** 0.5)
        seen = torch.nn.functional.interpolate(seen.view(len(x), 1, side, side), x.shape[-2:])
        mask = (seen > seen.mean((2, 3), keepdim=True)).to(x)
        blurred = x + mask * (torch.nn.functional.avg_pool2d(x, 3, 1, 1) - x)
        noised = blurred + args["input"] - x
        (worse,) = comfy.samplers.calc_cond_batch(
            args["model"], [args["uncond"]], noised, args["sigma"], args["model_options"]
        )
        return args["denoised"] + 0.5 * (blurred - worse)

    model = model.clone()
    model.set_model_attn1_replace(seen, "middle", 0)
    model.set_model_sampler_post_cfg_function(after)
    return model


def shared_in_a_batch(stage: Stage, model):
    """Every picture looks at the first one as well (style-aligned)."""

    def patch(q, k, v, extra):
        numbers = extra["cond_or_uncond"]

        def both(it):
            return torch.cat([torch.cat([c, c[:1].expand_as(c)], 1) for c in it.chunk(len(numbers))])

        return q, both(k), both(v)

    model = model.clone()
    model.set_model_attn1_patch(patch)
    return model


def random_of_its_own(stage: Stage, model):
    """Chance from a generator of its own (token merging packs)."""
    generator = torch.Generator().manual_seed(11)

    def patch(q, k, v, extra):
        return q + 0.3 * torch.randn(q.shape, generator=generator), k, v

    model = model.clone()
    model.set_model_attn1_patch(patch)
    return model


def random_of_python(stage: Stage, model):
    """Chance from Python's."""
    random.seed(12)

    def patch(q, k, v, extra):
        return q * random.uniform(0.8, 1.2), k, v

    model = model.clone()
    model.set_model_attn1_patch(patch)
    return model


REGIONS = Expected(refusal=TEXT, refused=("gate",), refused_with=DOG)  # the target's own prompt may be steered
PARTS = [
    Part("regional prompts in a hook", GROUP, scene=regions_in_a_hook, in_haste=True),
    Part("regional prompts on the MODEL", GROUP, couple, expected=REGIONS,
         in_haste=True),
    Part("NAG on the text", GROUP, away_from_a_text, in_haste=True),
    Part("NAG, cond and uncond in one batch", GROUP, away_from_uncond, in_haste=True),
    Part("image prompts for the cond alone", GROUP, image_prompt, in_haste=True),
    Part("perturbed or skipped layers", GROUP, perturbed),
    Part("SAG", GROUP, self_attention),
    Part("attention shared in a batch", GROUP, shared_in_a_batch, expected=Expected(another_picture=BATCH),
         in_haste=True),
    Part("chance from a generator of its own", GROUP, random_of_its_own, in_haste=True),
    Part("chance from Python's", GROUP, random_of_python),
]  # fmt: skip
