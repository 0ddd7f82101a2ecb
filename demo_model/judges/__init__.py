"""Two picture classifiers for the embedded model: which thing a 64 x 64 picture shows, or "none" of them.

`dev.recipe.judges` trains each on six or seven emoji styles of its own; `dev.recipe.judge_report` measures how
reliable they are on a style that neither was trained on.
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
SIDE = 64  # of the pictures that they were trained on, in pixels


class Judge(nn.Module):
    """A classifier: pictures [B, 3, 64, 64] in [0, 1] -> logits [B, things + 1], of which the last is for "none".

    `names` are the things, in the order of the logits.
    """

    def __init__(self, which: str = "a", folder: Path = FOLDER) -> None:
        """Judge "a" or "b", with the trained weights in `folder`."""
        super().__init__()
        config = json.loads((folder / "judges.json").read_text(encoding="utf-8"))
        self.names: list[str] = config["names"]
        self.temperature: float = config["judges"][which]["temperature"]
        self.network = NETWORKS[which](len(self.names) + 1)
        weights = load_file(folder / f"{which}.safetensors")
        counters = {name for name in self.network.state_dict() if name.endswith("num_batches_tracked")}
        missing, unexpected = self.network.load_state_dict(weights, strict=False)
        if set(missing) - counters or unexpected:
            raise ValueError(f"{which}.safetensors does not fit its network: train it again with dev.recipe.judges")
        self.float().eval()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """The logits, as the mean over each picture and its mirror image."""
        views = (pictures * 2 - 1, pictures.flip(-1) * 2 - 1)
        return sum(self.network(view) for view in views) / 2

    @torch.no_grad()
    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """The inputs of the last layer, [B, width], as features for measures of distance and variety."""
        return self.network.body(pictures * 2 - 1)

    @torch.no_grad()
    def probabilities(self, pictures: torch.Tensor) -> torch.Tensor:
        """The probabilities [B, things + 1], calibrated: of the answers given with 0.8, about 80 % are correct."""
        return (self(pictures) / self.temperature).softmax(1)

    @torch.no_grad()
    def recognised(self, pictures: torch.Tensor, name: str) -> torch.Tensor:
        """Whether each picture is classified as `name` (top-1), bool [B]."""
        return self(pictures).argmax(1) == self.names.index(name)

    def share_recognised(self, pictures: torch.Tensor, name: str) -> float:
        """The share of the pictures classified as `name`, from 0 to 1."""
        return self.recognised(pictures, name).float().mean().item()

    def answers(self, pictures: torch.Tensor) -> list[str]:
        """The name of what each picture shows: a thing, or "none"."""
        return [[*self.names, NONE][index] for index in self.probabilities(pictures).argmax(1).tolist()]


class JudgePair:
    """Both judges, whose answers count equally."""

    def __init__(self, folder: Path = FOLDER) -> None:
        """Load the trained weights in `folder`."""
        self.judges = [Judge(which, folder) for which in NETWORKS]
        self.names = self.judges[0].names

    def ensemble_arguments(self) -> tuple[list, list[str], int]:
        """The arguments of `unguide_ops.metrics.classifiers.Ensemble`: networks, names, side of the pictures."""
        return [judge.probabilities for judge in self.judges], [*self.names, NONE], SIDE

    def share_recognised(self, pictures: torch.Tensor, name: str) -> float:
        """The share of the pictures classified as `name`, from 0 to 1, as the mean over both judges."""
        return sum(judge.share_recognised(pictures, name) for judge in self.judges) / len(self.judges)

    def disagreements(self, pictures: torch.Tensor) -> list[tuple[int, str, str]]:
        """Index of the picture, judge A's answer and judge B's answer, for each picture on which they differ."""
        answers = zip(*(judge.answers(pictures) for judge in self.judges), strict=True)
        return [(index, a, b) for index, (a, b) in enumerate(answers) if a != b]

    def agreement(self, pictures: torch.Tensor) -> float:
        """The share of the pictures on which both judges give the same answer, from 0 to 1."""
        return 1 - len(self.disagreements(pictures)) / len(pictures)
