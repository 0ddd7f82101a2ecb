"""The pictures with what they were taken for, as an IMAGE."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from ..figures import ERASED, UNRELATED, to_image
from ..page import for_page
from .pictures import as_bytes

MOST, ACROSS = 64, 8  # pictures shown, and in a row
SIDE, TEXT, GAP = 1.5, 0.42, 0.12  # inches
LETTERS = 13  # of the heading, in an inch


def answers_chart(
    pictures: torch.Tensor, readings: Sequence[dict], expected: str, heading: Sequence[str]
) -> torch.Tensor:
    """Pictures [N, 3, H, W] in a grid, each with its winner and probability below, red where it is what was expected.

    IMAGE [1, H, W, 3] in [0, 1]. Shows the first 64. `heading` are the lines above it.
    """
    shown = as_bytes(pictures[:MOST])
    columns = min(len(shown), ACROSS)
    rows = math.ceil(len(shown) / columns)
    width = max(columns * (SIDE + GAP) + GAP, min(4.5, max(map(len, heading)) / LETTERS + 2 * GAP))
    head = 0.1 + 0.2 * len(heading)
    height = head + rows * (SIDE + TEXT + GAP) + GAP
    figure = Figure(figsize=(width, height), dpi=100)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, width), ylim=(height, 0))  # in inches, from the top
    axis.set_axis_off()
    if len(pictures) > len(shown):
        heading = [*heading[:-1], f"{heading[-1]} (here are the first {len(shown)})"]
    for line, text in enumerate(heading):
        text = _short(text, int(LETTERS * width))
        axis.text(GAP, 0.18 + 0.2 * line, text, fontsize=10, va="center", parse_math=False)
    for place, (picture, reading) in enumerate(zip(shown, readings, strict=False)):
        left = GAP + place % columns * (SIDE + GAP)
        top = head + 0.05 + place // columns * (SIDE + TEXT + GAP)
        _show(axis, picture, left, top)
        colour = ERASED if reading["winner"] == expected else UNRELATED
        for line, text in enumerate((_short(reading["winner"]), f"{100 * reading['probability']:.0f} %")):
            axis.text(left + SIDE / 2, top + SIDE + 0.12 + 0.18 * line, text, fontsize=9, color=colour, ha="center",
                      va="center", parse_math=False)  # fmt: skip
    return to_image(figure)


def _show(axis, picture: torch.Tensor, left: float, top: float) -> None:
    """The picture, as large as the cell holds it, in its middle."""
    _, height, width = picture.shape
    wide, high = (SIDE * side / max(height, width) for side in (width, height))
    x, y = left + (SIDE - wide) / 2, top + (SIDE - high) / 2
    smooth = "antialiased" if max(height, width) > 100 * SIDE else "nearest"
    axis.imshow(picture.movedim(0, -1).numpy(), extent=(x, x + wide, y + high, y), interpolation=smooth, aspect="auto")


def _short(name: str, longest: int = 22) -> str:
    name = for_page(" ".join(name[: 2 * longest].split()))
    return name if len(name) <= longest else name[: longest - 3] + "..."
