"""The nodes' charts and picture grids, drawn with matplotlib as IMAGE tensors [1, H, W, 3] in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .gate.calibration import Calibration
from .safe_text import without_markup

ERASED, UNRELATED, CONTROL = "#d1495b", "#2a7f9e", "#9aa5ad"
MOST_PROMPTS = 40  # in a chart
WIDTH_OF_A_LETTER = 0.85  # in pixels at 100 dpi, in units of the font's size in points


def to_image(figure: Figure) -> torch.Tensor:
    """A matplotlib figure as an IMAGE [1, H, W, 3] in [0, 1]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(numpy.asarray(canvas.buffer_rgba())[..., :3].copy()).float()[None] / 255


def loss_curve(history: Sequence, goal: float) -> torch.Tensor:
    """Losses and erasure by iteration, with their running means; `history` holds a `training.metrics.IterationMetrics`
    for each.

    Dashed lines mark the erasure of a LoRA that predicts the reference prompt's prediction, 1, and the one at which the
    erasing loss is zero, `goal` = 1 + g.
    """
    panels = (
        ("erasing", "erasing loss", ERASED),
        ("retain", "retain loss", UNRELATED),
        ("erasure", "erasure", "#333333"),
    )
    figure = Figure(figsize=(6.4, 5.6), dpi=100, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=(3, 2, 3))
    for axis, (name, label, colour) in zip(axes, panels, strict=True):
        values = numpy.array([getattr(iteration, name) for iteration in history])
        iterations = numpy.arange(1, len(values) + 1)
        axis.plot(iterations, values, color=colour, alpha=0.3, linewidth=1)
        axis.plot(iterations, _running_mean(values), color=colour, linewidth=2)
        axis.set_ylabel(label)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yscale("log", nonpositive="mask")
    for x, level, label, side in ((0, 1.0, "reference", "left"), (1, goal, "goal", "right")):  # at one level if g is 0
        axes[2].axhline(level, color=CONTROL, linewidth=1, linestyle="--")
        axes[2].annotate(label, (x, level), xycoords=("axes fraction", "data"), ha=side, va="bottom", fontsize=9)
    axes[2].set_xlabel("iteration")
    return to_image(figure)


def _running_mean(values: numpy.ndarray, window: int = 20) -> numpy.ndarray:
    sums = numpy.cumsum(numpy.insert(values, 0, 0.0))
    ends = numpy.arange(1, len(values) + 1)
    starts = numpy.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def probe_chart(report: dict, calibration: Calibration | None) -> torch.Tensor:
    """The scores in a probe's report (`Probe.report`), as means and by step, among those of the calibration prompts."""
    return _gate_chart(report["prompts"], calibration, report["prompts"][0]["threshold"])


def calibration_chart(calibration: Calibration, false_positive_rate: float) -> torch.Tensor:
    """The scores of the calibration prompts, as means and by step, and the threshold that follows from them."""
    thresholds = [calibration.threshold(level.sigma, false_positive_rate) for level in calibration.levels]
    false_alarms, misses = calibration.error_rates(false_positive_rate)
    errors = f"of these, {false_alarms:.1%} of the unrelated are taken for it, and {misses:.1%} of its names are missed"
    return _gate_chart([], calibration, fmean(thresholds), errors)


