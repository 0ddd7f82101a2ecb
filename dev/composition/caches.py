"""Small imitations of step caches: packs that answer from what they keep of earlier predictions, each in a way of its
own to remember.
"""

from __future__ import annotations

import itertools
import types
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from dev.composition.parts import Expected, Part
from dev.composition.stage import Scene, Stage, replaced

GROUP = "step caches, as packs write them"
WHOLE = "it decides for the whole batch, in which the other picture is steered"
ITERATOR = "which cannot be put back"
CHANGE = 0.35  # between two inputs, from which on a cache asks again


def numbers_of(args: dict) -> tuple[int, ...]:
    """The conds of a call."""
    return tuple(args["cond_or_uncond"])


def counted(stage: Stage, model):
    """Every other step answers from the last; steps are told by their noise level, in a closure (DeepCache)."""
    step, last, kept = -1, None, {}

    def wrapper(apply, args):
        nonlocal step, last
        sigma = args["timestep"][0].item()
        if sigma != last:
            step, last = step + 1, sigma
        if step % 2:
            return args["input"] + kept[numbers_of(args)]
        out = apply(args["input"], args["timestep"], **args["c"])
        kept[numbers_of(args)] = out - args["input"]
        return out

    return with_function_wrapper(model, wrapper)


def with_function_wrapper(model, wrapper):
    """A clone of MODEL with the one wrapper that it has room for."""
    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


class Context:
    """Buffers by name (first-block caches)."""

    def __init__(self):
        self.buffers: dict[str, torch.Tensor] = {}
        self.used = 0

    def close(self, name: str, it: torch.Tensor) -> bool:
        """Whether it is what is kept by that name, nearly."""
        kept = self.buffers.get(name)
        same = kept is not None and kept.shape == it.shape
        return same and ((it - kept).abs().mean() < CHANGE * kept.abs().mean()).item()


def first_block(stage: Stage, model):
    """Compares the first layer's output with the last one; near enough, what is kept is added (FBCache, WaveSpeed)."""
    context = Context()

    def around_network(executor, x, *args, **kwargs):
        first = executor.class_obj.input_blocks[0][0](x)
        name = str(len(x))
        if context.used < 2 and context.close(f"first {name}", first):
            context.used += 1
            return x + context.buffers[f"rest {name}"]
        context.used = 0
        out = executor(x, *args, **kwargs)
        context.buffers |= {f"first {name}": first, f"rest {name}": out - x}
        return out

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "first block", around_network)
    return model


def on_the_network(stage: Stage, model):
    """State in attributes of the network, whose forward is replaced in each call (TeaCache)."""
    network = model.model.diffusion_model
    network.tea_state = {}

    def wrapper(apply, args):
        options = args["c"]["transformer_options"]
        own = network.forward

        def forward(x, timesteps, context=None, **kwargs):
            state = network.tea_state.setdefault(numbers_of(options), {"distance": 0.0})
            if "before" in state:
                state["distance"] += ((x - state["before"]).abs().mean() / state["before"].abs().mean()).item()
            if "kept" in state and state["distance"] < CHANGE:
                out = x + state["kept"]
            else:
                state["distance"] = 0.0
                out = own(x, timesteps, context=context, **kwargs)
                state["kept"] = out - x
            state["before"] = x
            return out

        with replaced([(network, "forward", forward)]):
            return apply(args["input"], args["timestep"], **args["c"])

    return with_function_wrapper(model, wrapper)


class Counter:
    """Of calls."""

    def __init__(self):
        self.calls, self.kept = 0, None


def in_transformer_options(stage: Stage, model):
    """A counter of calls that travels in `transformer_options` (MagCache)."""

    def around_network(executor, x, timesteps, context=None, y=None, control=None, transformer_options=None, **kwargs):
        counter = (transformer_options or {})["mag counter"]
        counter.calls += 1
        if counter.calls % 3 == 0:
            return x + counter.kept
        out = executor(x, timesteps, context, y, control, transformer_options, **kwargs)
        counter.kept = out - x
        return out

    model = model.clone()
    model.model_options["transformer_options"]["mag counter"] = Counter()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "mag", around_network)
    return model


CALLS, KEPT = 0, None


def _with_globals(apply, args):
    global CALLS, KEPT  # as such packs do
    CALLS += 1
    if CALLS % 2 == 0:
        return args["input"] + KEPT
    out = apply(args["input"], args["timestep"], **args["c"])
    KEPT = out - args["input"]
    return out


def in_globals(stage: Stage, model):
    """State in globals of a module."""
    module = {**globals(), "CALLS": 0, "KEPT": None}
    return with_function_wrapper(model, types.FunctionType(_with_globals.__code__, module))


def in_a_class(stage: Stage, model):
    """State in attributes of a class."""

    class Cache:
        calls = 0
        kept: Any = None

    def wrapper(apply, args):
        Cache.calls += 1
        if Cache.calls % 2 == 0:
            return args["input"] + Cache.kept
        out = apply(args["input"], args["timestep"], **args["c"])
        Cache.kept = out - args["input"]
        return out

    return with_function_wrapper(model, wrapper)


