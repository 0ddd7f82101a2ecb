"""A third opinion without any training: histograms of oriented gradients, and the nearest known sprites.

It needs the sprite cache (`dev.recipe.sprites`), scikit-image and scikit-learn, so only the recipe and the benchmark
use it.
"""

from __future__ import annotations

import numpy as np
import torch
from skimage.feature import hog
from sklearn.neighbors import KNeighborsClassifier

from dev.recipe.scenes import SINGLE_SIZES
from dev.recipe.sprites import load_sprites, load_things, on_background, styles

NEIGHBOURS = 3
WHITE = (255, 255, 255)


class HogJudge:
    """The vote of the nearest of the training styles' sprites, drawn at the picture model's sizes, both ways round."""

    def __init__(self) -> None:
        """Compute the features of every sprite: a few seconds."""
        scenes = {name for name, thing in load_things()["things"].items() if thing.get("scene")}
        examples = [
            (features(on_background(sprite, size, WHITE)[:, ::direction]), name)
            for name, sprites in load_sprites(styles("train")).items()
            if name not in scenes
            for sprite in sprites
            for size in SINGLE_SIZES
            for direction in (1, -1)
        ]
        vectors, names = zip(*examples, strict=True)
        self.neighbours = KNeighborsClassifier(NEIGHBOURS, weights="distance", metric="cosine", n_jobs=1)
        self.neighbours.fit(np.stack(vectors), names)

    def answers(self, pictures: torch.Tensor) -> list[str]:
        """[B, 3, 64, 64] in [0, 1] -> the name of a thing (never a scene, never "none") for each."""
        return list(self.neighbours.predict([features(picture) for picture in pictures.movedim(1, -1).numpy()]))


def features(picture: np.ndarray) -> np.ndarray:
    """[H, W, 3] in [0, 1] -> its histograms of oriented gradients, of length 1."""
    cells = {"orientations": 9, "pixels_per_cell": (8, 8), "cells_per_block": (2, 2)}
    vector = hog(picture, **cells, transform_sqrt=True, channel_axis=-1)
    return vector / max(np.linalg.norm(vector), 1e-6)
