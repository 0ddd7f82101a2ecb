"""What the card sees in pictures: things, by both judges; colours, counts and likeness, by pixels."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy import ndimage
from torchmetrics.functional.image import structural_similarity_index_measure
from unguide.demo_model.judges import JudgePair

from dev.bench.card.prompts import BACKGROUND, COLOUR, SECOND, CardPrompt
from dev.bench.model import half
from dev.recipe.sprites import load_things

UNSURE = 0.5  # below this probability of the most probable thing, a judge does not know what it sees
BORDER = 3  # pixels at the edge that count as background
DIFFERENT = 40.0  # distance of a colour from the background's, of 442 at most, from which it belongs to a thing
SMALLEST = 24  # pixels of a thing that is counted
RIGHT = 1  # the half of the picture with the thing that is named second


@functools.cache
def judges() -> JudgePair:
    """A worker's two judges."""
    return JudgePair()


def seen(pictures: torch.Tensor) -> list[list[str]]:
    """What each judge sees in each picture [N, 3, 64, 64] in [0, 1]: N pairs of names."""
    return [list(pair) for pair in zip(*(judge.answers(pictures) for judge in judges().judges), strict=True)]


def shares(pairs: Iterable[Sequence[str]], thing: str) -> list[float]:
    """Of each picture whose pair of names is given, the share of judges that see the thing."""
    return [sum(name == thing for name in pair) / len(pair) for pair in pairs]


def unsure(pictures: torch.Tensor) -> list[float]:
    """Of each picture, the share of judges that do not know what it shows: an artefact, or none of their things."""
    sure = [judge.probabilities(pictures)[:, :-1].max(1).values >= UNSURE for judge in judges().judges]
    return (1 - torch.stack(sure).float().mean(0)).tolist()


def features(pictures: torch.Tensor) -> torch.Tensor:
    """Judge A's features, [N, width]."""
    return judges().judges[0].features(pictures)


def distances(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    """1 - cosine of the features of each pair of pictures: 0 for the same."""
    return (1 - torch.nn.functional.cosine_similarity(features(a), features(b))).clamp_min(0).tolist()


def likeness(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    """SSIM of each pair of pictures: 1 for the same."""
    return structural_similarity_index_measure(a, b, data_range=1.0, reduction="none").tolist()


def kid(a: torch.Tensor, b: torch.Tensor) -> float:
    """Kernel distance (KID, unbiased) of two sets of pictures on judge A's features, normed: 0 for the same set.

    The kernel is KID's polynomial one, (x . y / width + 1) ** 3, over all pairs.
    """
    x, y = (torch.nn.functional.normalize(it).double() * it.shape[1] ** 0.5 for it in (features(a), features(b)))

    def kernel(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return (p @ q.T / p.shape[1] + 1) ** 3

    def within(p: torch.Tensor) -> torch.Tensor:
        values = kernel(p, p)
        return (values.sum() - values.diagonal().sum()) / (len(p) * (len(p) - 1))

    return (within(x) + within(y) - 2 * kernel(x, y).mean()).item()


def diversity(pictures: torch.Tensor) -> float:
    """The mean distance of the features of two pictures of the same prompt."""
    return torch.pdist(torch.nn.functional.normalize(features(pictures))).mean().item()


def saturation(pictures: torch.Tensor) -> list[float]:
    """The mean saturation (HSV) of each picture, 0 to 1."""
    high, low = pictures.amax(1), pictures.amin(1)
    return ((high - low) / high.clamp_min(1e-6)).flatten(1).mean(1).tolist()


def clipped(pictures: np.ndarray) -> list[float]:
    """The share of each picture's values, uint8, that are at either end."""
    return ((pictures == 0) | (pictures == 255)).reshape(len(pictures), -1).mean(1).tolist()


def rest_is_right(prompt: CardPrompt, pictures: np.ndarray) -> list[float]:
    """Whether each picture, uint8 [N, 3, 64, 64], shows what the prompt says beside the class: 0 to 1."""
    if prompt.part == SECOND:
        views = half(torch.from_numpy(pictures).float() / 255, RIGHT)
        return shares(seen(views), str(prompt.rest))
    grounds = [background(picture) for picture in pictures]
    if prompt.part == BACKGROUND:
        return [float(name == prompt.rest) for name in nearest_colours(np.stack(grounds))]
    masks = [
        np.linalg.norm(picture - ground[:, None, None], axis=0) > DIFFERENT
        for picture, ground in zip(pictures, grounds, strict=True)
    ]
    if prompt.part == COLOUR:
        return [colour_is(picture, mask, str(prompt.rest)) for picture, mask in zip(pictures, masks, strict=True)]
    return [float(count(mask) == prompt.rest) for mask in masks]


def background(picture: np.ndarray) -> np.ndarray:
    """The median colour of the picture's edge, [3]."""
    edge = np.ones(picture.shape[1:], bool)
    edge[BORDER:-BORDER, BORDER:-BORDER] = False
    return np.median(picture[:, edge], 1)


@functools.cache
def colours() -> tuple[list[str], np.ndarray]:
    """The names of the recipe's colours, and their RGB values [colours, 3]."""
    values = load_things()["colours"]
    return list(values), np.array(list(values.values()))


def nearest_colours(pixels: np.ndarray) -> list[str]:
    """Of each pixel [N, 3], the name of the recipe's colour that is nearest."""
    names, values = colours()
    return [names[index] for index in np.linalg.norm(pixels[:, None] - values, axis=2).argmin(1)]


def colour_is(picture: np.ndarray, mask: np.ndarray, wanted: str) -> float:
    """Whether more of the thing has the wanted colour than any other colour but black, white and grey."""
    pixels = picture[:, mask].T[::4]
    names = [name for name in nearest_colours(pixels) if name not in ("black", "white", "grey")]
    return float(bool(names) and max(set(names), key=names.count) == wanted)


def count(mask: np.ndarray) -> int:
    """How many separate things there are on the background."""
    labels, number = ndimage.label(ndimage.binary_opening(mask))
    return int((np.bincount(labels.ravel(), minlength=number + 1)[1:] >= SMALLEST).sum())
