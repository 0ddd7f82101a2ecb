"""Calibrate a concept LoRA: measure its gate's scores for prompts whose meaning is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from .. import host
from ..concept import EncodedConcept, evenly_picked, everyday_captions
from ..concept_lora import ConceptLoRA
from ..concept_text import ConceptText
from ..host.types import Model
from ..lora import target_layers
from .calibration import Calibration, KnownScores, LevelScores
from .probe import ProbeConfig
from .probe_trajectory import calibration_trajectory, measure_scores, score_by_response

STEPS = 10  # of the DDIM schedule
LEVELS = 3  # noise levels at which scores are measured, those of the first steps
CFG = 7.5
CAPTIONS = 48  # at most
PRESERVED = 16  # of the prompts to preserve, at most


def calibrate(
    model: Model, lora: ConceptLoRA, concept: EncodedConcept, width: int, height: int,
    *, cfg: float = CFG, captions: int = CAPTIONS, seed: int = 0,
) -> tuple[ConceptLoRA, int]:  # fmt: skip
    """The LoRA with its calibration for pictures of width x height pixels, and the model calls that this took.

    Scores are measured for at most `captions` everyday captions, some of the concept's prompts to preserve, its target
    prompt and its synonyms. The returned LoRA carries this concept, also if it was made elsewhere.
    """
    prompts, everyday = concept.concept, everyday_captions()
    groups = {
        "neutral": evenly_picked(everyday, captions),
        "preserved": evenly_picked(prompts.preserved, PRESERVED),
        "target": [prompts.target],
        "synonyms": list(prompts.erased[1:]),
    }

    def pack(prompt: str) -> dict[str, torch.Tensor]:
        return host.pack_conditioning(concept.conditioning(prompt))

    unmeasured = [caption for caption in everyday if caption not in groups["neutral"]]
    text = ConceptText.of(prompts, pack, unmeasured)
    lora = dataclasses.replace(
        lora, concept=prompts.model_dump(mode="json"), target_prompt=pack(prompts.target), text=text
    )
    cfg = target_layers.effective_cfg(host.diffusion_model(model), cfg)
    trajectory = calibration_trajectory(STEPS, LEVELS, cfg, width, height)
    words: dict[str, float | None] = {}
    encode = text.listening(concept.conditioning, words) if text else concept.conditioning
    table = measure_scores(
        model, lora, encode, [prompt for group in groups.values() for prompt in group], 1, seed,
        trajectory, score_by_response,
    )  # fmt: skip

    def in_groups(score: Callable[[str], float]) -> dict[str, tuple[float, ...]]:
        return {group: tuple(round(score(prompt), 4) for prompt in groups[group]) for group in groups}

    def level_scores(index: int, sigma: float) -> LevelScores:
        return LevelScores(sigma=sigma, **in_groups(lambda prompt: table.scores[prompt][0][index]))

    calibration = Calibration(
        base=host.fingerprint(model), width=width, height=height, cfg=cfg, steps=STEPS,
        levels=tuple(level_scores(index, sigma) for index, sigma in enumerate(table.sigmas)),
        text=KnownScores(**in_groups(lambda prompt: words[prompt] or 0.0)) if text else None,
    )  # fmt: skip
    rates = zip(("false_alarms", "misses"), calibration.error_rates(ProbeConfig.false_positive_rate), strict=True)
    return dataclasses.replace(lora, calibration=calibration.model_copy(update=dict(rates))), table.evaluations
