"""Frechet distance (FID) between two folders of pictures, with features of CLIP or of any other network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from .clip import Clip
from .optional_import import require
from .pictures import batches, picture_files

Features = Callable[[torch.Tensor], torch.Tensor]
"""uint8 pictures [B, 3, H, W] -> [B, width]."""


def clip_fid(generated: Path, real: Path, clip: Clip) -> float:
    """CLIP-FID: `fid` of the features of CLIP's image encoder. Its values are not those of Inception's FID."""
    return fid(generated, real, clip.features)


def fid(generated: Path, real: Path, features: Features, batch_size: int = 32) -> float:
    """Frechet distance between two folders of pictures (torchmetrics'), >= 0; at most `batch_size` are in memory.

    It is biased for few pictures: compare only values of equally many. Raises ValueError for a folder with fewer than
    two, and for a picture that cannot be read.
    """
    real_files, generated_files = picture_files(real), picture_files(generated)
    for folder, files in ((real, real_files), (generated, generated_files)):
        if len(files) < 2:
            raise ValueError(f"{folder} holds {len(files)} pictures: a distance needs at least 2 on each side.")
    first = next(batches(real_files, 1))
    metric = require("torchmetrics.image.fid").FrechetInceptionDistance(
        _FeatureModule(features, features(first).shape[1])
    )
    for is_real, files in ((True, real_files), (False, generated_files)):
        for batch in batches(files, batch_size):
            metric.update(batch, real=is_real)
    return max(0.0, metric.compute().item())


class _FeatureModule(torch.nn.Module):
    """A feature function in the form that torchmetrics requires."""

    def __init__(self, function: Features, num_features: int):
        super().__init__()
        self.function, self.num_features = function, num_features

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.function(pictures).double().cpu()
