"""Packs that make predictions in their own way: guiders (NAG, autoguidance), tiled diffusion, older samplers."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.samplers import calc_cond_batch
from imitations.parts import GATE, Expected, Part
from imitations.sampling import CFG, DOG, HOUSE, SEED, Assets, Sampling

GROUP = "guiders and ways to ask, as packs write them"


class NamedGuider(comfy.samplers.CFGGuider):
    """Blends the predictions for prompts with names and an order of its own."""

    weights: dict[str, float]

    def set_prompts(self, weights: dict[str, float], **prompts) -> None:
        """A weight and a CONDITIONING for each name."""
        self.weights = weights
        self.inner_set_conds(prompts)

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        """The weighted sum."""
        conds = [self.conds[name] for name in self.weights]
        predictions = calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        return sum(weight * pred for weight, pred in zip(self.weights.values(), predictions, strict=True))


def named(**weights: float):
    """A change to a guider with prompts of these names; the first positive one is the picture's, the others a house."""

    def change(sampling: Sampling) -> None:
        first, *further = [name for name in weights if "neg" not in name and "uncond" not in name]
        prompts = dict.fromkeys(weights, sampling.negative)
        prompts |= dict.fromkeys(further, sampling.assets.encode(*[HOUSE] * len(sampling.prompts)))
        prompts[first] = sampling.positive

        def guider(model):
            named_guider = NamedGuider(model)
            named_guider.set_prompts(weights, **prompts)
            return named_guider

        sampling.guider = guider

    return change


class TwoModels(comfy.samplers.CFGGuider):
    """Guides away from the prediction of a second MODEL, as autoguidance does."""

    def __init__(self, model, second):
        super().__init__(model)
        self.second = second

    def outer_sample(self, *args, **kwargs):
        """Loads the second model as well."""
        self.second_model, _, self.second_loaded = comfy.sampler_helpers.prepare_sampling(
            self.second, args[0].shape, self.conds, self.second.model_options
        )
        self.second_model.current_patcher = self.second
        return super().outer_sample(*args, **kwargs)

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        """Guidance of scale 2 on the positive prompt alone."""
        conds = [self.conds["positive"]]
        (good,) = calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        (bad,) = calc_cond_batch(self.second_model, conds, x, timestep, model_options)
        return bad + 2.0 * (good - bad)


def two_models(sampling: Sampling) -> None:
    """A second MODEL, without UnGuidance."""

    def guider(model):
        two = TwoModels(model, sampling.assets.second_model)
        two.set_conds(sampling.positive, sampling.negative)
        return two

    sampling.guider = guider


def with_predict_function(model, function):
    """A clone of MODEL whose predictions for a list of conds are made by this function."""
    model = model.clone()
    model.set_model_sampler_calc_cond_batch_function(function)
    return model


