"""Counts the model calls of a MODEL, in reports named `evaluations`."""

from __future__ import annotations

from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from .attachments import KEY
from .types import Model


class EvaluationCounter:
    """Counts model calls: each forward of the diffusion model counts once for every row of its batch."""

    def __init__(self):
        self.count = 0

    def around_forward(self, executor: Any, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """A wrapper of type APPLY_MODEL that counts the rows of x [B, ...]."""
        self.count += x.shape[0]
        return executor(x, *args, **kwargs)

    def count_on(self, model: Model) -> Model:
        """A clone of MODEL whose calls this counter adds up."""
        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self.around_forward)
        return clone
