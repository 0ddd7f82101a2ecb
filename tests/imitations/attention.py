"""Packs that act inside attention: regional prompts (prompt-control, attention couple), NAG, IPAdapter, PAG, SAG,
style-aligned, token merging.
"""

from __future__ import annotations

import random
from typing import Any

import comfy.hooks
import comfy.model_patcher
import comfy.samplers
import torch
from comfy.ldm.modules.attention import optimized_attention
from imitations.parts import GATE, Expected, Part
from imitations.sampling import CAT, DOG, HOUSE, Assets, Sampling

GROUP = "attention, as packs change it"
BATCH = "the pictures of a batch look at each other"
TEXT = "puts its own text in place of every prompt's"


def with_text_patch(model, change):
    """A clone of MODEL; `change(text)` replaces the text that cross-attention sees of the positive prompts."""

    def patch(q, k, v, extra):
        text = map_conds(change, extra["cond_or_uncond"], k)
        return q, text, text

    model = model.clone()
    model.set_model_attn2_patch(patch)
    return model


def map_conds(change, numbers, tensor: torch.Tensor) -> torch.Tensor:
    """`change(chunk)` for the chunks of a batch that are conds (number 0), and the other chunks as they are."""
    chunks = zip(numbers, tensor.chunk(len(numbers)), strict=True)
    return torch.cat([change(chunk) if number == 0 else chunk for number, chunk in chunks])


class MovablePatch:
    """A patch with the method `to` that ComfyUI calls on patches in hooks."""

    def __init__(self, patch):
        self._patch = patch

    def __call__(self, *args):
        return self._patch(*args)

    def to(self, *args, **kwargs):
        """The patch itself: it has nothing to move."""
        return self


def regions_in_a_hook(sampling: Sampling) -> None:
    """The picture's own prompt as a region's text, in a hook of a base prompt (COUPLE of prompt-control)."""
    region = sampling.positive[0][0]

    def patch(q, k, v, extra):
        text = map_conds(region.to, extra["cond_or_uncond"], k)
        return q, text, text

    patches = {"patches": {"attn2_patch": [MovablePatch(patch)]}}
    group = comfy.hooks.HookGroup()
    group.add(comfy.hooks.TransformerOptionsHook(patches, comfy.hooks.EnumHookScope.HookedOnly))
    base = sampling.assets.encode(*[HOUSE] * len(sampling.prompts))
    sampling.positive = [[text, {**more, "hooks": group}] for text, more in base]


def regions_on_the_model(assets: Assets, model):
    """Regions with texts of their own, attached to the MODEL (attention couple)."""
    regions = (assets.encode(CAT)[0][0] + assets.encode(HOUSE)[0][0]) / 2
    return with_text_patch(model, lambda text: regions.expand_as(text).to(text))


def nag_on_text(assets: Assets, model):
    """Normalised attention guidance on the text, which is pushed away from another text."""
    negative = assets.encode(HOUSE)[0][0]
    return with_text_patch(model, lambda text: text + 0.5 * (text - negative.to(text)))


def nag_on_output(assets: Assets, model):
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

        return map_conds(guided, numbers, n)

    model = model.clone()
    model.set_model_attn2_output_patch(patch)
    return model


def image_prompt(assets: Assets, model):
    """More tokens for the cond alone, at high noise alone (IPAdapter)."""
    tokens = torch.randn(1, 4, 1024, generator=torch.Generator().manual_seed(7))

    def patch(q, k, v, extra):
        out = optimized_attention(q, k, v, extra["n_heads"])
        if extra["sigmas"][0] < 1.0:
            return out
        image = tokens[..., : k.shape[-1]].expand(len(q), -1, -1).to(k)
        of_image = optimized_attention(q, image, image, extra["n_heads"])
        is_cond = map_conds(torch.ones_like, extra["cond_or_uncond"], torch.zeros_like(out))
        return out + 0.2 * of_image * is_cond

    model = model.clone()
    for block, number in (("input", 1), ("input", 3), ("middle", 0), ("output", 0), ("output", 2)):
        model.set_model_attn2_replace(patch, block, number)
    return model


