"""Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal. Small convolutions learn twice as fast.

torch's own Muon takes matrices only, no convolution kernels.
"""

from __future__ import annotations

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration, chosen by Jordan to raise small singular values quickly."""


class Muon(torch.optim.Optimizer):
    """For convolution kernels, each taken as a matrix [outputs, inputs * height * width]."""

    def __init__(self, parameters, lr: float = 0.02, momentum: float = 0.9, weight_decay: float = 0.1):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Update every kernel once."""
        for group in self.param_groups:
            for kernel in group["params"]:
                average = self.state[kernel].setdefault("average", torch.zeros_like(kernel))
                average.mul_(group["momentum"]).add_(kernel.grad)
                update = orthogonal(kernel.grad + group["momentum"] * average)
                tall = max(1.0, kernel.shape[0] / kernel[0].numel()) ** 0.5
                kernel.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * tall)


def orthogonal(kernel: torch.Tensor, iterations: int = 4) -> torch.Tensor:
    """The kernel with its singular values brought near 1."""
    matrix = kernel.flatten(1).bfloat16()
    tall = matrix.shape[0] > matrix.shape[1]
    matrix = matrix.T if tall else matrix
    matrix = matrix / (matrix.norm() + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        square = matrix @ matrix.T
        matrix = a * matrix + (b * square + c * square @ square) @ matrix
    return (matrix.T if tall else matrix).float().view_as(kernel)
