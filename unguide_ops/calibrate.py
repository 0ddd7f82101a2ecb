"""Calibrate a concept LoRA: measure its gate's scores for prompts whose meaning is known."""

from __future__ import annotations

import dataclasses

from . import host, targets
from .calibration import Calibration, Level
from .concept import EncodedConcept, neutral_captions, spread
from .lora import ConceptLoRA
from .probe import calibration_walk, measure, response

STEPS, LEVELS = 10, 3  # of a short DDIM schedule, the first few
CFG = 7.5
CAPTIONS, KEPT = 48, 16  # prompts looked at, at most


def calibrate(
    model, lora: ConceptLoRA, concept: EncodedConcept, width: int, height: int,
    *, cfg: float = CFG, captions: int = CAPTIONS, seed: int = 0,
) -> tuple[ConceptLoRA, int]:  # fmt: skip
    """The LoRA with its calibration for pictures of width x height pixels, and the evaluations it took.

    Scored are so many neutral `captions`, some of the prompts that the concept preserves, its target and its synonyms.
    A LoRA made elsewhere becomes one of this concept.
    """
    it = concept.concept
    groups = {
        "neutral": spread(neutral_captions(), captions),
        "preserved": spread(it.kept, KEPT),
        "target": [it.target],
        "synonyms": list(it.erased[1:]),
    }
    lora = dataclasses.replace(
        lora, concept=it.model_dump(mode="json"), target_prompt=host.pack_conditioning(concept.conditioning(it.target))
    )
    prompts = [prompt for group in groups.values() for prompt in group]
    cfg = targets.guidance(host.diffusion_model(model), cfg)
    walk = calibration_walk(STEPS, LEVELS, cfg, width, height)
    found = measure(model, lora, concept.conditioning, prompts, 1, seed, walk, response)

    def level(index: int, sigma: float) -> Level:
        def scores(group: str) -> tuple[float, ...]:
            return tuple(round(found.scores[prompt][0][index], 4) for prompt in groups[group])

        return Level(sigma=sigma, **{group: scores(group) for group in groups})

    calibration = Calibration(
        base=host.fingerprint(model), width=width, height=height, cfg=cfg, steps=STEPS,
        levels=tuple(level(index, sigma) for index, sigma in enumerate(found.sigmas)),
    )  # fmt: skip
    return dataclasses.replace(lora, calibration=calibration), found.evaluations
