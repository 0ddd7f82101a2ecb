"""A third opinion without any training: histograms of oriented gradients, and the nearest known sprites.

It needs the sprite cache (`dev.recipe.sprites`), scikit-image and scikit-learn, so it serves the recipe and the
benchmark alone.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from skimage.feature import hog
from sklearn.neighbors import KNeighborsClassifier

from dev.recipe.sprites import load_sprites, load_things, styles

SIZES = (52, 44)
NEIGHBOURS = 3


class HogJudge:
    """The vote of the nearest of the training styles' sprites, drawn at the picture model's sizes, both ways round."""

    def __init__(self) -> None:
        """Looks at every sprite once: a few seconds."""
        scenes = {name for name, thing in load_things()["things"].items() if thing.get("scene")}
        known = [
            (features(_drawn(sprite, size)[:, ::way]), name)
            for name, sprites in load_sprites(styles("train")).items()
            if name not in scenes
            for sprite in sprites
            for size in SIZES
            for way in (1, -1)
        ]
        vectors, names = zip(*known, strict=True)
        self.neighbours = KNeighborsClassifier(NEIGHBOURS, weights="distance", metric="cosine", n_jobs=1)
        self.neighbours.fit(np.stack(vectors), names)

    def answers(self, pictures: torch.Tensor) -> list[str]:
        """[B, 3, 64, 64] in [0, 1] -> the name of a thing (never a scene, never "none") for each."""
        return list(self.neighbours.predict([features(picture) for picture in pictures.movedim(1, -1).numpy()]))


def features(picture: np.ndarray) -> np.ndarray:
    """[H, W, 3] in [0, 1] -> its histograms of oriented gradients, of length 1."""
    cells = {"orientations": 9, "pixels_per_cell": (8, 8), "cells_per_block": (2, 2)}
    shape = hog(picture, **cells, transform_sqrt=True, channel_axis=-1)
    return shape / max(np.linalg.norm(shape), 1e-6)


def _drawn(sprite: np.ndarray, size: int) -> np.ndarray:
    """A sprite in the middle of a white picture, [64, 64, 3] in [0, 1]."""
    small = Image.fromarray(sprite).resize((size, size), Image.Resampling.LANCZOS)
    picture = Image.new("RGBA", (64, 64), "white")
    picture.alpha_composite(small, ((64 - size) // 2, (64 - size) // 2))
    return np.asarray(picture.convert("RGB"), np.float32) / 255
