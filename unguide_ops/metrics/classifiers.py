"""Who says what a picture shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from .pictures import resized


class Classifier(Protocol):
    """Tells what pictures show."""

    names: Sequence[str]
    """What it knows."""

    def logits(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures [B, 3, H, W], uint8 or in [0, 1] -> [B, names]; their softmax is the probability of each name."""
        ...


class Committee:
    """A classifier of several networks with equal votes: its probabilities are the mean of theirs."""

    def __init__(self, members: Sequence[Callable[[torch.Tensor], torch.Tensor]], names: Sequence[str], side: int):
        """`members` make probabilities [B, names] of pictures [B, 3, side, side] in [0, 1]."""
        self.names, self._members, self._side = list(names), members, side

    @torch.no_grad()
    def logits(self, pictures: torch.Tensor) -> torch.Tensor:
        """As in `Classifier`."""
        pictures = resized(pictures, self._side)
        votes = torch.stack([member(pictures) for member in self._members])
        return votes.mean(0).clamp_min(torch.finfo(votes.dtype).tiny).log()
