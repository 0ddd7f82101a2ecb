"""Pictures of what the method does: loss curve, probe chart, comparison grid. IMAGE tensors [1, H, W, 3] in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ERASED, UNRELATED, CONTROL = "#d1495b", "#2a7f9e", "#9aa5ad"


def to_image(figure: Figure) -> torch.Tensor:
    """A matplotlib figure as an IMAGE."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(numpy.asarray(canvas.buffer_rgba())[..., :3].copy()).float()[None] / 255


def loss_curve(history: Sequence, goal: float) -> torch.Tensor:
    """The losses and the erasure by iteration (`monitor.Losses`), with their running means.

    An erasure of 1 is where the reference prompt would be, `goal` (1 + g) where the objective pulls.
    """
    panels = (
        ("erasing", "erasing loss", ERASED),
        ("retain", "retain loss", UNRELATED),
        ("erasure", "erasure", "#333333"),
    )
    figure = Figure(figsize=(6.4, 5.6), dpi=100, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=(3, 2, 3))
    for axis, (name, label, colour) in zip(axes, panels, strict=True):
        values = numpy.array([getattr(it, name) for it in history])
        iterations = numpy.arange(1, len(values) + 1)
        axis.plot(iterations, values, color=colour, alpha=0.3, linewidth=1)
        axis.plot(iterations, _running_mean(values), color=colour, linewidth=2)
        axis.set_ylabel(label)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yscale("log", nonpositive="mask")
    for level, what in ((1.0, "reference"), (goal, "goal")):
        axes[2].axhline(level, color=CONTROL, linewidth=1, linestyle="--")
        axes[2].annotate(what, (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9)
    axes[2].set_xlabel("iteration")
    return to_image(figure)


def _running_mean(values: numpy.ndarray, window: int = 20) -> numpy.ndarray:
    sums = numpy.cumsum(numpy.insert(values, 0, 0.0))
    ends = numpy.arange(1, len(values) + 1)
    starts = numpy.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def probe_chart(report: dict) -> torch.Tensor:
    """A probe's report (`Probe.report`) as one line a prompt: its score, its spread, and the threshold between."""
    prompts = sorted(report["prompts"], key=lambda p: p["score"])
    controls = [control["score"] for control in report["controls"]]
    figure = Figure(figsize=(6.4, 1.6 + 0.26 * max(3, len(prompts))), dpi=100, layout="constrained")
    axis = figure.subplots()
    axis.axvspan(report["threshold"], max([report["threshold"], *(p["score"] for p in prompts)]) * 1.05, alpha=0.08,
                 color=ERASED, linewidth=0)  # fmt: skip
    axis.axvline(report["threshold"], color="#333333", linewidth=1.2, linestyle="--")
    axis.text(
        report["threshold"], len(prompts) + 0.35, f"threshold {report['threshold']:.2f}", ha="center", va="bottom"
    )
    axis.scatter(controls, [-1] * len(controls), marker="|", s=120, color=CONTROL)
    for row, prompt in enumerate(prompts):
        colour = ERASED if prompt["erased"] else UNRELATED
        axis.errorbar(prompt["score"], row, xerr=prompt["spread"], fmt="o", color=colour, capsize=2)
    axis.set_yticks(range(-1, len(prompts)), ["control prompts", *(_short(p["prompt"]) for p in prompts)])
    axis.set_ylim(-1.6, len(prompts) + 0.2)
    figure.supxlabel(f"score ({report['mode']}): a prompt beyond the threshold touches the concept", fontsize=10)
    axis.grid(axis="x", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    return to_image(figure)


def _short(prompt: str, longest: int = 40) -> str:
    text = prompt if len(prompt) <= longest else prompt[: longest - 3] + "..."
    return text.replace("$", r"\$") or "(neutral prompt)"


def comparison_grid(rows: Sequence[str], columns: Sequence[str], pictures: torch.Tensor, title: str) -> torch.Tensor:
    """Pictures [rows, columns, N, H, W, 3] in [0, 1] as a labelled table, N side by side in each cell."""
    n_rows, n_columns, n, height, width, _ = pictures.shape
    scale = max(1, 96 // height)
    figure = Figure(
        figsize=(2.2 + n_columns * (n * width * scale + 24) / 100, 0.8 + n_rows * (height * scale + 8) / 100),
        dpi=100,
        layout="constrained",
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    cells = figure.subplots(n_rows, n_columns, squeeze=False)
    for row in range(n_rows):
        for column in range(n_columns):
            cell = cells[row, column]
            cell.imshow(torch.cat(list(pictures[row, column]), 1).numpy(), interpolation="nearest")
            cell.set_xticks([])
            cell.set_yticks([])
            cell.spines[:].set_visible(False)
        cells[row, 0].set_ylabel(_short(rows[row]), rotation=0, ha="right", va="center", fontsize=10)
    for column, label in enumerate(columns):
        cells[0, column].set_title(label, fontsize=11)
    return to_image(figure)
