"""How far one set of pictures is from another: Frechet distance of their features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from .clip import Clip
from .needs import need
from .pictures import batches, picture_files

Features = Callable[[torch.Tensor], torch.Tensor]
"""uint8 pictures [B, 3, H, W] -> [B, width]."""


def clip_fid(drawn: Path, real: Path, clip: Clip) -> float:
    """CLIP-FID: `fid` of the features of CLIP's image encoder. Its values are not those of Inception's FID."""
    return fid(drawn, real, clip.features)


def fid(drawn: Path, real: Path, features: Features, at_once: int = 32) -> float:
    """Frechet distance between two folders of pictures (torchmetrics'), >= 0; no more than `at_once` in memory.

    It is biased for few pictures: compare only values of equally many. Raises ValueError for a folder with fewer than
    two, and for a picture that cannot be read.
    """
    sides = {True: picture_files(real), False: picture_files(drawn)}
    for folder, files in ((real, sides[True]), (drawn, sides[False])):
        if len(files) < 2:
            raise ValueError(f"{folder} holds {len(files)} pictures: a distance needs at least 2 on each side.")
    first = next(batches(sides[True], 1))
    metric = need("torchmetrics.image.fid").FrechetInceptionDistance(_Module(features, features(first).shape[1]))
    for is_real, files in sides.items():
        for batch in batches(files, at_once):
            metric.update(batch, real=is_real)
    return max(0.0, metric.compute().item())


class _Module(torch.nn.Module):
    """A feature function as torchmetrics wants it."""

    def __init__(self, function: Features, num_features: int):
        super().__init__()
        self.function, self.num_features = function, num_features

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.function(pictures).double().cpu()
