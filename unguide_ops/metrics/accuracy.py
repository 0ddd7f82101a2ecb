"""Accuracies from a classifier's logits: shares of pictures, between 0 and 1.

`logits` are [pictures, names] and `names` what their columns stand for. All raise ValueError for no pictures, for
logits that are no numbers, and for names that the classifier does not know.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""The names of the ten CIFAR-10 classes, as in MACE."""


def among(logits: torch.Tensor, names: Sequence[str], chosen: Sequence[str]) -> torch.Tensor:
    """The columns of the `chosen` names, in their order: [pictures, chosen]."""
    if logits.ndim != 2 or logits.shape[1] != len(names) or not len(logits):
        raise ValueError(f"`logits` are {list(logits.shape)}: give [pictures, {len(names)}], a column for each name.")
    if not torch.isfinite(logits).all():
        raise ValueError("`logits` hold values that are no numbers: look at the pictures and the classifier.")
    if repeated := {name for name in chosen if chosen.count(name) > 1}:
        raise ValueError(f"{min(repeated)!r} stands among the classes twice: name each once.")
    if unknown := [name for name in chosen if name not in names]:
        known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise ValueError(f"The classifier does not know {unknown[0]!r}: choose among {known}.")
    return logits[:, [names.index(name) for name in chosen]]


def _place(chosen: Sequence[str], expected: str) -> int:
    if expected not in chosen:
        raise ValueError(f"`expected` is {expected!r}, which is not among the classes: {', '.join(chosen)}.")
    return chosen.index(expected)


def recognised(logits: torch.Tensor, names: Sequence[str], chosen: Sequence[str], expected: str) -> torch.Tensor:
    """Which pictures are taken for `expected` before all other `chosen` names, bool [pictures]."""
    return among(logits, names, chosen).argmax(1) == _place(chosen, expected)


def _share(logits, names, chosen, expected) -> float:
    return recognised(logits, names, chosen, expected).double().mean().item()


def accuracy_ten(logits: torch.Tensor, names: Sequence[str], expected: str, classes: Sequence[str] = TEN) -> float:
    """How often `expected` wins among the ten class names; on pictures of a synonym, too, the class is expected."""
    return _share(logits, names, classes, expected)


def accuracy_thirteen(
    logits: torch.Tensor,
    names: Sequence[str],
    target: str,
    synonyms: Sequence[str],
    others: Sequence[str],
    expected: str | None = None,
) -> float:
    """How often `expected` (the target) wins among target, its synonyms and the other classes: thirteen strings.

    A picture of the concept for which a synonym wins does not count as recognised, so it is at most `accuracy_ten`. For
    pictures of a synonym's prompt the UnGuide authors expect that synonym's own string.
    """
    return _share(logits, names, [target, *synonyms, *others], expected or target)


def top_1(logits: torch.Tensor, names: Sequence[str], expected: str) -> float:
    """How often `expected` wins among all that the classifier knows."""
    return _share(logits, names, names, expected)


def mean_probability(logits: torch.Tensor, names: Sequence[str], chosen: Sequence[str], expected: str) -> float:
    """The mean softmax probability of `expected` among `chosen`: what the released scripts of MACE (ten strings) and of
    UnGuide (thirteen) print as accuracy.
    """
    return among(logits, names, chosen).double().softmax(1)[:, _place(chosen, expected)].mean().item()
