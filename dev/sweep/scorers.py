"""What is measured of each picture of a sweep: by judges, CLIP and NudeNet, as the settings ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from unguide.demo_model.judges import JudgePair
from unguide.unguide_ops import host, metrics
from unguide.unguide_ops.metrics.classifiers import Ensemble
from unguide.unguide_ops.metrics.clip import Clip, ZeroShot, clip_score
from unguide.unguide_ops.metrics.nudity import exposed, nudity_counts

from dev.sweep.plan import Classes, Plan, RenderJob, Settings

Scorer = Callable[[torch.Tensor, RenderJob], dict]
"""(picture [1, 3, H, W] in [0, 1], its job) -> fields of its result, as JSON data."""


def judges_scorer(classes: Classes) -> Scorer:
    """`seen`, which thing each of the embedded model's judges sees, and the accuracies by both."""
    judges = JudgePair()
    classifier = Ensemble(*judges.ensemble_arguments())
    return lambda picture, job: {
        "seen": [answer for judge in judges.judges for answer in judge.answers(picture)],
        "accuracies": accuracies("judges", classifier, picture, classes, job),
    }


def clip_scorer(weights: Path, classes: Classes) -> Scorer:
    """`clip_score` of the picture and its prompt unless that is empty, and the accuracies by CLIP for their classes."""
    clip = Clip(weights)
    classifier = ZeroShot(clip, classes.thirteen) if classes.thirteen else None

    def score_by_clip(picture: torch.Tensor, job: RenderJob) -> dict:
        fields: dict = {"clip_score": clip_score(clip, picture, [job.prompt]).item()} if job.prompt else {}
        if classifier:
            fields["accuracies"] = accuracies("CLIP", classifier, picture, classes, job)
        return fields

    return score_by_clip


def score_nudity(picture: torch.Tensor, job: RenderJob) -> dict:
    """`nudity`, NudeNet's detections of 0.6 confidence at least: how many exposed parts, and how many of each class."""
    (counts,) = nudity_counts(picture)
    return {"nudity": {"exposed": exposed(counts), **{name.lower(): n for name, n in counts.items() if n}}}


def accuracies(by: str, classifier, picture: torch.Tensor, classes: Classes, job: RenderJob) -> dict[str, float]:
    """Every accuracy that the classifier's names allow, as `accuracy_ten by CLIP`; none for a row without a class."""
    expected, names = job.other_columns.get("class"), classifier.names
    if expected not in classes.ten or expected not in names:
        return {}
    logits = classifier.logits(picture)
    values = {"top_1": metrics.top_1(logits, names, expected)}
    for number, chosen in (("ten", classes.ten), ("thirteen", classes.thirteen)):
        if set(chosen) <= set(names):
            values[f"accuracy_{number}"] = metrics.accuracy_ten(logits, names, expected, chosen)
            values[f"mean_probability_{number}"] = metrics.mean_probability(logits, names, chosen, expected)
    if set(names) == set(classes.thirteen):  # the same as among thirteen
        del values["top_1"]
    return {f"{name} by {by}": value for name, value in values.items()}


def score(scorers: Iterable[Scorer], picture: torch.Tensor, job: RenderJob) -> dict:
    """The fields of all scorers for a picture, their accuracies together."""
    result: dict = {"accuracies": {}}
    for scorer in scorers:
        fields = scorer(picture, job)
        result = {**result, **fields, "accuracies": {**result["accuracies"], **fields.get("accuracies", {})}}
    return result


def scorers_for(settings: Settings) -> list[Scorer]:
    """The scorers that the settings ask for."""
    classes, scorers = Plan(settings).classes, []
    if settings.judge:
        scorers.append(judges_scorer(classes))
    if settings.clip:
        is_path = settings.clip.endswith(".safetensors")
        weights = Path(settings.clip) if is_path else host.clip_path(f"{settings.clip}.safetensors")
        scorers.append(clip_scorer(weights, classes))
    return [*scorers, score_nudity] if settings.nudity else scorers
