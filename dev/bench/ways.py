"""Every way to sample with two versions of one model: plain, ours, and what others do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch

ERASED, UNRELATED = "erased", "unrelated"
CFG, W = 7.5, -1.0
AS_PUBLISHED = {"sides": "cond and uncond", "eta": 1.0}


@dataclass
class Stage:
    """A MODEL with its LoRA, and encoded prompts; `copy` makes the same model again for those who need two."""

    model: object
    lora: object
    prompts: dict[str, list]  # ERASED, UNRELATED, and "" -> the host's CONDITIONING
    latent: torch.Tensor  # of one picture
    copy: Callable
    cfg: float = CFG
    evaluations: int = 0
    _copies: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model.model.diffusion_model.register_forward_pre_hook(self._count)

    def _count(self, module, args) -> None:
        self.evaluations += len(args[0])

    def merged(self):
        """A copy with the LoRA merged in, its evaluations counted as well."""
        from dev.bench.two_copies import merge

        if "merged" not in self._copies:
            self._copies["merged"] = merge(self.copy(), self.lora)
            self._copies["merged"].model.diffusion_model.register_forward_pre_hook(self._count)
        return self._copies["merged"]

    def draw(self, model, prompt: str, steps: int, batch: int) -> torch.Tensor:
        """What the host's KSampler gives."""
        from unguide.unguide_ops import host

        latent = {"samples": self.latent.expand(batch, *self.latent.shape[1:]).clone()}
        positive, negative = self.prompts[prompt], self.prompts[""]
        return host.ksample(model, 0, steps, self.cfg, "euler", "normal", positive, negative, latent, 1.0)["samples"]


def plain(it: Stage, prompt: str, steps: int, batch: int):
    """The base alone."""
    return it.draw(it.model, prompt, steps, batch)


def ours(it: Stage, prompt: str, steps: int, batch: int, **settings):
    """UnGuidance, the gate inside sampling."""
    from unguide.unguide_ops.steering import SteeringSettings
    from unguide.unguide_ops.unguidance import unguide

    return it.draw(unguide(it.model, it.lora, SteeringSettings(**settings)), prompt, steps, batch)


def both_sides(it: Stage, prompt: str, steps: int, batch: int):
    """The same by the published formula: the negative prompt steered as well, contrast and all."""
    return ours(it, prompt, steps, batch, **AS_PUBLISHED)


def both_always(it: Stage, prompt: str, steps: int, batch: int):
    """The paper's sampling: both predictions at every step, w = -1 or 2; its probe comes on top."""
    return ours(it, prompt, steps, batch, w=W if prompt == ERASED else 2.0, **AS_PUBLISHED)


def weight_swap(it: Stage, prompt: str, steps: int, batch: int):
    """One model, the LoRA written into its weights and taken out at every step, as LECO-like scripts do."""
    from comfy.patcher_extension import WrappersMP
    from unguide.unguide_ops import host

    places = host.places(it.model)
    network = host.diffusion_model(it.model)
    linears = [(network.get_submodule(places[n].path), pair) for n, pair in it.lora.pairs.items()]

    def around_prediction(executor, *args):
        base = executor(*args)
        kept = [linear.weight.data for linear, _ in linears]
        for linear, pair in linears:
            up, down = pair.up.to(linear.weight), pair.down.to(linear.weight)
            linear.weight.data = linear.weight.data + pair.alpha * up @ down
        try:
            changed = executor(*args)
        finally:
            for (linear, _), weight in zip(linears, kept, strict=True):
                linear.weight.data = weight
        return [W * b + (1 - W) * e for b, e in zip(base, changed, strict=True)]

    clone = it.model.clone()
    clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "swap", around_prediction)
    return it.draw(clone, prompt, steps, batch)


def host_hooks(it: Stage, prompt: str, steps: int, batch: int):
    """One model, the LoRA as a weight hook of the host on copies of both prompts."""
    import comfy.hooks
    import comfy.sample
    import comfy.samplers

    weights = {}
    for name, pair in it.lora.pairs.items():
        weights[f"{name}.lora_up.weight"], weights[f"{name}.lora_down.weight"] = pair.up, pair.down
        weights[f"{name}.alpha"] = torch.tensor(pair.alpha * pair.rank)
    hooks = comfy.hooks.create_hook_lora(weights, 1.0, 0.0)
    changed = {name: comfy.hooks.set_hooks_for_conditioning(it.prompts[name], hooks) for name in (prompt, "")}

    class Guider(comfy.samplers.CFGGuider):
        """CFGGuider with four prompts."""

        def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 # the host's signature
            conds = [self.conds[name] for name in names]
            e = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
            cond, uncond = W * e[0] + (1 - W) * e[2], W * e[1] + (1 - W) * e[3]
            return comfy.samplers.cfg_function(self.inner_model, cond, uncond, self.cfg, x, timestep, model_options)

    names = ("positive", "negative", "positive with LoRA", "negative with LoRA")
    guider = Guider(it.model.clone())
    prompts = (it.prompts[prompt], it.prompts[""], changed[prompt], changed[""])
    guider.inner_set_conds(dict(zip(names, prompts, strict=True)))
    guider.set_cfg(CFG)
    sampling = it.model.get_model_object("model_sampling")
    latent = it.latent.expand(batch, *it.latent.shape[1:]).clone()
    return guider.sample(
        comfy.sample.prepare_noise(latent, 0), latent, comfy.samplers.sampler_object("euler"),
        comfy.samplers.calculate_sigmas(sampling, "normal", steps),
    )  # fmt: skip


def two_copies(it: Stage, prompt: str, steps: int, batch: int):
    """Two whole models in memory, as the authors' scripts have them."""
    from dev.bench.two_copies import blend

    return it.draw(blend(it.model, (it.merged(), W)), prompt, steps, batch)


WAYS: dict[str, tuple[Callable, str]] = {
    "plain": (plain, UNRELATED),
    "ours, unrelated": (ours, UNRELATED),
    "ours, erased": (ours, ERASED),
    "ours, erased, cond and uncond": (both_sides, ERASED),
    "both predictions, unrelated (paper)": (both_always, UNRELATED),
    "both predictions, erased (paper)": (both_always, ERASED),
    "weight swap": (weight_swap, ERASED),
    "host weight hooks": (host_hooks, ERASED),
    "two copies": (two_copies, ERASED),
}


def costs(
    it: Stage, steps: int, batch: int, rounds: int, some: Collection[str] = tuple(WAYS)
) -> dict[str, dict[str, float]]:
    """Way -> evaluations and wall time as ratios to plain sampling, and seconds; by turns, the median counts.

    `some`: which ways, plain sampling among them.
    """
    ways = {way: WAYS[way] for way in some}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    evaluations: dict[str, int] = {}
    for draw, prompt in ways.values():  # warms up
        draw(it, prompt, 1, batch)
    synchronise(it.model.load_device)
    for _ in range(rounds):
        for way, (draw, prompt) in ways.items():
            it.evaluations, began = 0, time.perf_counter()
            draw(it, prompt, steps, batch)
            synchronise(it.model.load_device)
            seconds[way].append(time.perf_counter() - began)
            evaluations[way] = it.evaluations
    return {
        way: {
            "evaluations": evaluations[way] / evaluations["plain"],
            "wall": statistics.median(a / b for a, b in zip(seconds[way], seconds["plain"], strict=True)),
            "seconds": statistics.median(seconds[way]),
        }
        for way in ways
    }


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
