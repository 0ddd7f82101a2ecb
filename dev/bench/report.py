"""What the benchmarks write: tables in Markdown, grids of pictures, and the files that hold them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from unguide.unguide_ops.metrics.tables import markdown
from unguide.unguide_ops.plots import comparison_grid

Pictures = dict[str, torch.Tensor]
"""Prompt -> pictures [N, 3, H, W] in [0, 1]."""
SHEET_PICTURES = 8  # per prompt in a sheet


def table(rows: Iterable[Mapping], digits: str = ".3f") -> str:
    """The rows as a Markdown table with the first row's keys as its heads; floats are formatted with `digits`."""
    return markdown(
        [{head: format(it, digits) if isinstance(it, float) else it for head, it in row.items()} for row in rows]
    )


def figures_table(figures: Mapping[str, float], digits: str = ".3f") -> str:
    """The figures, a row each."""
    return table([{"figure": f"`{name}`", "value": format(value, digits)} for name, value in figures.items()])


def write(path: Path, result: dict, text: str) -> None:
    """Write `path`.json and `path`.md."""
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(text, encoding="utf-8")


def as_floats(pictures: np.ndarray) -> torch.Tensor:
    """Pictures in uint8 as a tensor in [0, 1]."""
    return torch.from_numpy(pictures).float() / 255


def grid(rows: Sequence[str], columns: Sequence[str], cells: Iterable[Iterable[Iterable[torch.Tensor]]]) -> Image.Image:
    """A labelled table of pictures [3, H, W] in [0, 1], equally many in each cell."""
    pictures = torch.stack([torch.stack([torch.stack([*cell]) for cell in row]) for row in cells]).movedim(3, -1)
    return as_image(comparison_grid(rows, columns, pictures, "")[0])


def sheet(lines: Sequence[tuple[str, torch.Tensor]], columns: int = 2) -> Image.Image:
    """The first SHEET_PICTURES of (label, pictures [N, 3, H, W]) beside each label, in so many columns."""
    rows, parts = -(-len(lines) // columns), []
    for start in range(0, len(lines), rows):
        labels, pictures = zip(*lines[start : start + rows], strict=True)
        cells = torch.stack([them[:SHEET_PICTURES].movedim(1, -1) for them in pictures])[:, None]
        parts.append(comparison_grid(labels, [""], cells, "")[0])
    height = max(part.shape[0] for part in parts)
    padded = [torch.nn.functional.pad(part, (0, 0, 0, 0, 0, height - part.shape[0]), value=1.0) for part in parts]
    return as_image(torch.cat(padded, 1))


def as_image(picture: torch.Tensor) -> Image.Image:
    """A picture [H, W, 3] in [0, 1] as Pillow's."""
    return Image.fromarray((picture * 255).round().byte().numpy())
