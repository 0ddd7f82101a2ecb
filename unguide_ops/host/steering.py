"""A MODEL whose sampling runs are steered, whatever samples it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import comfy.model_base
import comfy.model_patcher
import torch
from comfy.patcher_extension import WrappersMP

from .attached import KEY, attach, attached, remove_guard
from .calls import Call
from .others import Memory
from .runs import Run, RunAgain

OWN_FUNCTION = "sampler_calc_cond_batch_function"
"""Of a MODEL's options: what another pack asks for predictions in place of the host's own function."""

Predict = Callable[[Call], list[torch.Tensor]]
Around = Callable[[Run, Sequence[Any]], AbstractContextManager[Predict]]


def steer(model, item, around: Around):
    """A clone of MODEL with `item` hung on it: its sampling runs are inside `around(run, items)`.

    `around` is told all that hangs there, and yields what is asked for every prediction: x0 for each cond, from a Call.

    Works with every sampler, and inside the host's own guidance: pre- and post-CFG functions see the result.
    """

    def around_run(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        if len(sigmas) < 2:  # no step to steer
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        items = attached(guider.model_patcher)
        _check_models(guider, items)
        before, random = dict(guider.conds), torch.random.get_rng_state()
        run = Run(guider, noise, sigmas)
        while True:
            guider.conds = {name: [entry.copy() for entry in conds] for name, conds in before.items()}
            try:
                with around(run, items) as predict, _in_run(run, predict):
                    return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
            except RunAgain:
                Memory.put(run.beginning or [])
                torch.random.set_rng_state(random)
                run.begin()

    return attach(model, item, around_run)


@contextmanager
def _in_run(run: Run, predict: Predict) -> Iterator[None]:
    """Wrappers on the guider's own options for the run.

    Ours is the outermost one: whatever we ask passes through what other packs have hung there, as the base's does.
    """
    asking = False

    def ask(executor, model, *rest):
        nonlocal asking
        if asking:  # another pack's function asks the host's
            return executor(model, *rest)
        _check_model(run, model)
        asking, run.calls = True, run.calls + 1
        try:
            return predict(Call(run, executor, model, *rest))
        finally:
            asking = False

    kept = run.guider.model_options
    options = run.guider.model_options = comfy.model_patcher.create_model_options_clone(kept)
    remove_guard(options)
    wrappers = options.setdefault("transformer_options", {}).setdefault("wrappers", {})
    for kind, key, wrapper in ((WrappersMP.CALC_COND_BATCH, KEY, ask),
                               (WrappersMP.APPLY_MODEL, f"{KEY} in run", run.counter.around_forward)):  # fmt: skip
        wrappers[kind] = {key: [wrapper], **wrappers.get(kind, {})}
    if OWN_FUNCTION in options:
        options[OWN_FUNCTION] = _around_own_function(options[OWN_FUNCTION], ask)
    try:
        yield
    finally:
        run.guider.model_options = kept


def _around_own_function(function: Callable, ask: Callable) -> Callable:
    def around(args: dict):
        def executor(model, conds, x, timestep, options, *rest):
            plain = {**options, OWN_FUNCTION: function}
            return function(
                {**args, "conds": conds, "input": x, "sigma": timestep, "model": model, "model_options": plain}
            )

        return ask(executor, args["model"], args["conds"], args["input"], args["sigma"], args["model_options"])

    return around


def _check_models(guider, items: Sequence[Any]) -> None:
    """Raises RuntimeError where a guider samples with a second MODEL, on which not the same hangs."""
    held = (it for name, value in vars(guider).items() if name != "loaded_models" for it in _flat(value))
    for it in held:
        samples = isinstance(it, comfy.model_patcher.ModelPatcher) and isinstance(it.model, comfy.model_base.BaseModel)
        if samples and attached(it) != items:
            raise RuntimeError(
                f"{type(guider).__name__} samples with a second MODEL, which is not steered. Use a guider with one "
                f"MODEL, such as UnGuidance Guider."
            )


def _flat(it) -> Iterator[Any]:
    if isinstance(it, dict):
        it = list(it.values())
    if isinstance(it, list | tuple):
        yield from it
    else:
        yield it


def _check_model(run: Run, model: torch.nn.Module) -> None:
    """Raises RuntimeError for a prediction of another model than the run's, which is not steered."""
    if model is not run.guider.model_patcher.model:
        raise RuntimeError(
            f"{type(run.guider).__name__} asks a second model, which is not steered. Use a guider with one MODEL, such "
            f"as UnGuidance Guider."
        )