def perturbed(assets: Assets, model):
    """After guidance, one more prediction without self-attention (PAG), or without a layer (skip-layer guidance)."""

    def after(args):
        options = comfy.model_patcher.set_model_options_patch_replace(
            args["model_options"].copy(), lambda q, k, v, extra: v, "attn1", "middle", 0
        )
        (worse,) = comfy.samplers.calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
        return args["denoised"] + 2.0 * (args["cond_denoised"] - worse)

    model = model.clone()
    model.set_model_sampler_post_cfg_function(after)
    return model


def self_attention_guidance(assets: Assets, model):
    """One more prediction for the picture blurred where the uncond's self-attention is strong (SAG)."""
    kept: dict[str, Any] = {}

    def attention(q, k, v, extra):
        numbers = extra["cond_or_uncond"]
        if 1 in numbers:
            kept["map"] = q.chunk(len(numbers))[numbers.index(1)].float().norm(dim=-1)
        return optimized_attention(q, k, v, extra["n_heads"])

    def after(args):
        x, strength = args["uncond_denoised"], kept["map"]
        side = int(strength.shape[-1] ** 0.5)
        strength = torch.nn.functional.interpolate(strength.view(len(x), 1, side, side), x.shape[-2:])
        mask = (strength > strength.mean((2, 3), keepdim=True)).to(x)
        blurred = x + mask * (torch.nn.functional.avg_pool2d(x, 3, 1, 1) - x)
        noised = blurred + args["input"] - x
        (worse,) = comfy.samplers.calc_cond_batch(
            args["model"], [args["uncond"]], noised, args["sigma"], args["model_options"]
        )
        return args["denoised"] + 0.5 * (blurred - worse)

    model = model.clone()
    model.set_model_attn1_replace(attention, "middle", 0)
    model.set_model_sampler_post_cfg_function(after)
    return model


def shared_in_batch(assets: Assets, model):
    """Every picture attends to the first one of the batch as well (style-aligned)."""

    def patch(q, k, v, extra):
        def with_first(tensor):
            chunks = tensor.chunk(len(extra["cond_or_uncond"]))
            return torch.cat([torch.cat([chunk, chunk[:1].expand_as(chunk)], 1) for chunk in chunks])

        return q, with_first(k), with_first(v)

    return with_self_attention_patch(model, patch)


def random_by_generator(assets: Assets, model):
    """Random numbers from a generator of the pack's own (token merging)."""
    generator = torch.Generator().manual_seed(11)
    return with_self_attention_patch(
        model, lambda q, k, v, extra: (q + 0.3 * torch.randn(q.shape, generator=generator), k, v)
    )


def random_by_python(assets: Assets, model):
    """Random numbers from Python's own generator."""
    random.seed(12)
    return with_self_attention_patch(
        model,
        lambda q, k, v, extra: (q * random.uniform(0.8, 1.2), k, v),  # noqa: S311
    )


def with_self_attention_patch(model, patch):
    """A clone of MODEL with a patch on what self-attention is given."""
    model = model.clone()
    model.set_model_attn1_patch(patch)
    return model


REGIONS = Expected(refusal=TEXT, refused_modes=(GATE,), refused_prompt=DOG)  # the target's own prompt may be steered
PARTS = [
    Part("regional prompts in a hook", GROUP, change=regions_in_a_hook, fast=True),
    Part("regional prompts on the MODEL", GROUP, regions_on_the_model, expected=REGIONS, fast=True),
    Part("NAG on the text", GROUP, nag_on_text, fast=True),
    Part("NAG, cond and uncond in one batch", GROUP, nag_on_output, fast=True),
    Part("image prompts for the cond alone", GROUP, image_prompt, fast=True),
    Part("perturbed or skipped layers", GROUP, perturbed),
    Part("SAG", GROUP, self_attention_guidance),
    Part("attention shared in a batch", GROUP, shared_in_batch, expected=Expected(another_picture=BATCH), fast=True),
    Part("chance from a generator of its own", GROUP, random_by_generator, fast=True),
    Part("chance from Python's", GROUP, random_by_python),
]  # fmt: skip
