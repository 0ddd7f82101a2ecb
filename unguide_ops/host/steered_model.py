"""A MODEL whose sampling runs are steered, by whatever node they are sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import comfy.model_base
import comfy.model_patcher
import torch
from comfy.patcher_extension import WrappersMP

from .attachments import KEY, attach, attached, remove_guard
from .pack_state import PackState
from .prediction_call import PredictionCall
from .sampling_run import RestartRun, SamplingRun
from .types import Model

PREDICTION_FUNCTION = "sampler_calc_cond_batch_function"
"""The option of a MODEL by which another pack replaces the host's function for predictions."""

Predict = Callable[[PredictionCall], list[torch.Tensor]]
Around = Callable[[SamplingRun, Sequence[Any]], AbstractContextManager[Predict]]


def steered_model(model: Model, item: Any, around: Around) -> Model:
    """A clone of MODEL with `item` attached: each of its sampling runs takes place inside `around(run, items)`.

    `around` receives all attached items. It yields the function that replaces every prediction of the run: from a
    `PredictionCall` to x0 for each cond. Any sampler works, and so does the host's guidance: pre- and post-CFG
    functions see the steered predictions.
    """

    def around_run(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        if len(sigmas) < 2:  # no step to steer
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        items = attached(guider.model_patcher)
        _check_models(guider, items)
        original_conds, random_state = dict(guider.conds), torch.random.get_rng_state()
        run = SamplingRun(guider, noise, latent_image, sigmas)
        while True:
            guider.conds = {name: [entry.copy() for entry in cond] for name, cond in original_conds.items()}
            try:
                with around(run, items) as predict, _predictions_replaced(run, predict):
                    return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
            except RestartRun:
                PackState.restore(run.initial_pack_state or [])
                torch.random.set_rng_state(random_state)
                run.reset()

    return attach(model, item, around_run)


@contextmanager
def _predictions_replaced(run: SamplingRun, predict: Predict) -> Iterator[None]:
    """A context in which the guider's predictions are made by `predict`, by wrappers in its own copy of the options.

    They are the outermost wrappers: each prediction of ours passes through those of other packs, as the base's does.
    """
    predicting = False

    def replaced(executor, model, *arguments):
        nonlocal predicting
        if predicting:  # another pack's prediction function calls the host's
            return executor(model, *arguments)
        _check_model(run, model)
        predicting, run.call_count = True, run.call_count + 1
        try:
            return predict(PredictionCall(run, executor, model, *arguments))
        finally:
            predicting = False

    original_options = run.guider.model_options
    options = run.guider.model_options = comfy.model_patcher.create_model_options_clone(original_options)
    remove_guard(options)
    wrappers = options.setdefault("transformer_options", {}).setdefault("wrappers", {})
    for kind, key, wrapper in ((WrappersMP.CALC_COND_BATCH, KEY, replaced),
                               (WrappersMP.APPLY_MODEL, f"{KEY} in run", run.counter.around_forward)):  # fmt: skip
        wrappers[kind] = {key: [wrapper], **wrappers.get(kind, {})}
    if PREDICTION_FUNCTION in options:
        options[PREDICTION_FUNCTION] = _around_prediction_function(options[PREDICTION_FUNCTION], replaced)
    try:
        yield
    finally:
        run.guider.model_options = original_options


def _around_prediction_function(function: Callable, replaced: Callable) -> Callable:
    """Another pack's prediction function, called by `replaced` in the place of the host's."""

    def around(args: dict):
        def executor(model, conds, x, timestep, options, *_):
            options = {**options, PREDICTION_FUNCTION: function}
            return function(
                {**args, "conds": conds, "input": x, "sigma": timestep, "model": model, "model_options": options}
            )

        return replaced(executor, args["model"], args["conds"], args["input"], args["sigma"], args["model_options"])

    return around


def _check_models(guider: Any, items: Sequence[Any]) -> None:
    """Raises RuntimeError if a guider samples with a second MODEL that does not have the same items."""
    values = (value for name, attribute in vars(guider).items() if name != "loaded_models"
              for value in _flattened(attribute))  # fmt: skip
    for value in values:
        samples = isinstance(value, comfy.model_patcher.ModelPatcher) and isinstance(
            value.model, comfy.model_base.BaseModel
        )
        if samples and attached(value) != items:
            raise RuntimeError(
                f"{type(guider).__name__} samples with a second MODEL, which is not steered. Use a guider with one "
                f"MODEL, such as UnGuidance Guider."
            )


def _flattened(value: Any) -> Iterator[Any]:
    """A value's elements if it is a dict, list or tuple, else the value itself."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        yield from value
    else:
        yield value


def _check_model(run: SamplingRun, model: torch.nn.Module) -> None:
    """Raises RuntimeError if a prediction is made with another model than the run's, which is not steered."""
    if model is not run.guider.model_patcher.model:
        raise RuntimeError(
            f"{type(run.guider).__name__} calls a second model, which is not steered. Use a guider with one MODEL, "
            f"such as UnGuidance Guider."
        )