def in_its_class(stage: Stage, model):
    """State in attributes of a patch's own class, through methods of the class."""

    class Patch:
        kept: dict[str, Any] = {"calls": 0}

        @classmethod
        def again(cls) -> bool:
            cls.kept["calls"] += 1
            return cls.kept["calls"] % 2 == 1

        def __call__(self, apply, args):
            if self.again():
                type(self).kept["change"] = apply(args["input"], args["timestep"], **args["c"]) - args["input"]
            return args["input"] + self.kept["change"]

    return with_function_wrapper(model, Patch())


def in_another_module(stage: Stage, model):
    """State in another module of the pack."""
    state = types.ModuleType(f"{__name__}_state")
    vars(state).update(CALLS=0, KEPT=None)

    def wrapper(apply, args):
        shared.CALLS += 1  # noqa: F821
        if shared.CALLS % 2 == 0:  # noqa: F821
            return args["input"] + shared.KEPT  # noqa: F821
        out = apply(args["input"], args["timestep"], **args["c"])
        shared.KEPT = out - args["input"]  # noqa: F821
        return out

    return with_function_wrapper(model, types.FunctionType(wrapper.__code__, {**globals(), "shared": state}))


class KeepingModule(torch.nn.Module):
    """A layer that mixes what it makes with what it has made before."""

    def __init__(self):
        super().__init__()
        self.before: torch.Tensor | None = None

    def forward(self, apply, args):
        """As a wrapper of the network."""
        out = apply(args["input"], args["timestep"], **args["c"])
        mixed = out if self.before is None else 0.7 * out + 0.3 * self.before
        self.before = out
        return mixed


def in_a_torch_module(stage: Stage, model):
    """State in attributes of a torch module."""
    return with_function_wrapper(model, KeepingModule())


def by_count(stage: Stage, model):
    """Calls numbered by an `itertools.count`."""
    calls, kept = itertools.count(), {}

    def wrapper(apply, args):
        if next(calls) % 2:
            return args["input"] + kept["change"]
        out = apply(args["input"], args["timestep"], **args["c"])
        kept["change"] = out - args["input"]
        return out

    return with_function_wrapper(model, wrapper)


def by_cycle(stage: Stage, model):
    """What to do next from an `itertools.cycle`."""
    rates = itertools.cycle((0.9, 1.0, 1.1))
    return with_function_wrapper(
        model, lambda apply, args: next(rates) * apply(args["input"], args["timestep"], **args["c"])
    )


def by_generator(stage: Stage, model):
    """What to do next from a generator."""

    def rates():
        while True:
            yield from (0.9, 1.0, 1.1)

    left = rates()
    return with_function_wrapper(
        model, lambda apply, args: next(left) * apply(args["input"], args["timestep"], **args["c"])
    )


def in_place(stage: Stage, model):
    """What is kept is one tensor, written over in place."""
    kept: dict[torch.Size, torch.Tensor] = {}
    calls = 0

    def wrapper(apply, args):
        nonlocal calls
        calls += 1
        out = apply(args["input"], args["timestep"], **args["c"])
        if out.shape not in kept:
            kept[out.shape] = out.clone()
        kept[out.shape].mul_(0.5).add_(0.5 * out)
        return 0.7 * out + 0.3 * kept[out.shape]

    return with_function_wrapper(model, wrapper)


def replaced_forwards(scene: Scene) -> None:
    """Forwards of layers replaced, with a cache in each layer's attributes."""

    def of(layer):
        own = layer.forward

        def forward(x, *args, **kwargs):
            before = getattr(layer, "seen_before", None)
            out = own(x, *args, **kwargs)
            layer.seen_before = out
            return out if before is None or before.shape != out.shape else 0.8 * out + 0.2 * before

        return forward

    def around(model):
        layers = [it for name, it in model.model.diffusion_model.named_modules() if name.endswith("attn1.to_v")]
        for layer in layers:
            vars(layer).pop("seen_before", None)
        return replaced([(layer, "forward", of(layer)) for layer in layers])

    scene.around = around


WHOLE_BATCH = Expected(another_picture=WHOLE)
PARTS = [
    Part("counts steps in a closure", GROUP, counted, steps=4, in_haste=True),
    Part("first-block cache", GROUP, first_block, steps=6, expected=WHOLE_BATCH, in_haste=True),
    Part("state on the network, forward replaced in each call", GROUP, on_the_network, steps=5, expected=WHOLE_BATCH,
         in_haste=True),
    Part("a counter in transformer_options", GROUP, in_transformer_options, steps=4, in_haste=True),
    Part("state in globals", GROUP, in_globals, steps=4, in_haste=True),
    Part("state in a class", GROUP, in_a_class, steps=4, in_haste=True),
    Part("state in the class of a patch", GROUP, in_its_class, steps=4),
    Part("state in another module", GROUP, in_another_module, steps=4),
    Part("state in a torch module", GROUP, in_a_torch_module, steps=4),
    Part("an itertools.count", GROUP, by_count, steps=4, expected=Expected(refusal=ITERATOR), in_haste=True),
    Part("an itertools.cycle", GROUP, by_cycle, steps=4, expected=Expected(refusal=ITERATOR)),
    Part("a generator", GROUP, by_generator, steps=4, expected=Expected(refusal=ITERATOR), in_haste=True),
    Part("a tensor written in place", GROUP, in_place, steps=4, in_haste=True),
    Part("forwards of layers replaced", GROUP, scene=replaced_forwards, steps=4, in_haste=True),
]  # fmt: skip
