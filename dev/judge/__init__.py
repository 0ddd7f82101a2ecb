"""The first judge: a small picture classifier over the 54 things the embedded model draws.

Trained on the same emoji styles as the model (99.8 %), it is too weak to be trusted on styles it has not seen (57 %
on the ten classes): good enough for the embedded model's own pictures, no more.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

FOLDER = Path(__file__).parent
CHANNELS = (3, 24, 32, 64, 64, 128, 128, 160)
STRIDES = (2, 1, 2, 1, 2, 1, 2)


class Judge(nn.Module):
    """Seven convolutions and a linear layer: pictures [B, 3, 64, 64] in [0, 1] -> logits [B, 54]."""

    def __init__(self) -> None:
        """With the trained weights."""
        super().__init__()
        self.names: list[str] = json.loads((FOLDER / "judge.json").read_text(encoding="utf-8"))["names"]
        layers = [
            nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.GELU())
            for a, b, stride in zip(CHANNELS, CHANNELS[1:], STRIDES, strict=False)
        ]
        pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout())
        self.f = nn.Sequential(*layers, *pool, nn.Linear(CHANNELS[-1], len(self.names)))
        self.load_state_dict(load_file(FOLDER / "judge.safetensors"))
        self.float().eval()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """The logits."""
        return self.f(pictures * 2 - 1)

    @torch.no_grad()
    def share_recognised(self, pictures: torch.Tensor, name: str) -> float:
        """How many of the pictures are taken for `name` before all others (top-1), between 0 and 1."""
        return (self(pictures).argmax(1) == self.names.index(name)).float().mean().item()
