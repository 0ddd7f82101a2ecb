"""`TrainingMetrics`: losses, erasure and separation of a training, from predictions that it makes anyway."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import fmean

import torch
from scipy.stats import mannwhitneyu

from .batches import TrainingBatch

WINDOW = 10  # iterations

ERASURE_DONE = 0.9
"""The erasure from which a target counts as erased. An erasure of 1 means that the LoRA predicts what the base model
predicts under the reference prompt. Guidance multiplies it in sampling: on the embedded model the concept disappears
from pictures at about 0.5, and the reference is drawn well from about 0.9."""

SEPARATION_DONE = 0.98
"""The separation from which a gate could recognise the concept by the LoRA's change alone."""


@dataclass
class IterationMetrics:
    """An iteration's means: the paper's loss, the retain loss (0 if no prompt is retained), and the erasure."""

    erasing: float
    retain: float
    erasure: float


class TrainingMetrics:
    """The metrics of a training: `history` has every iteration's, and means are taken over the last WINDOW of them."""

    def __init__(self) -> None:
        self.history: list[IterationMetrics] = []
        self.overflows = 0  # iterations that changed nothing, as their gradients did not fit into half precision
        self._changes: deque = deque(maxlen=WINDOW)  # (relative changes [N], which of them erase [N]) by iteration

    def update(self, batch: TrainingBatch, predicted: torch.Tensor, losses: torch.Tensor) -> None:
        """Add an iteration: its examples [N], the LoRA's predictions [N, ...] and their losses [N]."""
        erases = batch.erases
        erasures = erasure(predicted, batch.base, batch.reference)[erases]
        retain_losses = losses[~erases]
        self.history.append(
            IterationMetrics(
                erasing=losses[erases].mean().item(),
                retain=retain_losses.mean().item() if len(retain_losses) else 0.0,
                erasure=erasures.mean().item(),
            )
        )
        self._changes.append((relative_change(predicted, batch).cpu(), erases.cpu()))

    def mean(self, name: str) -> float:
        """The mean of a field of `IterationMetrics` over the window."""
        return fmean(getattr(iteration, name) for iteration in self.history[-WINDOW:])

    def separation(self) -> float | None:
        """How well the LoRA's relative change separates erased from retained prompts: area under the ROC curve.

        It is taken over the window, and None if no prompt is retained.
        """
        if not self._changes:
            return None
        changes, erases = (torch.cat(parts) for parts in zip(*self._changes, strict=True))
        erased, retained = changes[erases], changes[~erases]
        if not len(retained):
            return None
        return mannwhitneyu(erased, retained).statistic.item() / (len(erased) * len(retained))

    def summary(self) -> str:
        """The last iteration's metrics in words."""
        last = self.history[-1]
        overflows = f", {self.overflows} iterations lost to overflow" if self.overflows else ""
        return f"loss {last.erasing:.4f}, retain {last.retain:.5f}, erasure {last.erasure:.2f}{overflows}"

    def is_converged(self) -> bool:
        """Whether, over a full window, the target is erased and separated from what is retained."""
        separation = self.separation()
        is_full = len(self.history) >= WINDOW
        is_separated = separation is None or separation >= SEPARATION_DONE
        return is_full and self.mean("erasure") >= ERASURE_DONE and is_separated

    def what_is_missing(self) -> str:
        """A warning for a training that ended without having converged."""
        iterations, separation = len(self.history), self.separation()
        if (reached := self.mean("erasure")) < ERASURE_DONE:
            return (f"The target is not erased yet: erasure {reached:.2f}, and {ERASURE_DONE} is wanted. Raise "
                    f"`iterations` ({iterations}) or `rank`, or draw with w = -1, which goes twice as "
                    f"far.")  # fmt: skip
        if separation is not None and separation < SEPARATION_DONE:
            return (f"Preserved prompts are changed nearly as much as the target: separation {separation:.2f}, and "
                    f"{SEPARATION_DONE} is wanted. Raise `iterations` ({iterations}), or take prompts that mean the "
                    f"concept out of `preserve`.")  # fmt: skip
        return f"Too few `iterations` ({iterations}) to tell whether the target is erased: use at least {WINDOW}."


def erasure(predicted: torch.Tensor, base: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """How far predictions [N, ...] have moved from `base` towards `reference`: [N], 0 at the one, 1 at the other.

    The goal of a training with negative guidance g is 1 + g.
    """
    direction = (reference - base).flatten(1)
    return ((predicted - base).flatten(1) * direction).sum(1) / direction.square().sum(1).clamp(min=1e-12)


def relative_change(predicted: torch.Tensor, batch: TrainingBatch) -> torch.Tensor:
    """`||e_lora - e_base||` in units of `TrainingBatch.erasing_distance`, [N]."""
    change = (predicted - batch.base).flatten(1).norm(dim=1)
    return change / batch.erasing_distance.clamp(min=1e-6)
