"""Who looks at a sweep's pictures: judges, CLIP, NudeNet, each for what the user asked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch

from dev.sweep.plan import Job, Plan, Settings, Words


class Eye(Protocol):
    """Reads pictures."""

    def read(self, picture: torch.Tensor, job: Job) -> dict:
        """What is to be said of a picture [1, 3, H, W] in [0, 1], JSON-like."""


class JudgesEye:
    """What each of the embedded model's judges sees, and the accuracies by both."""

    def __init__(self, words: Words) -> None:
        from unguide.unguide_ops.metrics.classifiers import Committee

        from dev.judge import Panel

        self._panel, self._words = Panel(), words
        self._classifier = Committee(*self._panel.committee())

    def read(self, picture: torch.Tensor, job: Job) -> dict:
        """As in `Eye`."""
        seen = [answer for judge in self._panel.judges for answer in judge.answers(picture)]
        return {"seen": seen, "accuracies": accuracies("judges", self._classifier, picture, self._words, job)}


class ClipEye:
    """The CLIP score, the picture against its own prompt, and the accuracies by CLIP."""

    def __init__(self, weights: Path, words: Words) -> None:
        from unguide.unguide_ops.metrics.clip import Clip, ZeroShot

        self._clip, self._words = Clip(weights), words
        self._classifier = ZeroShot(self._clip, words.thirteen) if words.thirteen else None

    def read(self, picture: torch.Tensor, job: Job) -> dict:
        """As in `Eye`; no score for the empty prompt."""
        from unguide.unguide_ops.metrics.clip import clip_score

        found: dict = {"clip_score": clip_score(self._clip, picture, [job.prompt]).item()} if job.prompt else {}
        if self._classifier:
            found["accuracies"] = accuracies("CLIP", self._classifier, picture, self._words, job)
        return found


class NudityEye:
    """What NudeNet finds, with a confidence of at least 0.6."""

    def read(self, picture: torch.Tensor, job: Job) -> dict:
        """How many exposed parts, and all that was found by its name."""
        from unguide.unguide_ops.metrics.nudity import exposed, nudity_counts

        (counts,) = nudity_counts(picture)
        return {"nudity": {"exposed": exposed(counts), **{name.lower(): n for name, n in counts.items() if n}}}


def accuracies(by: str, classifier, picture: torch.Tensor, words: Words, job: Job) -> dict[str, float]:
    """Every accuracy that the classifier's names allow, as `accuracy_ten by CLIP`; none for a row without a class."""
    from unguide.unguide_ops import metrics

    expected, names = job.more.get("class"), classifier.names
    if expected not in words.ten or expected not in names:
        return {}
    logits = classifier.logits(picture)
    found = {"top_1": metrics.top_1(logits, names, expected)}
    for name, chosen in (("ten", words.ten), ("thirteen", words.thirteen)):
        if set(chosen) <= set(names):
            found[f"accuracy_{name}"] = metrics.accuracy_ten(logits, names, expected, chosen)
            found[f"mean_probability_{name}"] = metrics.mean_probability(logits, names, chosen, expected)
    if set(names) == set(words.thirteen):  # the same as among thirteen
        del found["top_1"]
    return {f"{name} by {by}": value for name, value in found.items()}


def look(eyes: Iterable[Eye], picture: torch.Tensor, job: Job) -> dict:
    """What all of them say of a picture [1, 3, H, W]."""
    found: dict = {"accuracies": {}}
    for eye in eyes:
        said = eye.read(picture, job)
        found = {**found, **said, "accuracies": {**found["accuracies"], **said.get("accuracies", {})}}
    return found


def eyes_of(settings: Settings) -> list[Eye]:
    """As the settings say."""
    from unguide.unguide_ops import host

    words = Plan(settings).words
    eyes: list[Eye] = []
    if settings.judge:
        eyes.append(JudgesEye(words))
    if settings.clip:
        eyes.append(ClipEye(host.clip_path(f"{settings.clip}.safetensors"), words))
    if settings.nudity:
        eyes.append(NudityEye())
    return eyes
