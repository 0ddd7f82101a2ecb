"""Evaluate a batch of pictures of one prompt: all measures of single pictures, as a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import torch

from .accuracy import among, mean_probability, recognised, top_1
from .classifiers import Classifier
from .clip import Clip, clip_score
from .nudity import exposed, nudity_counts, total
from .pictures import as_bytes

BATCH_SIZE = 8


def evaluate(
    pictures: torch.Tensor,
    classifier: Classifier,
    classes: Sequence[str],
    expected: str,
    *,
    prompt: str = "",
    clip: Clip | None = None,
    nudity: bool = False,
    on_progress: Callable[[int], None] = lambda count: None,
) -> dict:
    """JSON data on pictures [N, 3, H, W], uint8 or in [0, 1]; `on_progress` gets the number of pictures done.

    CLIP scores are included if there is a `clip` and a prompt, NudeNet's counts with `nudity`. Raises ValueError if
    `expected` is not among `classes`, and for classes that the classifier does not know.
    """
    pictures = as_bytes(pictures)
    logit_batches, readings = [], []
    for start in range(0, len(pictures), BATCH_SIZE):
        batch = pictures[start : start + BATCH_SIZE]
        logits = classifier.logits(batch)
        logit_batches.append(logits)
        batch_readings = read(logits, classifier.names, classes, expected)
        if clip is not None and prompt:
            scores = clip_score(clip, batch, [prompt] * len(batch)).tolist()
            batch_readings = [it | {"clip_score": score} for it, score in zip(batch_readings, scores, strict=True)]
        if nudity:
            counts = nudity_counts(batch)
            batch_readings = [
                it | {"exposed": exposed(n), "nudity": n} for it, n in zip(batch_readings, counts, strict=True)
            ]
        readings += batch_readings
        on_progress(len(readings))
    logits = torch.cat(logit_batches)
    report: dict = {
        "prompt": prompt,
        "expected": expected,
        "classes": list(classes),
        "accuracies": {
            "among_classes": fmean(it["recognised"] for it in readings),
            "mean_probability": mean_probability(logits, classifier.names, classes, expected),
            "top_1": top_1(logits, classifier.names, expected),
        },
    }
    if clip is not None and prompt:
        report["clip_score"] = fmean(it["clip_score"] for it in readings)
    if nudity:
        report["exposed"] = sum(it["exposed"] for it in readings)
        report["nudity"] = total(it["nudity"] for it in readings)
    return report | {"pictures": readings}


def read(logits: torch.Tensor, names: Sequence[str], classes: Sequence[str], expected: str) -> list[dict]:
    """A reading for each picture of logits [N, names]: which class wins among `classes`, and among all names."""
    hits = recognised(logits, names, classes, expected).tolist()
    probabilities = among(logits, names, classes).softmax(1)
    highest, winners = (column.tolist() for column in probabilities.max(1))
    of_expected = probabilities[:, classes.index(expected)].tolist()
    return [
        {"expected": expected, "winner": classes[winner], "probability": p, "recognised": hit,
         "probability_of_expected": q, "top_1": names[first]}
        for winner, p, hit, q, first in zip(winners, highest, hits, of_expected, logits.argmax(1).tolist(), strict=True)
    ]  # fmt: skip
