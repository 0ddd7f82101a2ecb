"""The judges: two picture classifiers that say which thing a 64x64 picture shows, or "none" of them.

Trained by `dev.recipe.judges` on six or seven emoji styles, each on others; `dev.recipe.judge_report` says how far they
can be trusted on a style that neither has seen.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from .networks import NETWORKS

FOLDER = Path(__file__).parent
NONE = "none"
SIDE = 64  # pixels of the pictures that they were trained on


class Judge(nn.Module):
    """Judge "a" or "b": pictures [B, 3, 64, 64] in [0, 1] -> logits [B, things + 1], the last one for "none".

    `names` are the things; a class number that equals their count means none of them.
    """

    def __init__(self, which: str = "a", folder: Path = FOLDER) -> None:
        """With the trained weights in `folder`."""
        super().__init__()
        known = json.loads((folder / "judges.json").read_text(encoding="utf-8"))
        self.names: list[str] = known["names"]
        self.temperature: float = known["judges"][which]["temperature"]
        self.network = NETWORKS[which](len(self.names) + 1)
        weights = load_file(folder / f"{which}.safetensors")
        counters = {name for name in self.network.state_dict() if name.endswith("num_batches_tracked")}
        missing, unexpected = self.network.load_state_dict(weights, strict=False)
        if set(missing) - counters or unexpected:
            raise ValueError(f"{which}.safetensors does not fit its network: train it again with dev.recipe.judges")
        self.float().eval()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """The logits, averaged over the picture and its mirror image."""
        views = (pictures * 2 - 1, pictures.flip(-1) * 2 - 1)
        return sum(self.network(view) for view in views) / 2

    @torch.no_grad()
    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """[B, width]: what the judge's last layer sees, for measures of distance and variety."""
        return self.network.body(pictures * 2 - 1)

    @torch.no_grad()
    def probabilities(self, pictures: torch.Tensor) -> torch.Tensor:
        """[B, things + 1]: calibrated, so that of the answers given with 0.8 about 80 % are right."""
        return (self(pictures) / self.temperature).softmax(1)

    @torch.no_grad()
    def recognised(self, pictures: torch.Tensor, name: str) -> torch.Tensor:
        """Which of the pictures are taken for `name` before all else (top-1), bool [B]."""
        return self(pictures).argmax(1) == self.names.index(name)

    def share_recognised(self, pictures: torch.Tensor, name: str) -> float:
        """How many of the pictures are taken for `name`, between 0 and 1."""
        return self.recognised(pictures, name).float().mean().item()

    def answers(self, pictures: torch.Tensor) -> list[str]:
        """What each picture shows, in a word: a thing's name or "none"."""
        return [[*self.names, NONE][index] for index in self.probabilities(pictures).argmax(1).tolist()]


class Panel:
    """Both judges, with equal votes."""

    def __init__(self, folder: Path = FOLDER) -> None:
        """With the trained weights in `folder`."""
        self.judges = [Judge(which, folder) for which in NETWORKS]
        self.names = self.judges[0].names

    def committee(self) -> tuple[list, list[str], int]:
        """What a `Committee` of `unguide_ops.metrics` is made of: who votes, on which names, pictures of which side."""
        return [judge.probabilities for judge in self.judges], [*self.names, NONE], SIDE

    def share_recognised(self, pictures: torch.Tensor, name: str) -> float:
        """The share of pictures taken for `name`, between 0 and 1: the mean of both judges."""
        return sum(judge.share_recognised(pictures, name) for judge in self.judges) / len(self.judges)

    def disagreements(self, pictures: torch.Tensor) -> list[tuple[int, str, str]]:
        """(number of the picture, judge A's answer, judge B's answer) wherever these differ."""
        answers = zip(*(judge.answers(pictures) for judge in self.judges), strict=True)
        return [(index, a, b) for index, (a, b) in enumerate(answers) if a != b]

    def agreement(self, pictures: torch.Tensor) -> float:
        """The share of pictures about which both say the same, between 0 and 1."""
        return 1 - len(self.disagreements(pictures)) / len(pictures)
