"""What training shows of itself, from predictions that it makes anyway: losses, erasure, separation."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import fmean

import torch
from scipy.stats import mannwhitneyu

from .lessons import Lessons

WINDOW = 20

GONE = 0.6
"""The erasure from which a target counts as gone (1: the LoRA predicts what the reference prompt would). Guidance
multiplies it while sampling: on the embedded model the concept is not seen any more from 0.5 or so."""

SEPARATES = 0.98
"""The separation from which a gate could tell the concept by the LoRA's change alone."""


@dataclass
class Losses:
    """One iteration's means: the paper's loss, the retain loss (0 without retained prompts), and the erasure."""

    erasing: float
    retain: float
    erasure: float


class Monitor:
    """Looks back on the last WINDOW iterations; `history` has them all."""

    def __init__(self) -> None:
        self.history: list[Losses] = []
        self.overflows = 0  # iterations whose gradients did not fit into half precision, and taught nothing
        self._changes: deque = deque(maxlen=WINDOW)  # (relative changes [N], which of them erase [N]) by iteration

    def see(self, lessons: Lessons, predicted: torch.Tensor, losses: torch.Tensor) -> None:
        """Note an iteration: its lessons [N], the LoRA's predictions [N, ...] and their losses [N]."""
        erases = lessons.erases
        share = erasure(predicted, lessons.base, lessons.reference)[erases]
        kept = losses[~erases]
        self.history.append(
            Losses(losses[erases].mean().item(), kept.mean().item() if len(kept) else 0.0, share.mean().item())
        )
        self._changes.append((relative_change(predicted, lessons).cpu(), erases.cpu()))

    def mean(self, name: str) -> float:
        """Of one of the Losses, over the window."""
        return fmean(getattr(it, name) for it in self.history[-WINDOW:])

    def separation(self) -> float | None:
        """Area under the ROC curve of the LoRA's relative change: erased against retained prompts in the window."""
        if not self._changes:
            return None
        changes, erases = (torch.cat(part) for part in zip(*self._changes, strict=True))
        changed, kept = changes[erases], changes[~erases]
        if not len(kept):
            return None
        return mannwhitneyu(changed, kept).statistic.item() / (len(changed) * len(kept))

    def words(self) -> str:
        """The last iteration in words."""
        now = self.history[-1]
        lost = f", {self.overflows} iterations lost to overflow" if self.overflows else ""
        return f"loss {now.erasing:.4f}, retain {now.retain:.5f}, erasure {now.erasure:.2f}{lost}"

    def is_done(self) -> bool:
        """Whether over a whole window the target is gone and the LoRA's change tells it from what is retained."""
        separation = self.separation()
        full = len(self.history) >= WINDOW
        return full and self.mean("erasure") >= GONE and (separation is None or separation >= SEPARATES)


def erasure(predicted: torch.Tensor, base: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """How far the prediction [N, ...] has moved from the base's to the reference's: 0 not, 1 there, 1 + g the goal."""
    way = (reference - base).flatten(1)
    return ((predicted - base).flatten(1) * way).sum(1) / way.square().sum(1).clamp(min=1e-12)


def relative_change(predicted: torch.Tensor, lessons: Lessons) -> torch.Tensor:
    """`||e_lora - e_base||` in units of the way from the target's prediction to the reference's at that latent, [N]."""
    change = (predicted - lessons.base).flatten(1).norm(dim=1)
    return change / lessons.scale.clamp(min=1e-6)
