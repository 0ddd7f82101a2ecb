"""All measures of a batch of pictures of one prompt, as a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import torch

from .accuracy import among, mean_probability, recognised, top_1
from .classifiers import Classifier
from .clip import Clip, clip_score
from .nudity import exposed, nudity_counts, total
from .pictures import as_bytes

AT_ONCE = 8


def evaluate(
    pictures: torch.Tensor,
    classifier: Classifier,
    classes: Sequence[str],
    expected: str,
    *,
    prompt: str = "",
    clip: Clip | None = None,
    nudity: bool = False,
    done: Callable[[int], None] = lambda count: None,
) -> dict:
    """JSON-like data about pictures [N, 3, H, W], uint8 or in [0, 1]; `done` hears how many are finished.

    With `clip` and a prompt there are CLIP scores, with `nudity` NudeNet's counts. Raises ValueError for `expected`
    that is not among `classes`, and for classes that the classifier does not know.
    """
    pictures = as_bytes(pictures)
    logits, readings = [], []
    for start in range(0, len(pictures), AT_ONCE):
        batch = pictures[start : start + AT_ONCE]
        logits.append(classifier.logits(batch))
        its = read(logits[-1], classifier.names, classes, expected)
        if clip is not None and prompt:
            scores = clip_score(clip, batch, [prompt] * len(batch)).tolist()
            its = [it | {"clip_score": score} for it, score in zip(its, scores, strict=True)]
        if nudity:
            counts = nudity_counts(batch)
            its = [it | {"exposed": exposed(n), "nudity": n} for it, n in zip(its, counts, strict=True)]
        readings += its
        done(len(readings))
    every = torch.cat(logits)
    report: dict = {
        "prompt": prompt,
        "expected": expected,
        "classes": list(classes),
        "accuracies": {
            "among_classes": fmean(it["recognised"] for it in readings),
            "mean_probability": mean_probability(every, classifier.names, classes, expected),
            "top_1": top_1(every, classifier.names, expected),
        },
    }
    if clip is not None and prompt:
        report["clip_score"] = fmean(it["clip_score"] for it in readings)
    if nudity:
        report["exposed"] = sum(it["exposed"] for it in readings)
        report["nudity"] = total(it["nudity"] for it in readings)
    return report | {"pictures": readings}


def read(logits: torch.Tensor, names: Sequence[str], classes: Sequence[str], expected: str) -> list[dict]:
    """What each picture of logits [N, names] is taken for among `classes`, and among all names."""
    hits = recognised(logits, names, classes, expected).tolist()
    probabilities = among(logits, names, classes).softmax(1)
    best, winners = (it.tolist() for it in probabilities.max(1))
    expectation = probabilities[:, classes.index(expected)].tolist()
    return [
        {"expected": expected, "winner": classes[winner], "probability": p, "recognised": hit,
         "probability_of_expected": q, "top_1": names[first]}
        for winner, p, hit, q, first in zip(winners, best, hits, expectation, logits.argmax(1).tolist(), strict=True)
    ]  # fmt: skip
