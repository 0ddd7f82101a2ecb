"""Counting what a MODEL is asked."""

from __future__ import annotations

from comfy.patcher_extension import WrappersMP

from .attached import KEY


class EvaluationCounter:
    """Counts evaluations: forwards of the diffusion model, times the rows of the batch."""

    def __init__(self):
        self.count = 0

    def around_forward(self, executor, x, *args, **kwargs):
        """The wrapper that counts, for APPLY_MODEL."""
        self.count += x.shape[0]
        return executor(x, *args, **kwargs)

    def watch(self, model):
        """A clone of MODEL whose evaluations are counted here."""
        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self.around_forward)
        return clone
