"""What the embedded model draws, as two judges see it: seen words, unseen words, phrases, and how varied."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean as mean

import numpy as np
import torch

from dev.bench.studio import PICTURES, photo
from dev.judge import Panel

Pictures = dict[str, torch.Tensor]  # prompt -> [N, 3, 64, 64] in [0, 1]
HALF = 32  # pixels a side of what is looked at of each thing of a pair
SIDE_BY_SIDE = re.compile(r" and | next to | beside ")  # phrases that put the first thing on the left
KID_SUBSET = 100


def prompts_of(words: dict, concepts: dict[str, list[str]]) -> list[str]:
    """Every prompt that this benchmark draws, once each."""
    classes = words["classes"].values()
    single = [word for it in classes for word in [*it["seen"], *it["unseen"]["choose"], *it["unseen"]["test"]]]
    phrases = [phrase for it in classes for split in it["attributes"].values() for phrase in split]
    pairs = [phrase for split in words["pairs"].values() for phrase, *_ in split]
    return list(dict.fromkeys([*map(photo, [*concepts, *single]), *phrases, *pairs, ""]))


def measure(words: dict, concepts: dict[str, list[str]], pictures: Pictures, panel: Panel) -> dict[str, float]:
    """The figures; every share is the mean of both judges' top-1 over PICTURES a prompt."""

    def share(cases: Iterable[tuple[str, str]]) -> float:
        return mean(panel.share_recognised(pictures[prompt], name) for prompt, name in cases)

    def of_classes(pick: Callable[[dict], Iterable[str]]) -> list[tuple[str, str]]:
        return [(prompt, name) for name, entry in words["classes"].items() for prompt in pick(entry)]

    figures = {
        "classes_top1": share((photo(name), name) for name in words["classes"]),
        "concepts_top1": share((photo(name), name) for name in concepts),
        "seen_synonyms_top1": share(of_classes(lambda it: map(photo, it["seen"][1:]))),
        "unseen_synonyms_top1": share(of_classes(lambda it: map(photo, it["unseen"]["test"]))),
        "unseen_synonyms_top1_choose": share(of_classes(lambda it: map(photo, it["unseen"]["choose"]))),
        "attributes_top1": share(of_classes(lambda it: sum(it["attributes"].values(), []))),
        "pairs_both_top1": mean(
            panel.share_recognised(half(pictures[phrase], side), name)
            for split in words["pairs"].values()
            for phrase, *names in split
            if SIDE_BY_SIDE.search(phrase)
            for side, name in enumerate(names)
        ),
    }
    seen = [photo(word) for it in words["classes"].values() for word in it["seen"]]
    single = dict.fromkeys([*map(photo, concepts), *seen])
    figures["judges_agreement"] = panel.agreement(torch.cat([pictures[prompt] for prompt in single]))
    figures["judges_agreement_all"] = panel.agreement(torch.cat(list(pictures.values())))
    return figures


def half(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """The left (0) or right (1) thing of pictures of two, as large as a picture of one."""
    top = (pictures.shape[-2] - HALF) // 2
    part = pictures[:, :, top : top + HALF, side * HALF : (side + 1) * HALF]
    return torch.nn.functional.interpolate(part, scale_factor=2, mode="bilinear")


def compare_with_data(words: dict, pictures: Pictures, panel: Panel) -> dict[str, float]:
    """Kernel distance (KID) to fresh training-style pictures of the ten classes, and diversity relative to theirs.

    Both on judge A's features. The distance of two halves of the data is given beside it: what "no distance" is.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    feature = panel.judges[0].features
    data = fresh_pictures(list(words["classes"]), 2 * PICTURES)
    drawn = {name: pictures[photo(name)] for name in words["classes"]}

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        kid = KernelInceptionDistance(feature=Features(feature), subsets=50, subset_size=KID_SUBSET, normalize=True)
        torch.manual_seed(0)
        kid.update(a, real=True)
        kid.update(b, real=False)
        return kid.compute()[0].item()

    halves = [torch.cat([them[i::2] for them in data.values()]) for i in (0, 1)]
    spread = {which: mean(diversity(feature(them)) for them in its.values()) for which, its in
              (("drawn", drawn), ("data", data))}  # fmt: skip
    return {
        "kid": distance(halves[0], torch.cat(list(drawn.values()))),
        "kid_of_data": distance(*halves),
        "diversity_of_data": spread["drawn"] / spread["data"],
    }


class Features(torch.nn.Module):
    """A feature function as the module that torchmetrics wants."""

    def __init__(self, function) -> None:
        """Wrap `function`, pictures [N, 3, 64, 64] -> [N, D]."""
        super().__init__()
        self.function = function

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features of pictures in uint8, or in [0, 1]."""
        return self.function(pictures / 255 if pictures.dtype == torch.uint8 else pictures).double()


def fresh_pictures(names: list[str], number: int) -> Pictures:
    """Training-style pictures of single things that no training run has drawn."""
    from dev.recipe.scenes import Scenes
    from dev.recipe.sprites import load_sprites, load_things, styles

    scenes = Scenes(load_sprites(styles("train")), load_things())
    rng = np.random.default_rng(20_261_124)
    made = {name: np.stack([scenes.picture_of(name, rng) for _ in range(number)]) for name in names}
    return {name: torch.from_numpy(them).movedim(-1, 1).float() / 255 for name, them in made.items()}


def diversity(features: torch.Tensor) -> float:
    """Mean distance between two pictures of one prompt."""
    return torch.pdist(features).mean().item()


def weights_mib(folder: Path) -> float:
    """The model's weight files together."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 2**20
