"""Every method to sample with a model and its LoRA side by side: plain, UnGuidance, and what other programs do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

import comfy.hooks
import comfy.sample
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from unguide.unguide_ops import host
from unguide.unguide_ops.concept_lora import ConceptLoRA
from unguide.unguide_ops.gate import decision
from unguide.unguide_ops.gate.probe import ProbeConfig, probe
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide
from unguide.unguide_ops.host.types import Model

from dev.bench.reference import blend, merge

ERASED, UNRELATED = "erased", "unrelated"
CFG, W = 7.5, -1.0
AS_PUBLISHED = {"w_erased": W, "lora_branch": "cond and uncond", "eta": 1.0}
PAPER_W = {True: -1.0, False: 2.0}  # erased or not


def paper_weights(model, lora, encode: Callable, prompts: Iterable[str], **config) -> tuple[dict[str, float], int]:
    """Prompt -> w by the paper's rule (section 3.2), and the model calls of its probe; `config`: see ProbeConfig."""
    with torch.inference_mode():
        result = probe(model, lora, encode, prompts, ProbeConfig(mode=decision.PAPER, **config))
    return {it.prompt: PAPER_W[it.decision.erased] for it in result.prompt_scores}, result.evaluations


@dataclass
class SamplingSetup:
    """A MODEL with its LoRA and encoded prompts, whose model calls are counted."""

    model: Model
    lora: ConceptLoRA
    prompts: dict[str, list]  # ERASED, UNRELATED, and "" -> CONDITIONING
    latent: torch.Tensor  # of one picture
    copy: Callable  # makes the same MODEL again, for methods that need two
    cfg: float = CFG
    evaluations: int = 0

    def __post_init__(self) -> None:
        self.model.model.diffusion_model.register_forward_pre_hook(self._count)

    def _count(self, module, args) -> None:
        self.evaluations += len(args[0])

    @cached_property
    def merged(self):
        """A copy of the MODEL with the LoRA merged in, its model calls counted as well."""
        merged = merge(self.copy(), self.lora)
        merged.model.diffusion_model.register_forward_pre_hook(self._count)
        return merged

    def latents(self, batch: int) -> torch.Tensor:
        """Empty latents of so many pictures."""
        return self.latent.expand(batch, *self.latent.shape[1:]).clone()

    def draw(self, model, prompt: str, steps: int, batch: int) -> torch.Tensor:
        """The latents that the host's KSampler gives."""
        latent = {"samples": self.latents(batch)}
        positive, negative = self.prompts[prompt], self.prompts[""]
        return host.ksample(model, 0, steps, self.cfg, "euler", "normal", positive, negative, latent, 1.0)["samples"]


def plain(setup: SamplingSetup, prompt: str, steps: int, batch: int) -> torch.Tensor:
    """The base model alone."""
    return setup.draw(setup.model, prompt, steps, batch)


def unguidance(setup: SamplingSetup, prompt: str, steps: int, batch: int, **config) -> torch.Tensor:
    """UnGuidance, by default with the gate inside sampling; `config`: see SteeringConfig."""
    return setup.draw(unguide(setup.model, setup.lora, SteeringConfig(**config)), prompt, steps, batch)


def published_formula(setup: SamplingSetup, prompt: str, steps: int, batch: int) -> torch.Tensor:
    """UnGuidance by the published formula: the negative prompt is steered as well, and contrast is not reduced."""
    return unguidance(setup, prompt, steps, batch, **AS_PUBLISHED)


def swapped(setup: SamplingSetup, prompt: str, steps: int, batch: int) -> torch.Tensor:
    """UnGuidance whose erased pictures are the base model's, with the concept in the prompt swapped."""
    return unguidance(setup, prompt, steps, batch, instead="swap")


def both_predictions(setup: SamplingSetup, prompt: str, steps: int, batch: int) -> torch.Tensor:
    """The paper's sampling, without its probe: both predictions at every step, blended with w = -1 or 2."""
    return unguidance(setup, prompt, steps, batch, w=PAPER_W[prompt == ERASED], **AS_PUBLISHED)


