"""From scores to a decision: does a prompt touch the erased concept? Pure torch.

Every score compares predictions at one latent and is higher the more the prompt touches the concept. c is the prompt,
c* the target prompt, "" the neutral prompt; predictions are [B, ...], scores [B].
"""

from __future__ import annotations

import torch
from scipy.stats import t as student

GUIDANCE_COSINE = "guidance cosine"
CHANGE_COSINE = "change cosine"
PAPER = "paper"
MODES = (GUIDANCE_COSINE, CHANGE_COSINE, PAPER)
FEWEST_CONTROLS = 3  # the neutral prompt among them


def change_norm(base: torch.Tensor, lora: torch.Tensor) -> torch.Tensor:
    """The paper's score (section 3.2): `||e_lora(c) - e_base(c)||_2` over the flattened latent."""
    return (lora - base).flatten(1).norm(dim=1)


def change_cosine(base, lora, base_target, lora_target) -> torch.Tensor:
    """Cosine of the LoRA's change under the prompt with its change under the target prompt."""
    return torch.cosine_similarity((lora - base).flatten(1), (lora_target - base_target).flatten(1))


def guidance_cosine(base, base_target, base_neutral) -> torch.Tensor:
    """Cosine of the base's own guidance `e(c) - e("")` with `e(c*) - e("")`: do both pull the picture the same way?

    Needs no LoRA prediction. Of all scores tried on the embedded model it keeps synonyms and other prompts furthest
    apart.
    """
    return torch.cosine_similarity((base - base_neutral).flatten(1), (base_target - base_neutral).flatten(1))


def calibrated_threshold(control_scores: torch.Tensor, false_positive_rate: float) -> float:
    """The cosine that unrelated prompts exceed at the given rate, from the scores of a few that are known: [N].

    Fisher's z (the inverse hyperbolic tangent) makes cosines roughly normal; the threshold is where one more score
    would lie with this probability (a one-sided prediction limit, Student's t: few controls, a higher threshold).
    """
    if len(control_scores) < FEWEST_CONTROLS:
        raise ValueError(
            f"The concept preserves {len(control_scores) - 1} prompts, too few to tell where it ends: list at least "
            f"{FEWEST_CONTROLS - 1} under `preserve` in UnGuide Concept, a dozen or more if you can."
        )
    z = control_scores.double().clamp(-0.9999, 0.9999).atanh()
    quantile = student.isf(false_positive_rate, len(z) - 1) * (1 + 1 / len(z)) ** 0.5
    return (z.mean() + quantile * z.std()).tanh().item()
