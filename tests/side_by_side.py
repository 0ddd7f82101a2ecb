"""Two whole sampling runs that share each blended prediction, each with its own model, patches, caches and seeds."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch
from comfy.patcher_extension import WrappersMP

KEY = "side by side"
PREDICTION_FUNCTION = "sampler_calc_cond_batch_function"  # the model option by which a pack replaces the host's

Draw = Callable[[Any], torch.Tensor]
"""MODEL -> latents."""


def draw_blended(base: tuple[Draw, Any], merged: tuple[Draw, Any], ws: Sequence[float]) -> torch.Tensor:
    """The latents of the first of two runs, (draw, MODEL) each, that share all predictions.

    Every prediction is `w * e_base + (1 - w) * e_merged` at the first run's latents, with a w for each picture. What is
    attached to either MODEL sees and remembers nothing of the other run. Raises what either run raises, and
    RuntimeError if they do not make the same predictions.
    """
    pair = _RunPair(ws)
    threads = [threading.Thread(target=pair.run, args=(i, *run), daemon=True) for i, run in enumerate((base, merged))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if pair.errors:
        raise pair.errors[0]
    return pair.latents[0]


class _RunPair:
    """Two runs, of which one continues at a time, until it has a prediction to blend."""

    def __init__(self, ws: Sequence[float]):
        self.latents: dict[int, torch.Tensor] = {}
        self.errors: list[BaseException] = []
        self._ws = ws
        self._x: torch.Tensor | None = None  # the first run's
        self._predictions: list[list[torch.Tensor] | None] = [None, None]
        self._blended: list[torch.Tensor] = []
        self._random = [_random_state(), _random_state()]
        self._turn, self._changed = 0, threading.Condition()
        self._threads, self._inference_mode = torch.get_num_threads(), torch.is_inference_mode_enabled()

    def run(self, number: int, draw: Draw, model) -> None:
        """The thread of one run."""
        torch.set_num_threads(self._threads)
        is_inside = False

        def around_prediction(predict, x: torch.Tensor):
            nonlocal is_inside
            if is_inside:  # another pack's function calls the host's
                return predict(x)
            if number == 0:
                self._x = x
            elif self._x is None or self._x.shape != x.shape:
                raise RuntimeError("The two runs do not ask for the same predictions.")
            is_inside = True
            try:
                predictions = predict(self._x)
            finally:
                is_inside = False
            return self._blend(number, predictions)

        try:
            self._wait(number)
            with torch.inference_mode(self._inference_mode):
                self.latents[number] = draw(_with_wrapper(model, around_prediction))
        except BaseException as error:  # noqa: BLE001 - raised by draw_blended
            self.errors.append(error)
        finally:
            self._pass_on(number)

    def _blend(self, number: int, predictions: list[torch.Tensor]) -> list[torch.Tensor]:
        """The blend of this run's predictions and the other's, when both have made theirs."""
        self._predictions[number] = predictions
        if number == 1:
            base, merged = self._predictions
            if base is None or len(base) != len(predictions):
                raise RuntimeError("The two runs do not ask for the same predictions.")
            w = predictions[0].new_tensor(self._ws).view(-1, *[1] * (predictions[0].ndim - 1))
            self._blended = [w * b + (1 - w) * e for b, e in zip(base, merged or (), strict=True)]
            self._predictions = [None, None]
        self._pass_on(number)
        self._wait(number)
        return [prediction.clone() for prediction in self._blended]

    def _pass_on(self, number: int) -> None:
        with self._changed:
            self._random[number] = _random_state()
            self._turn = 1 - number if 1 - number not in self.latents else number
            self._changed.notify_all()

    def _wait(self, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn == number or self.errors)
        if self.errors:
            raise RuntimeError("The other run has stopped.")
        _set_random_state(self._random[number])


def _with_wrapper(model, around_prediction: Callable):
    """A clone of MODEL that predicts `around_prediction(latents -> predictions, latents)`, around other wrappers."""

    def wrapper(executor, inner_model, conds, x, *args):
        return around_prediction(lambda x: executor(inner_model, conds, x, *args), x)

    model = model.clone()
    options = model.model_options
    wrappers = options.setdefault("transformer_options", {}).setdefault("wrappers", {})
    wrappers[WrappersMP.CALC_COND_BATCH] = {KEY: [wrapper], **wrappers.get(WrappersMP.CALC_COND_BATCH, {})}
    if PREDICTION_FUNCTION in options:
        function = options[PREDICTION_FUNCTION]
        options[PREDICTION_FUNCTION] = lambda args: around_prediction(
            lambda x: function({**args, "input": x}), args["input"]
        )
    return model


def _random_state() -> tuple:
    return torch.random.get_rng_state(), random.getstate(), numpy.random.get_state()


def _set_random_state(state: tuple) -> None:
    torch.random.set_rng_state(state[0])
    random.setstate(state[1])
    numpy.random.set_state(state[2])
