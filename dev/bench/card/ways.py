"""The ways to keep a class out of a picture that the card compares: UnGuidance, and what users would pick instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from unguide.unguide_ops import host
from unguide.unguide_ops.concept_lora import ConceptLoRA
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide

from dev.bench.sampling_methods import AS_PUBLISHED, paper_weights
from dev.bench.sessions import SIZE, Session

PAPER_SEEDS = 2  # of the probe; the paper takes 30
NAG = {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5}  # the node's defaults
BASE, NEGATIVE, NAG_WAY, WEIGHT = "base", "negative", "nag", "weight"
LORA, HALF, PAPER, OURS = "lora", "half", "paper", "ours"
AWAY, SWAP, REPLACE, LOOK = "away", "swap", "replace", "look"
EXCHANGED = "exchanged"  # stands for a way in rows: the base model, with the words exchanged by hand
LABELS = {
    BASE: "base model", NEGATIVE: "negative prompt", NAG_WAY: "NAG", WEIGHT: "prompt weight -1", LORA: "LoRA alone",
    HALF: "w = 0.5", PAPER: "as published", OURS: "UnGuidance", AWAY: "UnGuidance, w = -1", SWAP: "UnGuidance, swap",
    REPLACE: "UnGuidance, replace", LOOK: "UnGuidance, second look",
}  # fmt: skip
"""Every way, and its name in tables."""
GATED = {
    OURS: SteeringConfig(), AWAY: SteeringConfig(w_erased=-1.0), SWAP: SteeringConfig(instead="swap"),
    REPLACE: SteeringConfig(instead="replace"), LOOK: SteeringConfig(second_look=True),
}  # fmt: skip
"""UnGuidance with its gate: the defaults, and with one thing changed."""


class WayDoesNotApplyError(Exception):
    """A way that cannot be used here, and why."""


@dataclass
class Drawn:
    """Pictures uint8 [N, 3, H, W], model calls per picture, and UnGuidance's decision on each."""

    pictures: np.ndarray
    calls: float
    decisions: list[dict] = field(default_factory=list)


@dataclass
class Request:
    """A prompt's text, or only its CONDITIONING, and the latents that sampling starts from."""

    text: str | None
    positive: list
    latent: dict
    seed: int = 0
    denoise: float = 1.0
    noise: torch.Tensor | None = None  # in place of the seed's


@dataclass
class Ways:
    """All ways on one model to forget one class; `words`: its name and synonyms; `lora` forgets it."""

    session: Session
    lora: ConceptLoRA
    words: str

    def draw(self, way: str, request: Request) -> Drawn:
        """The pictures of a request by one of LABELS. Raises WayDoesNotApplyError, also if UnGuidance refuses."""
        try:
            return self._drawn(way, request)
        except ValueError as error:  # of the pack: nothing is drawn, rather than an unsteered picture
            raise WayDoesNotApplyError(f"refused: {error}") from error

    def _drawn(self, way: str, request: Request) -> Drawn:
        reports: list = []
        model, changes, extra_calls = self._prepared(way, request, reports)
        counter = host.EvaluationCounter()
        arguments = {"positive": request.positive, "negative": "", **changes}
        pictures = self.session.sample(
            counter.count_on(model), arguments["positive"], request.latent, request.seed, request.denoise,
            arguments["negative"], request.noise,
        )  # fmt: skip
        decisions = [it.decision.report() for report in reports for it in report.decisions if it.decision]
        return Drawn(pictures, counter.count / len(pictures) + extra_calls, decisions)

    def _prepared(self, way: str, request: Request, reports: list) -> tuple[Any, dict, float]:
        """The MODEL to sample with, what is asked in place of the request, and model calls per picture beforehand."""
        base = self.session.model
        if way == BASE:
            return base, {}, 0.0
        if way == NEGATIVE:
            return base, {"negative": self.words}, 0.0
        if way == NAG_WAY:
            return nag_node()(base, **NAG)[0], {"negative": self.words}, 0.0
        if way == WEIGHT:
            if request.text is None:
                raise WayDoesNotApplyError("there is no text to add a weight to")
            weighted = ", ".join(f"({word}:-1.0)" for word in self.words.split(", "))
            return base, {"positive": self.session.encode(f"{request.text} {weighted}".strip())}, 0.0
        w, probed = {LORA: 0.0, HALF: 0.5}.get(way), 0.0
        if way == PAPER:
            weights, evaluations = paper_weights(
                base, self.lora, lambda key: request.positive if key == "asked" else self.session.encode(key),
                ["asked"], seeds=PAPER_SEEDS, width=SIZE, height=SIZE, cfg=self.session.cfg,
            )  # fmt: skip
            w, probed = weights["asked"], evaluations / len(request.latent["samples"])
        config = GATED.get(way) or SteeringConfig(w=w, **AS_PUBLISHED)
        return unguide(base, self.lora, config, reports.append), {}, probed


def nag_node() -> Callable[..., Any]:
    """The host's node for normalized attention guidance. Raises WayDoesNotApplyError if the host has none."""
    try:
        from comfy_extras.nodes_nag import NAGuidance
    except ImportError:
        raise WayDoesNotApplyError("this ComfyUI has no NAG node") from None
    return lambda model, **inputs: NAGuidance.execute(model, **inputs).result
