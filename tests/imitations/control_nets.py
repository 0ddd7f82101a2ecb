"""A ControlNet on both prompts, together with attention packs (NAG, IPAdapter) and step caches (TeaCache)."""

from __future__ import annotations

import dataclasses

import nodes
from imitations import attention, caches
from imitations.parts import Part
from imitations.sampling import Sampling

GROUP = "ControlNet, with other packs"


def with_control_net(sampling: Sampling) -> None:
    """A ControlNet on both prompts."""
    sampling.positive, sampling.negative = nodes.ControlNetApplyAdvanced().apply_controlnet(
        sampling.positive, sampling.negative, sampling.assets.control_net(), sampling.assets.image, 1.0, 0.0, 1.0
    )


def controlled(part: Part) -> Part:
    """The part together with a ControlNet."""

    def change(sampling: Sampling) -> None:
        with_control_net(sampling)
        part.change(sampling)

    return dataclasses.replace(part, name=f"ControlNet and {part.name}", group=GROUP, change=change, fast=False)


CONTROLLED = {"NAG on the text", "image prompts for the cond alone", "attention shared in a batch",
              "counts steps in a closure", "first-block cache",
              "state on the network, forward replaced in each call"}  # fmt: skip
PARTS = [controlled(part) for part in [*attention.PARTS, *caches.PARTS] if part.name in CONTROLLED]