def weight_swap(setup: SamplingSetup, prompt: str, steps: int, batch: int) -> torch.Tensor:
    """One model, the LoRA written into its weights and taken out again at every step, as scripts like LECO's do."""
    places, network = host.layer_slices(setup.model), host.diffusion_model(setup.model)
    linears = [(network.get_submodule(places[name].path), pair) for name, pair in setup.lora.pairs.items()]

    def around_prediction(executor, *args):
        base = executor(*args)
        weights = [linear.weight.data for linear, _ in linears]
        for linear, pair in linears:
            up, down = pair.up.to(linear.weight), pair.down.to(linear.weight)
            linear.weight.data = linear.weight.data + pair.scale * up @ down
        try:
            changed = executor(*args)
        finally:
            for (linear, _), weight in zip(linears, weights, strict=True):
                linear.weight.data = weight
        return [W * b + (1 - W) * e for b, e in zip(base, changed, strict=True)]

    clone = setup.model.clone()
    clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "swap", around_prediction)
    return setup.draw(clone, prompt, steps, batch)


class FourPromptGuider(comfy.samplers.CFGGuider):
    """A CFGGuider of positive and negative prompt, without the LoRA and with it."""

    NAMES = ("positive", "negative", "positive with LoRA", "negative with LoRA")

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 # the host's signature
        """The guided prediction of both versions' blends."""
        conds = [self.conds[name] for name in self.NAMES]
        e = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        cond, uncond = W * e[0] + (1 - W) * e[2], W * e[1] + (1 - W) * e[3]
        return comfy.samplers.cfg_function(self.inner_model, cond, uncond, self.cfg, x, timestep, model_options)


def host_hooks(setup: SamplingSetup, prompt: str, steps: int, batch: int) -> torch.Tensor:
    """One model, the LoRA as a weight hook of the host on copies of both prompts."""
    weights = {}
    for name, pair in setup.lora.pairs.items():
        weights[f"{name}.lora_up.weight"], weights[f"{name}.lora_down.weight"] = pair.up, pair.down
        weights[f"{name}.alpha"] = torch.tensor(pair.scale * pair.rank)
    hooks = comfy.hooks.create_hook_lora(weights, 1.0, 0.0)
    conds = [setup.prompts[prompt], setup.prompts[""]]
    conds += [comfy.hooks.set_hooks_for_conditioning(cond, hooks) for cond in conds]
    guider = FourPromptGuider(setup.model.clone())
    guider.inner_set_conds(dict(zip(guider.NAMES, conds, strict=True)))
    guider.set_cfg(CFG)
    latent = setup.latents(batch)
    return guider.sample(
        comfy.sample.prepare_noise(latent, 0), latent, comfy.samplers.sampler_object("euler"),
        comfy.samplers.calculate_sigmas(setup.model.get_model_object("model_sampling"), "normal", steps),
    )  # fmt: skip


def two_copies(setup: SamplingSetup, prompt: str, steps: int, batch: int) -> torch.Tensor:
    """Two whole models in memory, as the authors' scripts have them."""
    return setup.draw(blend(setup.model, (setup.merged, W)), prompt, steps, batch)


METHODS: dict[str, tuple[Callable, str]] = {
    "plain": (plain, UNRELATED),
    "ours, unrelated": (unguidance, UNRELATED),
    "ours, erased": (unguidance, ERASED),
    "ours, erased, swapped": (swapped, ERASED),
    "ours, erased, cond and uncond": (published_formula, ERASED),
    "both predictions, unrelated (paper)": (both_predictions, UNRELATED),
    "both predictions, erased (paper)": (both_predictions, ERASED),
    "weight swap": (weight_swap, ERASED),
    "host weight hooks": (host_hooks, ERASED),
    "two copies": (two_copies, ERASED),
}
"""Its name in the report -> the method, and the prompt that it draws."""


def costs(
    setup: SamplingSetup, steps: int, batch: int, rounds: int, names: Collection[str] = tuple(METHODS)
) -> dict[str, dict[str, float]]:
    """Method -> model calls and wall time as ratios to plain sampling, and seconds.

    The methods, plain sampling among `names`, take turns for so many rounds; the median counts.
    """
    methods = {name: METHODS[name] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    evaluations: dict[str, int] = {}
    for draw, prompt in methods.values():  # warms up
        draw(setup, prompt, 1, batch)
    synchronise(setup.model.load_device)
    for _ in range(rounds):
        for name, (draw, prompt) in methods.items():
            setup.evaluations, began = 0, time.perf_counter()
            draw(setup, prompt, steps, batch)
            synchronise(setup.model.load_device)
            seconds[name].append(time.perf_counter() - began)
            evaluations[name] = setup.evaluations
    return {
        name: {
            "evaluations": evaluations[name] / evaluations["plain"],
            "wall": statistics.median(a / b for a, b in zip(seconds[name], seconds["plain"], strict=True)),
            "seconds": statistics.median(seconds[name]),
        }
        for name in methods
    }


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
