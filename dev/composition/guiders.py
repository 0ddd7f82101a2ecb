"""Small imitations of guiders, and of functions that replace how the model is asked."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import torch

from dev.composition.parts import Expected, Part
from dev.composition.stage import CFG, DOG, HOUSE, Scene, Stage

GROUP = "guiders and ways to ask, as packs write them"


class NamedGuider(comfy.samplers.CFGGuider):
    """Blends the predictions of prompts under names of its own, in its own order."""

    weights: dict[str, float]

    def set_prompts(self, weights: dict[str, float], **prompts) -> None:
        """A weight for each prompt."""
        self.weights = weights
        self.inner_set_conds(prompts)

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        """The weighted sum."""
        conds = [self.conds[name] for name in self.weights]
        found = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        return sum(weight * it for weight, it in zip(self.weights.values(), found, strict=True))


def named(**weights: float):
    """A scene whose guider has prompts by these names; the first one is the picture's own, the others a house."""

    def change(scene: Scene) -> None:
        own, *others = [name for name in weights if "neg" not in name and "uncond" not in name]
        house = scene.stage.encode(*[HOUSE] * len(scene.prompts))

        def guider(model):
            made = NamedGuider(model)
            prompts = {name: scene.negative for name in weights} | {own: scene.positive} | dict.fromkeys(others, house)
            made.set_prompts(weights, **prompts)
            return made

        scene.guider = guider

    return change


class TwoModels(comfy.samplers.CFGGuider):
    """The negative prompt is a second MODEL's (as autoguidance packs do)."""

    def __init__(self, model, second):
        super().__init__(model)
        self.second = second

    def outer_sample(self, *args, **kwargs):
        """Loads the second as well."""
        self.second_model, _, self.second_loaded = comfy.sampler_helpers.prepare_sampling(
            self.second, args[0].shape, self.conds, self.second.model_options
        )
        self.second_model.current_patcher = self.second
        return super().outer_sample(*args, **kwargs)

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        """Guidance away from the second."""
        rest = (x, timestep, model_options)
        (good,) = comfy.samplers.calc_cond_batch(self.inner_model, [self.conds["positive"]], *rest)
        (bad,) = comfy.samplers.calc_cond_batch(self.second_model, [self.conds["positive"]], *rest)
        return bad + 2.0 * (good - bad)


def two_models(scene: Scene) -> None:
    """A second model, on which nothing hangs."""

    def guider(model):
        made = TwoModels(model, scene.stage.other)
        made.set_conds(scene.positive, scene.negative)
        return made

    scene.guider = guider


