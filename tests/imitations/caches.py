"""Step caches (DeepCache, TeaCache, MagCache, FBCache of Comfy-WaveSpeed), which answer from what they keep of earlier
predictions; each imitation keeps it in another kind of place.
"""

from __future__ import annotations

import itertools
import types
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from imitations.parts import Expected, Part
from imitations.sampling import Assets, Sampling, replaced_attributes

GROUP = "step caches, as packs write them"
WHOLE = "it decides for the whole batch, in which the other picture is steered"
CHANGE = 0.35  # relative change of an input from which on a cache calls the model again


def with_function_wrapper(model, wrapper):
    """A clone of MODEL with the one function wrapper that it has room for."""
    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


def predict(apply, args) -> torch.Tensor:
    """The model's prediction, within a function wrapper."""
    return apply(args["input"], args["timestep"], **args["c"])


def in_closure(assets: Assets, model):
    """The number of the step, told by its noise level, in a closure; every other step reuses the last (DeepCache)."""
    step, last, changes = -1, None, {}

    def wrapper(apply, args):
        nonlocal step, last
        sigma, conds = args["timestep"][0].item(), tuple(args["cond_or_uncond"])
        if sigma != last:
            step, last = step + 1, sigma
        if step % 2:
            return args["input"] + changes[conds]
        out = predict(apply, args)
        changes[conds] = out - args["input"]
        return out

    return with_function_wrapper(model, wrapper)


class Buffers:
    """Tensors by name, and how often in a row they were reused."""

    def __init__(self):
        self.tensors: dict[str, torch.Tensor] = {}
        self.reused = 0

    def close(self, name: str, tensor: torch.Tensor) -> bool:
        """Whether a tensor is nearly the one that was kept by this name."""
        kept = self.tensors.get(name)
        same_shape = kept is not None and kept.shape == tensor.shape
        return same_shape and ((tensor - kept).abs().mean() < CHANGE * kept.abs().mean()).item()


def in_instance(assets: Assets, model):
    """Buffers in an instance; where the first layer's output is nearly the last one, they are added (FBCache)."""
    buffers = Buffers()

    def around_network(executor, x, *args, **kwargs):
        first = executor.class_obj.input_blocks[0][0](x)
        name = str(len(x))
        if buffers.reused < 2 and buffers.close(f"first {name}", first):
            buffers.reused += 1
            return x + buffers.tensors[f"change {name}"]
        buffers.reused = 0
        out = executor(x, *args, **kwargs)
        buffers.tensors |= {f"first {name}": first, f"change {name}": out - x}
        return out

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "first block", around_network)
    return model


def on_network(assets: Assets, model):
    """State in attributes of the network, whose forward is replaced in each call (TeaCache)."""
    network = model.model.diffusion_model
    network.tea_state = {}

    def wrapper(apply, args):
        conds = tuple(args["c"]["transformer_options"]["cond_or_uncond"])
        original = network.forward

        def forward(x, timesteps, context=None, **kwargs):
            state = network.tea_state.setdefault(conds, {"distance": 0.0})
            if "before" in state:
                state["distance"] += ((x - state["before"]).abs().mean() / state["before"].abs().mean()).item()
            if "change" in state and state["distance"] < CHANGE:
                out = x + state["change"]
            else:
                state["distance"] = 0.0
                out = original(x, timesteps, context=context, **kwargs)
                state["change"] = out - x
            state["before"] = x
            return out

        with replaced_attributes([(network, "forward", forward)]):
            return predict(apply, args)

    return with_function_wrapper(model, wrapper)


class Counter:
    """The number of calls, and what the last one changed."""

    def __init__(self):
        self.calls, self.change = 0, None


def in_transformer_options(assets: Assets, model):
    """A counter of calls that travels in `transformer_options` (MagCache)."""

    def around_network(executor, x, timesteps, context=None, y=None, control=None, transformer_options=None, **kwargs):
        counter = (transformer_options or {})["mag counter"]
        counter.calls += 1
        if counter.calls % 3 == 0:
            return x + counter.change
        out = executor(x, timesteps, context, y, control, transformer_options, **kwargs)
        counter.change = out - x
        return out

    model = model.clone()
    model.model_options["transformer_options"]["mag counter"] = Counter()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "mag", around_network)
    return model


CALLS, LAST = 0, None


def _with_globals(apply, args):
    global CALLS, LAST  # as such packs do
    CALLS += 1
    if CALLS % 2:
        LAST = predict(apply, args) - args["input"]
    return args["input"] + LAST


def in_globals(assets: Assets, model):
    """State in globals of the patch's module."""
    namespace = {**globals(), "CALLS": 0, "LAST": None}
    return with_function_wrapper(model, types.FunctionType(_with_globals.__code__, namespace))


def _with_module(apply, args):
    shared.CALLS += 1  # noqa: F821
    if shared.CALLS % 2:  # noqa: F821
        shared.LAST = predict(apply, args) - args["input"]  # noqa: F821
    return args["input"] + shared.LAST  # noqa: F821


