"""What is hung on a MODEL: its predictions replaced, or counted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from comfy.patcher_extension import WrappersMP

KEY = "unguide"


def with_branch(
    model,
    attached: Callable[[torch.nn.Module], AbstractContextManager],
    predict: Callable[[Callable[[], list[torch.Tensor]]], list[torch.Tensor]],
):
    """A clone of MODEL whose every prediction in a sampling run is `predict(evaluate)`, a list of x0 per cond.

    `attached(diffusion_model)` is entered around each run; `evaluate()` is what the model would have predicted.
    Works with every sampler, and inside the host's own guidance: pre- and post-CFG functions see the result.
    """

    def around_run(executor, *args, **kwargs):
        with attached(executor.class_obj.model_patcher.model.diffusion_model):
            return executor(*args, **kwargs)

    def around_prediction(executor, *args, **kwargs):
        return predict(lambda: executor(*args, **kwargs))

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
