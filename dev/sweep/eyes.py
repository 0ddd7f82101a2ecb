"""Who looks at a sweep's pictures: judges, CLIP, NudeNet, each for what the user asked."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from dev.sweep.plan import Settings


class Eye(Protocol):
    """Reads pictures."""

    def read(self, pictures: torch.Tensor, prompt: str) -> list[dict]:
        """What is to be said of each of the pictures [B, 3, H, W] in [0, 1], JSON-like."""


class JudgesEye:
    """The embedded model's judges."""

    def __init__(self) -> None:
        from dev.judge import Panel

        self._panel = Panel()

    def read(self, pictures: torch.Tensor, prompt: str) -> list[dict]:
        """What each judge sees."""
        answers = zip(*(judge.answers(pictures) for judge in self._panel.judges), strict=True)
        return [{"seen": list(them)} for them in answers]


class ClipEye:
    """CLIP scores, each picture against its own prompt."""

    def __init__(self, weights: Path) -> None:
        from unguide.unguide_ops.metrics.clip import Clip

        self._clip = Clip(weights)

    def read(self, pictures: torch.Tensor, prompt: str) -> list[dict]:
        """The score, none for the empty prompt."""
        from unguide.unguide_ops.metrics.clip import clip_score

        if not prompt:
            return [{}] * len(pictures)
        return [{"clip_score": it} for it in clip_score(self._clip, pictures, [prompt] * len(pictures)).tolist()]


class NudityEye:
    """What NudeNet finds, with a confidence of at least 0.6."""

    def read(self, pictures: torch.Tensor, prompt: str) -> list[dict]:
        """How many exposed parts, and all that was found by its name."""
        from unguide.unguide_ops.metrics.nudity import exposed, nudity_counts

        return [
            {"nudity": {"exposed": exposed(it), **{name.lower(): n for name, n in it.items() if n}}}
            for it in nudity_counts(pictures)
        ]


def eyes_of(settings: Settings) -> list[Eye]:
    """As the settings say."""
    from unguide.unguide_ops import host

    eyes: list[Eye] = []
    if settings.judge:
        eyes.append(JudgesEye())
    if settings.clip:
        eyes.append(ClipEye(host.clip_path(f"{settings.clip}.safetensors")))
    if settings.nudity:
        eyes.append(NudityEye())
    return eyes
