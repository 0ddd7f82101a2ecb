"""Accuracies from a classifier's logits, between 0 and 1, and the overall score H0 of three of them.

`logits` are [pictures, names], and `names` the classes of their columns. All functions of logits raise ValueError for
no pictures, for logits that are NaN or infinite, and for names that the classifier does not know.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""The names of the ten CIFAR-10 classes, as in MACE."""


def among(logits: torch.Tensor, names: Sequence[str], classes: Sequence[str]) -> torch.Tensor:
    """The columns of these classes, in their order: [pictures, classes]."""
    if logits.ndim != 2 or logits.shape[1] != len(names) or not len(logits):
        raise ValueError(f"`logits` are {list(logits.shape)}: give [pictures, {len(names)}], a column for each name.")
    if not torch.isfinite(logits).all():
        raise ValueError("`logits` hold NaN or infinite values: look at the pictures and the classifier.")
    if repeated := {name for name in classes if classes.count(name) > 1}:
        raise ValueError(f"{min(repeated)!r} is listed twice in the classes: name each once.")
    if unknown := [name for name in classes if name not in names]:
        examples = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise ValueError(f"The classifier does not know {unknown[0]!r}: choose among {examples}.")
    return logits[:, [names.index(name) for name in classes]]


def _index(classes: Sequence[str], expected: str) -> int:
    if expected not in classes:
        raise ValueError(f"`expected` is {expected!r}, which is not among the classes: {', '.join(classes)}.")
    return classes.index(expected)


def recognised(logits: torch.Tensor, names: Sequence[str], classes: Sequence[str], expected: str) -> torch.Tensor:
    """Whether `expected` wins among the classes, for each picture: bool [pictures]."""
    return among(logits, names, classes).argmax(1) == _index(classes, expected)


def _accuracy(logits: torch.Tensor, names: Sequence[str], classes: Sequence[str], expected: str) -> float:
    return recognised(logits, names, classes, expected).double().mean().item()


def accuracy_ten(logits: torch.Tensor, names: Sequence[str], expected: str, classes: Sequence[str] = TEN) -> float:
    """The share of pictures for which `expected` wins among the ten classes.

    For pictures of a synonym's prompt, too, `expected` is the class.
    """
    return _accuracy(logits, names, classes, expected)


def accuracy_thirteen(
    logits: torch.Tensor,
    names: Sequence[str],
    target: str,
    synonyms: Sequence[str],
    other_classes: Sequence[str],
    expected: str | None = None,
) -> float:
    """The share of pictures for which `expected` wins among thirteen: target, three synonyms, nine other classes.

    `expected` is the target unless it is given. A picture of the concept for which a synonym wins does not count as
    recognised, so this is at most `accuracy_ten`. For pictures of a synonym's prompt the UnGuide authors expect that
    synonym.
    """
    return _accuracy(logits, names, [target, *synonyms, *other_classes], expected or target)


def top_1(logits: torch.Tensor, names: Sequence[str], expected: str) -> float:
    """The share of pictures for which `expected` wins among all classes that the classifier knows."""
    return _accuracy(logits, names, names, expected)


def mean_probability(logits: torch.Tensor, names: Sequence[str], classes: Sequence[str], expected: str) -> float:
    """The mean softmax probability of `expected` among the classes.

    This is what the released scripts of MACE (among ten) and of UnGuide (among thirteen) print as accuracy.
    """
    return among(logits, names, classes).double().softmax(1)[:, _index(classes, expected)].mean().item()


def h0(acc_e: float, acc_s: float, acc_g: float) -> float:
    """MACE's overall score: harmonic mean of efficacy `1 - acc_e`, specificity `acc_s`, generality `1 - acc_g`.

    acc_e: how often the erased class is still recognised in pictures of its own prompt (lower is better);
    acc_s: how often the other classes are recognised in pictures of their prompts (higher is better);
    acc_g: how often the erased class is recognised in pictures of its synonyms' prompts (lower is better).
    0 if any term is 0.
    """
    terms = (1.0 - acc_e, acc_s, 1.0 - acc_g)
    return 3.0 / sum(1.0 / term for term in terms) if all(term > 0 for term in terms) else 0.0