def _gate_chart(
    prompts: list[dict], calibration: Calibration | None, threshold: float, below_title: str = ""
) -> torch.Tensor:
    """Above, a row of scores for each group of calibration prompts and each prompt; below, the scores by step.

    Of more than MOST_PROMPTS prompts, those nearest to the threshold are shown and the number of all is given.
    """
    total = len(prompts)
    prompts = sorted(prompts, key=lambda prompt: abs(prompt["score"] - threshold))[:MOST_PROMPTS]
    prompts.sort(key=lambda prompt: prompt["score"])
    groups = _calibration_groups(calibration) if calibration else []
    rows, unit = len(groups) + len(prompts), 100 if calibration else 1
    heights = [0.9 + 0.27 * rows] + [2.0] * bool(calibration)
    figure = Figure(figsize=(6.4, sum(heights) + 0.3), dpi=100, layout="constrained")
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _draw_scores(axes[0], groups, prompts, threshold * unit, unit, below_title)
    if total > len(prompts):
        axes[0].set_ylabel(f"the {len(prompts)} nearest of {total} prompts", fontsize=9)
    if calibration:
        _draw_scores_by_step(axes[1], calibration, prompts, threshold * unit)
        axes[0].set_xlabel("score, % of the target's")
    else:
        axes[0].set_xlabel("change by the LoRA, L2")
    for axis in axes:
        axis.grid(axis="x", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return to_image(figure)


def _calibration_groups(calibration: Calibration) -> list[tuple[str, str, list[float]]]:
    """The label and the colour of each group of calibration prompts, and each prompt's mean score over the levels."""
    groups = (("neutral", "everyday captions", CONTROL), ("preserved", "preserved", UNRELATED),
              ("synonyms", "synonyms", ERASED), ("target", "target", ERASED))  # fmt: skip
    levels = [calibration.known(level) for level in calibration.levels]
    means = ((label, colour, numpy.mean([getattr(level, name) for level in levels], 0))
             for name, label, colour in groups)  # fmt: skip
    return [(label, colour, list(scores)) for label, colour, scores in means if len(scores)]


def _draw_scores(axis, groups, prompts: list[dict], threshold: float, unit: int, below_title: str) -> None:
    all_scores = [*(score for *_, scores in groups for score in scores), *(prompt["score"] for prompt in prompts)]
    low, high = min([0.0, *all_scores]) * unit, max(all_scores) * unit
    margin = 0.06 * (high - low)
    axis.axvspan(threshold, max(high, threshold) + margin, alpha=0.08, color=ERASED, linewidth=0)
    axis.axvline(threshold, color="#333333", linewidth=1.2, linestyle="--")
    for row, (_, colour, scores) in enumerate(groups):
        axis.scatter([score * unit for score in scores], [row] * len(scores), marker="|", s=90, color=colour, alpha=0.7)
    for row, prompt in enumerate(prompts, len(groups)):
        colour = ERASED if prompt["erased"] else UNRELATED
        axis.errorbar(prompt["score"] * unit, row, xerr=prompt["spread"] * unit, fmt="o", color=colour, capsize=2)
    labels = [*(label for label, *_ in groups), *(_label(prompt["prompt"]) for prompt in prompts)]
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(-0.7, len(labels) - 0.3)
    axis.set_xlim(low - margin, max(high, threshold) + margin)
    title = f"threshold {threshold:.0f} %" if unit == 100 else f"threshold {threshold:.2f}"
    lines = [f"{title}: a prompt beyond it means the concept", *filter(None, [below_title])]
    axis.set_title("\n".join(lines), fontsize=10)


def _draw_scores_by_step(axis, calibration: Calibration, prompts: list[dict], threshold: float) -> None:
    steps = numpy.arange(1, len(calibration.levels) + 1)
    for name, colour in (("unrelated", CONTROL), ("erased", ERASED)):
        scores = [numpy.array(getattr(calibration.known(level), name)) * 100 for level in calibration.levels]
        lows, highs = [level.min() for level in scores], [level.max() for level in scores]
        axis.fill_between(steps, lows, highs, color=colour, alpha=0.15, lw=0)
    for prompt in prompts:
        colour = ERASED if prompt["erased"] else UNRELATED
        axis.plot(
            steps, [step["score"] * 100 for step in prompt["course"]], "o-", color=colour, markersize=3, alpha=0.8
        )
    axis.axhline(threshold, color="#333333", linewidth=1.2, linestyle="--")
    axis.set_xticks(steps)
    axis.set_ylabel("score, %")
    axis.set_xlabel(f"step (of {calibration.steps}); shaded: the known prompts")


def _label(prompt: str, longest: int = 40) -> str:
    """A prompt as a label of at most so many characters, safe for matplotlib, which takes $...$ for mathematics."""
    prompt = without_markup(" ".join(prompt[: 2 * longest].split()))
    text = prompt if len(prompt) <= longest else prompt[: longest - 3] + "..."
    return text.replace("$", r"\$") or "(empty prompt)"


def comparison_grid(rows: Sequence[str], columns: Sequence[str], pictures: torch.Tensor, title: str) -> torch.Tensor:
    """A labelled table of pictures [rows, columns, N, H, W, 3] in [0, 1], with N of them side by side in each cell."""
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
        cells[row, 0].set_ylabel(_label(rows[row]), rotation=0, ha="right", va="center", fontsize=10)
    longest = max((len(line) for label in columns for line in label.splitlines()), default=1) or 1
    for column, label in enumerate(columns):
        cells[0, column].set_title(label, fontsize=min(11, n * width * scale / (WIDTH_OF_A_LETTER * longest)))
    return to_image(figure)
