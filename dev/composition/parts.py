"""A part of a graph that UnGuidance is put together with, and what is right then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dev.composition.stage import Scene, Stage


@dataclass(frozen=True)
class Expected:
    """What comes of a combination, where it is not the usual: the right decision, by the gate or a fixed w; unrelated
    pictures the bits that the part gives without us; steered ones those of two merged copies.
    """

    refusal: str = ""  # words of the error
    refused: tuple[str, ...] = ()  # the ways (`matrix.WAYS`) in which it is; none: in all
    refused_with: str = ""  # a prompt that a batch must hold for that
    another_picture: str = ""  # why the unrelated pictures of a mixed batch are not the bits that the part gives alone
    erased: bool = True  # whether the cat's prompt still means the cat
    close: float = 1e-4  # how far steered pictures may be from two merged copies
    alone: str = ""  # why it can draw no batch of two prompts, without us either
    silent: str = ""  # why the part changes no picture of the embedded model


def same_model(stage: Stage, model):
    """Changes nothing."""
    return model


def same_scene(scene: Scene) -> None:
    """Changes nothing."""


@dataclass(frozen=True)
class Part:
    """`model` changes a MODEL, `scene` what else a sampler is given; both are called anew for each run."""

    name: str
    group: str
    model: Callable[[Stage, Any], Any] = same_model
    scene: Callable[[Scene], None] = same_scene
    expected: Expected = field(default_factory=Expected)
    steps: int = 3
    in_haste: bool = False  # whether it is among the few that the fast tests try

    @property
    def is_a_patch(self) -> bool:
        """Whether it is something on the MODEL and no more, so that what it costs is told by evaluations."""
        return self.model is not same_model and self.scene is same_scene
