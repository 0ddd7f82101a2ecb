"""The two judges' networks, of different architectures so that they seldom make the same mistake."""

from __future__ import annotations

import torch
from torch import nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, bias=False)
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""
        y = self.first_norm(self.first(x)).relu()
        return (self.second_norm(self.second(y)) + self.shortcut(self.pool(x))).relu()


class ResidualNetwork(nn.Module):
    """Judge A: a small residual network with average pooling."""

    def __init__(self, classes: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 24, 5, 2, 2, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
            ResidualBlock(24, 48, 2), ResidualBlock(48, 48), ResidualBlock(48, 80, 2), ResidualBlock(80, 80),
            ResidualBlock(80, 144, 2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(144, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, 64, 64] -> [B, classes]."""
        return self.head(self.body(x))


class DenseBlock(nn.Module):
    """A dense block: each convolution reads the outputs of all before it."""

    def __init__(self, inputs: int, growth: int, depth: int):
        super().__init__()
        widths = range(inputs, inputs + growth * depth, growth)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(w, growth, 3, 1, 1, bias=False), nn.BatchNorm2d(growth), nn.LeakyReLU(0.1))
            for w in widths
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, inputs, H, W] -> [B, inputs + growth * depth, H, W]."""
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class AttentionPool(nn.Module):
    """Attention pooling: an average over all positions, with weights that it computes from them."""

    def __init__(self, width: int):
        super().__init__()
        self.look = nn.Conv2d(width, 1, 1)  # the attribute is part of the names in the weights' file

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, width, H, W] -> [B, width]."""
        return (x.flatten(2) * self.look(x).flatten(2).softmax(2)).sum(2)


class DenseNetwork(nn.Module):
    """Judge B: 4x4 patches, two dense blocks, attention pooling."""

    def __init__(self, classes: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.PixelUnshuffle(4), nn.Conv2d(48, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.LeakyReLU(0.1),
            DenseBlock(64, 32, 4), nn.Conv2d(192, 96, 1), nn.AvgPool2d(2),
            DenseBlock(96, 40, 5), nn.Conv2d(296, 160, 1, bias=False), nn.BatchNorm2d(160), nn.LeakyReLU(0.1),
            AttentionPool(160),
        )  # fmt: skip
        self.head = nn.Linear(160, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, 64, 64] -> [B, classes]."""
        return self.head(self.body(x))


NETWORKS = {"a": ResidualNetwork, "b": DenseNetwork}
