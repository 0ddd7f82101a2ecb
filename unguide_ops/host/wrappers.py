"""What is hung on a MODEL: its predictions replaced, or counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import comfy.sampler_helpers
import torch
from comfy.patcher_extension import WrappersMP

from .conditioning import Conditioning

KEY = "unguide"


class Call:
    """One prediction of a sampling run: x0 for each cond, from latents [B, ...] at one noise level."""

    def __init__(self, executor, guider, model, conds, x, timestep, model_options):
        self.x = x
        self._run, self._guider, self._conds = executor, guider, conds
        self._rest = (x, timestep, model_options)
        self._model = model

    @property
    def sigma(self) -> float:
        """The noise level."""
        return self._rest[1][0].item()

    @property
    def positive(self) -> int:
        """Which of the conds is the prompt of the picture: the first, unless the guider says otherwise."""
        named = self._guider.conds.get("positive")
        return next((i for i, cond in enumerate(self._conds) if cond is named), 0)

    def evaluate(self) -> list[torch.Tensor]:
        """What would have been predicted."""
        return self._run(self._model, self._conds, *self._rest)

    def of(self, *prompts: str | int) -> list[torch.Tensor]:
        """x0 for conds of the call, by their number, and for prompts of the run, by their name."""
        conds = [self._conds[it] if isinstance(it, int) else self._guider.conds[it] for it in prompts]
        return self._run(self._model, conds, *self._rest)


def with_branch(
    model,
    attached: Callable[[torch.nn.Module], AbstractContextManager],
    predict: Callable[[Call], list[torch.Tensor]],
    prompts: Mapping[str, Conditioning] | None = None,
):
    """A clone of MODEL whose every prediction in a sampling run is `predict(call)`, a list of x0 per cond.

    `attached(diffusion_model)` is entered around each run; `prompts` are encoded with the run's own, for `Call.of`.
    Works with every sampler, and inside the host's own guidance: pre- and post-CFG functions see the result.
    """
    running: list = []

    def around_run(executor, *args, **kwargs):
        guider = executor.class_obj
        for name, conditioning in (prompts or {}).items():
            guider.conds[name] = comfy.sampler_helpers.convert_cond(conditioning)
        running.append(guider)
        try:
            with attached(guider.model_patcher.model.diffusion_model):
                return executor(*args, **kwargs)
        finally:
            running.pop()

    def around_prediction(executor, *args):
        return predict(Call(executor, running[-1], *args))

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, around_run)
    clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, around_prediction)
    return clone


class EvaluationCounter:
    """Counts evaluations: forwards of the diffusion model, times the rows of the batch."""

    def __init__(self):
        self.count = 0

    def watch(self, model):
        """A clone of MODEL whose evaluations are counted here."""

        def around_forward(executor, x, *args, **kwargs):
            self.count += x.shape[0]
            return executor(x, *args, **kwargs)

        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, around_forward)
        return clone