def tiled(stage: Stage, model):
    """Asks for the left and the right half, with an overlap, by the host's function (regional, tiled packs)."""

    def ask(args):
        x, side = args["input"], args["input"].shape[-1]
        parts = [(0, side * 3 // 4), (side // 4, side)]
        total, weight = [torch.zeros_like(x) for _ in args["conds"]], torch.zeros_like(x)
        for begin, end in parts:
            found = comfy.samplers.calc_cond_batch(
                args["model"], args["conds"], x[..., begin:end], args["sigma"], args["model_options"]
            )
            weight[..., begin:end] += 1
            for whole, it in zip(total, found, strict=True):
                whole[..., begin:end] += it
        return [it / weight for it in total]

    return with_own_function(model, ask)


def one_by_one(stage: Stage, model):
    """Asks for each cond by itself, the uncond first."""

    def ask(args):
        rest = (args["input"], args["sigma"], args["model_options"])
        found = [comfy.samplers.calc_cond_batch(args["model"], [it], *rest)[0] for it in reversed(args["conds"])]
        return found[::-1]

    return with_own_function(model, ask)


def itself(stage: Stage, model):
    """Asks the model itself, not the host's function."""

    def ask(args):
        options = args["model_options"]["transformer_options"]

        def predicted(number, entry):
            text = entry["model_conds"]["c_crossattn"].cond.expand(len(args["input"]), -1, -1)
            more = {**options, "cond_or_uncond": [number], "sigmas": args["sigma"]}
            return args["model"].apply_model(args["input"], args["sigma"], c_crossattn=text, transformer_options=more)

        return [predicted(number, its[0]) for number, its in enumerate(args["conds"])]

    return with_own_function(model, ask)


def only_uncond(stage: Stage, model):
    """Never asks for the picture's own prompt."""

    def ask(args):
        rest = (args["input"], args["sigma"], args["model_options"])
        (found,) = comfy.samplers.calc_cond_batch(args["model"], [args["conds"][1]], *rest)
        return [found] * len(args["conds"])

    return with_own_function(model, ask)


def with_own_function(model, ask):
    """A clone of MODEL whose predictions are asked for by this function."""
    model = model.clone()
    model.set_model_sampler_calc_cond_batch_function(ask)
    return model


def without_a_guider(scene: Scene) -> None:
    """A sampler of the older kind, which asks for guidance with the MODEL's options and no guider."""

    def run(model):
        comfy.model_management.load_model_gpu(model)
        network = model.model
        network.current_patcher = model
        sigmas, latent = scene.sigmas_of(model), scene.latent
        prompts = (("positive", scene.positive), ("negative", scene.negative))
        made: dict[str, Any] = {name: comfy.sampler_helpers.convert_cond(it) for name, it in prompts}
        made = comfy.samplers.process_conds(network, latent, made, model.load_device)
        x = comfy.sample.prepare_noise(latent, 3) * sigmas[0]
        for now, then in zip(sigmas, sigmas[1:], strict=False):
            x0 = comfy.samplers.sampling_function(
                network,
                x,
                now.expand(len(x)),
                made["negative"],
                made["positive"],
                CFG,
                model_options=model.model_options,
            )
            x = x0 + (x - x0) * then / now
        return x

    scene.run = run


def straight_to_the_network(scene: Scene) -> None:
    """A sampler that asks `apply_model` itself, with the MODEL's options."""

    def run(model):
        comfy.model_management.load_model_gpu(model)
        sigmas = scene.sigmas_of(model)
        x = comfy.sample.prepare_noise(scene.latent, 3) * sigmas[0]
        options = model.model_options.get("transformer_options", {})
        for now, then in zip(sigmas, sigmas[1:], strict=False):
            x0 = model.model.apply_model(
                x, now.expand(len(x)), c_crossattn=scene.positive[0][0], transformer_options=options
            )
            x = x0 + (x - x0) * then / now
        return x

    scene.run = run


ROUND = Expected(refusal="goes round ComfyUI's guiders")
PARTS = [
    Part("prompts named nag_negative", GROUP, scene=named(positive=4.0, negative=-2.0, nag_negative=-1.0),
         in_haste=True),
    Part("prompts named cond_2, uncond", GROUP, scene=named(cond_1=2.0, cond_2=1.0, uncond=-2.0), in_haste=True),
    Part("prompts named middle, empty_negative_prompt", GROUP,
         scene=named(empty_negative_prompt=-1.0, positive=3.0, middle=1.0, negative=-2.0)),
    Part("a guider with a second MODEL", GROUP, scene=two_models, expected=Expected(refusal="second MODEL"),
         in_haste=True),
    Part("tiles", GROUP, tiled, in_haste=True),
    Part("each cond asked by itself", GROUP, one_by_one, in_haste=True),
    Part("a function that asks the model itself", GROUP, itself, in_haste=True),
    Part("a function that never asks for the prompt", GROUP, only_uncond, 
         expected=Expected(refusal="puts its own text", refused=("gate",), refused_with=DOG),
         in_haste=True),
    Part("a sampler without a guider", GROUP, scene=without_a_guider, expected=ROUND, in_haste=True),
    Part("a sampler that asks the network itself", GROUP, scene=straight_to_the_network, expected=ROUND, in_haste=True),
]  # fmt: skip
