"""A `Part` of a graph that UnGuidance is tried together with, and the result that is `Expected` then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from imitations.sampling import Assets, Sampling

W = -1.0
GATE, FIXED = "gate", f"w = {W:g}"
MODES = (GATE, FIXED)
"""Where each picture's w comes from: the gate inside sampling, or the node's input."""


@dataclass(frozen=True)
class Expected:
    """How the result differs from the usual one.

    Usually the decision is right, an unrelated picture is the one that the part draws without UnGuidance, bit for bit,
    and an erased one is that of two merged copies of the model.
    """

    refusal: str = ""  # regular expression for the text of an error
    refused_modes: tuple[str, ...] = MODES
    refused_prompt: str = ""  # only batches that hold this prompt are refused; empty: all
    another_picture: str = ""  # why unrelated pictures of a batch with an erased one are not the bits of the part alone
    erased: bool = True  # whether the cat's prompt still means the cat
    tolerance: float = 1e-4  # relative error of erased pictures against two merged copies
    one_picture: str = ""  # why the part cannot draw a batch of two prompts, without UnGuidance either
    no_effect: str = ""  # why the part changes no picture of the embedded model

    def refused(self, mode: str, prompts: tuple[str, ...]) -> bool:
        """Whether this combination has to end with an error."""
        return bool(self.refusal) and mode in self.refused_modes and self.refused_prompt in ("", *prompts)


def same_model(assets: Assets, model):
    """The `patch` of a part that changes no MODEL."""
    return model


def same_sampling(sampling: Sampling) -> None:
    """The `change` of a part that is a patch on the MODEL and nothing else."""


@dataclass(frozen=True)
class Part:
    """Another pack's or ComfyUI's own contribution to a run; `patch` and `change` are called anew for each run."""

    name: str
    group: str  # of the table in docs/sampling.md
    patch: Callable[[Assets, Any], Any] = same_model  # (assets, MODEL) -> MODEL
    change: Callable[[Sampling], None] = same_sampling  # changes what a sampler is given
    expected: Expected = field(default_factory=Expected)
    steps: int = 3
    fast: bool = False  # whether the fast tests try it

    @property
    def only_patches(self) -> bool:
        """Whether the part is a patch on the MODEL and nothing else, so that evaluations tell what it costs."""
        return self.patch is not same_model and self.change is same_sampling
