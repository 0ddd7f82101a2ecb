"""Two runs side by side that go on with one blend, each with a model, patches, caches and random numbers of its own."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import torch
from comfy.patcher_extension import WrappersMP

KEY = "side by side"
OWN_FUNCTION = "sampler_calc_cond_batch_function"

Draw = Callable[[Any], torch.Tensor]
"""MODEL -> latents."""


def draw_blended(base: tuple[Draw, Any], merged: tuple[Draw, Any], ws: Sequence[float]) -> torch.Tensor:
    """Latents of two runs, (draw, MODEL) each, in which all predictions are `w * e_base + (1 - w) * e_merged`,
    at the latents of the first.

    `ws`: of each picture. Both runs are whole ones, so what hangs on either MODEL sees and remembers nothing of the
    other. Raises what either raises, and RuntimeError where they do not ask for the same.
    """
    turns = _Turns(ws)
    threads = [threading.Thread(target=turns.run, args=(i, *it), daemon=True) for i, it in enumerate((base, merged))]
    for it in threads:
        it.start()
    for it in threads:
        it.join()
    if turns.errors:
        raise turns.errors[0]
    return turns.drawn[0]


class _Turns:
    """One runs at a time, until it has a prediction to hand over."""

    def __init__(self, ws: Sequence[float]):
        self.drawn: dict[int, torch.Tensor] = {}
        self.errors: list[BaseException] = []
        self._ws = ws
        self._x: torch.Tensor | None = None  # the first run's
        self._predicted: list[list[torch.Tensor] | None] = [None, None]
        self._blended: list[torch.Tensor] = []
        self._random = [_random_state(), _random_state()]
        self._turn, self._changed = 0, threading.Condition()
        self._threads, self._modes = torch.get_num_threads(), torch.is_inference_mode_enabled()

    def run(self, number: int, draw: Draw, model) -> None:
        torch.set_num_threads(self._threads)
        asking = False

        def around(executor, x: torch.Tensor):
            nonlocal asking
            if asking:  # another pack's function asks the host's
                return executor(x)
            if number == 0:
                self._x = x
            elif self._x is None or self._x.shape != x.shape:
                raise RuntimeError("The two runs do not ask for the same predictions.")
            asking = True
            try:
                predicted = executor(self._x)
            finally:
                asking = False
            return self._exchange(number, predicted)

        try:
            self._wait(number)
            with torch.inference_mode(self._modes):
                self.drawn[number] = draw(_with_wrapper(model, around))
        except BaseException as error:  # noqa: BLE001 - handed to who waits
            self.errors.append(error)
        finally:
            self._pass_on(number)

    def _exchange(self, number: int, predicted: list[torch.Tensor]) -> list[torch.Tensor]:
        """The blend, when both have predicted."""
        self._predicted[number] = predicted
        if number == 1:
            base, merged = self._predicted
            if base is None or len(base) != len(predicted):
                raise RuntimeError("The two runs do not ask for the same predictions.")
            w = torch.tensor(self._ws).view(-1, *[1] * (predicted[0].ndim - 1))
            self._blended = [w * b + (1 - w) * e for b, e in zip(base, merged or (), strict=True)]
            self._predicted = [None, None]
        self._pass_on(number)
        self._wait(number)
        return [it.clone() for it in self._blended]

    def _pass_on(self, number: int) -> None:
        with self._changed:
            self._random[number] = _random_state()
            self._turn = 1 - number if 1 - number not in self.drawn else number
            self._changed.notify_all()

    def _wait(self, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn == number or self.errors)
        if self.errors:
            raise RuntimeError("The other run has stopped.")
        _put_random_state(self._random[number])


def _with_wrapper(model, around: Callable):
    """A clone of MODEL whose predictions are `around(latents -> predictions, latents)`, outside of other wrappers."""

    def ask(executor, network, conds, x, *rest):
        return around(lambda x: executor(network, conds, x, *rest), x)

    model = model.clone()
    options = model.model_options
    wrappers = options.setdefault("transformer_options", {}).setdefault("wrappers", {})
    wrappers[WrappersMP.CALC_COND_BATCH] = {KEY: [ask], **wrappers.get(WrappersMP.CALC_COND_BATCH, {})}
    if OWN_FUNCTION in options:
        function = options[OWN_FUNCTION]
        options[OWN_FUNCTION] = lambda args: around(lambda x: function({**args, "input": x}), args["input"])
    return model


def _random_state() -> tuple:
    return torch.random.get_rng_state(), random.getstate(), numpy.random.get_state()


def _put_random_state(state: tuple) -> None:
    torch.random.set_rng_state(state[0])
    random.setstate(state[1])
    numpy.random.set_state(state[2])
