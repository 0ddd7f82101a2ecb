"""A grid of pictures with what a classifier took each for, as an IMAGE."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..plots import ERASED, UNRELATED, to_image
from ..safe_text import without_markup
from .pictures import as_bytes

MOST_PICTURES = 64  # in the grid
MOST_COLUMNS = 8
SIDE, TEXT, GAP = 1.5, 0.42, 0.12  # inches: of a picture, the text below it, and between pictures
LETTERS_PER_INCH = 13  # in the heading
MOST_LETTERS = 22  # of a name below a picture


def labelled_grid(
    pictures: torch.Tensor, readings: Sequence[dict], expected: str, heading: Sequence[str]
) -> torch.Tensor:
    """Pictures [N, 3, H, W] in a grid, each with its winner and probability below, in red if it is the expected class.

    `readings` as in `evaluation`'s reports, `heading` the lines above the grid. IMAGE [1, H, W, 3] in [0, 1]. Only the
    first 64 pictures are drawn.
    """
    drawn = as_bytes(pictures[:MOST_PICTURES])
    columns = min(len(drawn), MOST_COLUMNS)
    rows = math.ceil(len(drawn) / columns)
    width = max(columns * (SIDE + GAP) + GAP, min(4.5, max(map(len, heading)) / LETTERS_PER_INCH + 2 * GAP))
    heading_height = 0.1 + 0.2 * len(heading)
    height = heading_height + rows * (SIDE + TEXT + GAP) + GAP
    figure = Figure(figsize=(width, height), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))  # in inches, from the top
    axes.set_axis_off()
    if len(pictures) > len(drawn):
        heading = [*heading[:-1], f"{heading[-1]} (here are the first {len(drawn)})"]
    for line, text in enumerate(heading):
        text = _shortened(text, int(LETTERS_PER_INCH * width))
        axes.text(GAP, 0.18 + 0.2 * line, text, fontsize=10, va="center", parse_math=False)
    for index, (picture, reading) in enumerate(zip(drawn, readings, strict=False)):
        x = GAP + index % columns * (SIDE + GAP)
        y = heading_height + 0.05 + index // columns * (SIDE + TEXT + GAP)
        _draw_picture(axes, picture, x, y)
        colour = ERASED if reading["winner"] == expected else UNRELATED
        labels = (_shortened(reading["winner"], MOST_LETTERS), f"{100 * reading['probability']:.0f} %")
        for line, text in enumerate(labels):
            axes.text(x + SIDE / 2, y + SIDE + 0.12 + 0.18 * line, text, fontsize=9, color=colour, ha="center",
                      va="center", parse_math=False)  # fmt: skip
    return to_image(figure)


def _draw_picture(axes: Axes, picture: torch.Tensor, x: float, y: float) -> None:
    """Draw a picture [3, H, W] centred in the cell at x, y, as large as fits."""
    _, rows, columns = picture.shape
    width, height = (SIDE * pixels / max(rows, columns) for pixels in (columns, rows))
    x, y = x + (SIDE - width) / 2, y + (SIDE - height) / 2
    interpolation = "antialiased" if max(rows, columns) > 100 * SIDE else "nearest"
    pixels = picture.movedim(0, -1).numpy()
    axes.imshow(pixels, extent=(x, x + width, y + height, y), interpolation=interpolation, aspect="auto")


def _shortened(text: str, most: int) -> str:
    text = without_markup(" ".join(text[: 2 * most].split()))
    return text if len(text) <= most else text[: most - 3] + "..."