def tiled(assets: Assets, model):
    """Predicts the left and the right part, with an overlap, by ComfyUI's function."""

    def predict(args):
        x, side = args["input"], args["input"].shape[-1]
        tiles = [(0, side * 3 // 4), (side // 4, side)]
        sums, weight = [torch.zeros_like(x) for _ in args["conds"]], torch.zeros_like(x)
        for begin, end in tiles:
            tile = x[..., begin:end]
            predictions = calc_cond_batch(args["model"], args["conds"], tile, args["sigma"], args["model_options"])
            weight[..., begin:end] += 1
            for total, pred in zip(sums, predictions, strict=True):
                total[..., begin:end] += pred
        return [total / weight for total in sums]

    return with_predict_function(model, predict)


def one_by_one(assets: Assets, model):
    """Predicts each cond by itself, the uncond first."""

    def predict(args):
        common = (args["input"], args["sigma"], args["model_options"])
        predictions = [calc_cond_batch(args["model"], [cond], *common)[0] for cond in reversed(args["conds"])]
        return predictions[::-1]

    return with_predict_function(model, predict)


def by_apply_model(assets: Assets, model):
    """Calls the model itself, not ComfyUI's function."""

    def predict(args):
        options, x, sigma = args["model_options"]["transformer_options"], args["input"], args["sigma"]

        def of_cond(number, entry):
            text = entry["model_conds"]["c_crossattn"].cond.expand(len(x), -1, -1)
            more = {**options, "cond_or_uncond": [number], "sigmas": sigma}
            return args["model"].apply_model(x, sigma, c_crossattn=text, transformer_options=more)

        return [of_cond(number, cond[0]) for number, cond in enumerate(args["conds"])]

    return with_predict_function(model, predict)


def only_uncond(assets: Assets, model):
    """Predicts the negative prompt alone, and returns that for every prompt."""

    def predict(args):
        (uncond,) = calc_cond_batch(
            args["model"], [args["conds"][1]], args["input"], args["sigma"], args["model_options"]
        )
        return [uncond] * len(args["conds"])

    return with_predict_function(model, predict)


def euler(x, sigmas, denoise):
    """Euler's method; `denoise(x, sigma)` predicts the clean latents, sigma one value a picture."""
    for sigma, next_sigma in zip(sigmas, sigmas[1:], strict=False):
        x0 = denoise(x, sigma.expand(len(x)))
        x = x0 + (x - x0) * next_sigma / sigma
    return x


def without_a_guider(sampling: Sampling) -> None:
    """A sampler of the older kind, which calls ComfyUI's guidance with the MODEL's options and no guider."""

    def run(model):
        comfy.model_management.load_model_gpu(model)
        network, sigmas = model.model, sampling.sigmas_of(model)
        network.current_patcher = model
        prompts = (("positive", sampling.positive), ("negative", sampling.negative))
        conds: dict[str, Any] = {name: comfy.sampler_helpers.convert_cond(prompt) for name, prompt in prompts}
        conds = comfy.samplers.process_conds(network, sampling.latent, conds, model.load_device)

        def denoise(x, sigma):
            return comfy.samplers.sampling_function(
                network, x, sigma, conds["negative"], conds["positive"], CFG, model_options=model.model_options
            )

        return euler(comfy.sample.prepare_noise(sampling.latent, SEED) * sigmas[0], sigmas, denoise)

    sampling.run = run


def without_guidance(sampling: Sampling) -> None:
    """A sampler that calls `apply_model` itself, with the MODEL's options."""

    def run(model):
        comfy.model_management.load_model_gpu(model)
        text, sigmas = sampling.positive[0][0], sampling.sigmas_of(model)
        options = model.model_options.get("transformer_options", {})

        def denoise(x, sigma):
            return model.model.apply_model(x, sigma, c_crossattn=text, transformer_options=options)

        return euler(comfy.sample.prepare_noise(sampling.latent, SEED) * sigmas[0], sigmas, denoise)

    sampling.run = run


BYPASS = Expected(refusal="bypasses ComfyUI's guiders")
PARTS = [
    Part("prompts named nag_negative", GROUP, change=named(positive=4.0, negative=-2.0, nag_negative=-1.0), fast=True),
    Part("prompts named cond_2, uncond", GROUP, change=named(cond_1=2.0, cond_2=1.0, uncond=-2.0), fast=True),
    Part("prompts named middle, empty_negative_prompt", GROUP,
         change=named(empty_negative_prompt=-1.0, positive=3.0, middle=1.0, negative=-2.0)),
    Part("a guider with a second MODEL", GROUP, change=two_models, expected=Expected(refusal="second MODEL"),
         fast=True),
    Part("tiles", GROUP, tiled, fast=True),
    Part("each cond asked by itself", GROUP, one_by_one, fast=True),
    Part("a function that asks the model itself", GROUP, by_apply_model, fast=True),
    Part("a function that never asks for the prompt", GROUP, only_uncond, fast=True,
         expected=Expected(refusal="puts its own text", refused_modes=(GATE,), refused_prompt=DOG)),
    Part("a sampler without a guider", GROUP, change=without_a_guider, expected=BYPASS, fast=True),
    Part("a sampler that asks the network itself", GROUP, change=without_guidance, expected=BYPASS, fast=True),
]  # fmt: skip
