"""Classifiers of pictures: what one must provide, and an ensemble of several networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from .pictures import resized


class Classifier(Protocol):
    """Anything that tells how likely a picture shows each of some classes."""

    names: Sequence[str]
    """Of the classes."""

    def logits(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures [B, 3, H, W], uint8 or in [0, 1] -> [B, names]; their softmax is the probability of each class."""
        ...


class Ensemble:
    """A classifier of several networks with equal votes: its probabilities are the mean of theirs."""

    def __init__(self, members: Sequence[Callable[[torch.Tensor], torch.Tensor]], names: Sequence[str], side: int):
        """`members` map pictures [B, 3, side, side] in [0, 1] to probabilities [B, names]."""
        self.names, self._members, self._side = list(names), members, side

    @torch.no_grad()
    def logits(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures [B, 3, H, W], uint8 or in [0, 1] -> the logarithm of the mean probabilities, [B, names]."""
        pictures = resized(pictures, self._side)
        votes = torch.stack([member(pictures) for member in self._members])
        return votes.mean(0).clamp_min(torch.finfo(votes.dtype).tiny).log()