def in_another_module(assets: Assets, model):
    """State in another module of the pack."""
    state = types.ModuleType(f"{__name__}_state")
    vars(state).update(CALLS=0, LAST=None)
    return with_function_wrapper(model, types.FunctionType(_with_module.__code__, {**globals(), "shared": state}))


def in_class(assets: Assets, model):
    """State in attributes of a class."""

    class Cache:
        calls = 0
        change: Any = None

    def wrapper(apply, args):
        Cache.calls += 1
        if Cache.calls % 2:
            Cache.change = predict(apply, args) - args["input"]
        return args["input"] + Cache.change

    return with_function_wrapper(model, wrapper)


def in_class_of_patch(assets: Assets, model):
    """State in attributes of a patch's own class, through methods of the class."""

    class Patch:
        state: dict[str, Any] = {"calls": 0}

        @classmethod
        def is_due(cls) -> bool:
            cls.state["calls"] += 1
            return cls.state["calls"] % 2 == 1

        def __call__(self, apply, args):
            if self.is_due():
                type(self).state["change"] = predict(apply, args) - args["input"]
            return args["input"] + self.state["change"]

    return with_function_wrapper(model, Patch())


class MixingModule(torch.nn.Module):
    """A layer that mixes the prediction with the previous one."""

    def __init__(self):
        super().__init__()
        self.previous: torch.Tensor | None = None

    def forward(self, apply, args):
        """Called as a function wrapper."""
        out = predict(apply, args)
        mixed = out if self.previous is None else 0.7 * out + 0.3 * self.previous
        self.previous = out
        return mixed


def in_torch_module(assets: Assets, model):
    """State in attributes of a torch module."""
    return with_function_wrapper(model, MixingModule())


def in_count(assets: Assets, model):
    """Calls numbered by an `itertools.count`."""
    numbers, changes = itertools.count(), {}

    def wrapper(apply, args):
        if next(numbers) % 2 == 0:
            changes["last"] = predict(apply, args) - args["input"]
        return args["input"] + changes["last"]

    return with_function_wrapper(model, wrapper)


def in_cycle(assets: Assets, model):
    """A factor for each call from an `itertools.cycle`."""
    factors = itertools.cycle((0.9, 1.0, 1.1))
    return with_function_wrapper(model, lambda apply, args: next(factors) * predict(apply, args))


def in_generator(assets: Assets, model):
    """A factor for each call from a generator."""

    def repeat():
        while True:
            yield from (0.9, 1.0, 1.1)

    factors = repeat()
    return with_function_wrapper(model, lambda apply, args: next(factors) * predict(apply, args))


def in_place(assets: Assets, model):
    """A running mean in one tensor, which is written over in place."""
    means: dict[torch.Size, torch.Tensor] = {}

    def wrapper(apply, args):
        out = predict(apply, args)
        if out.shape not in means:
            means[out.shape] = out.clone()
        means[out.shape].mul_(0.5).add_(0.5 * out)
        return 0.7 * out + 0.3 * means[out.shape]

    return with_function_wrapper(model, wrapper)


def on_layers(sampling: Sampling) -> None:
    """Forwards of layers replaced, each with its previous output in an attribute of the layer."""

    def mixing(layer):
        original = layer.forward

        def forward(x, *args, **kwargs):
            previous = getattr(layer, "previous_output", None)
            out = original(x, *args, **kwargs)
            layer.previous_output = out
            return out if previous is None or previous.shape != out.shape else 0.8 * out + 0.2 * previous

        return forward

    def around(model):
        modules = model.model.diffusion_model.named_modules()
        layers = [layer for path, layer in modules if path.endswith("attn1.to_v")]
        for layer in layers:
            vars(layer).pop("previous_output", None)
        return replaced_attributes([(layer, "forward", mixing(layer)) for layer in layers])

    sampling.around = around


WHOLE_BATCH = Expected(another_picture=WHOLE)
ITERATOR = Expected(refusal="which cannot be rewound")
PARTS = [
    Part("counts steps in a closure", GROUP, in_closure, steps=4, fast=True),
    Part("first-block cache", GROUP, in_instance, steps=6, expected=WHOLE_BATCH, fast=True),
    Part("state on the network, forward replaced in each call", GROUP, on_network, steps=5, expected=WHOLE_BATCH,
         fast=True),
    Part("a counter in transformer_options", GROUP, in_transformer_options, steps=4, fast=True),
    Part("state in globals", GROUP, in_globals, steps=4, fast=True),
    Part("state in a class", GROUP, in_class, steps=4, fast=True),
    Part("state in the class of a patch", GROUP, in_class_of_patch, steps=4),
    Part("state in another module", GROUP, in_another_module, steps=4),
    Part("state in a torch module", GROUP, in_torch_module, steps=4),
    Part("an itertools.count", GROUP, in_count, steps=4, expected=ITERATOR, fast=True),
    Part("an itertools.cycle", GROUP, in_cycle, steps=4, expected=ITERATOR),
    Part("a generator", GROUP, in_generator, steps=4, expected=ITERATOR, fast=True),
    Part("a tensor written in place", GROUP, in_place, steps=4, fast=True),
    Part("forwards of layers replaced", GROUP, change=on_layers, steps=4, fast=True),
]  # fmt: skip
