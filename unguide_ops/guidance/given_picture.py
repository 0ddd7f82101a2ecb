"""Whether the picture that sampling starts from shows the concept: without words, the model itself can tell.

A diffusion model explains a picture better, the better the prompt describes it: with noise added, its prediction comes
closer to the picture under the target prompt than under the empty one (diffusion classifiers, arXiv 2303.16203).
"""

from __future__ import annotations

import torch

from .. import host

LEVELS = (0.5, 0.7)  # of the way from the picture to pure noise
NOISES = 2  # at each level
THRESHOLD = 0.13
"""From this score on a picture shows the concept: between pictures of the ten classes by three of the models."""


def explained_by_target(call: host.PredictionCall, target: str, empty: str) -> list[float]:
    """How much of the error of predicting the run's latent image the target prompt saves, mean over noises: [B].

    1 - error(target) / error(empty), where an error is the mean square of the difference between prediction and
    picture. The prompts are given by their names in the run. Empty if the run starts from pure noise.
    """
    generator = torch.Generator().manual_seed(0)
    saved = []
    for share in LEVELS:
        for _ in range(NOISES):
            noise = torch.randn(call.x.shape[1:], generator=generator).expand(call.x.shape)
            noisy = call.run.noisy_picture(share, noise)
            if noisy is None:
                return []
            picture, x, sigma = noisy
            errors = [(call.predict_at(x, sigma, prompt) - picture).float().flatten(1).square().mean(1)
                      for prompt in (target, empty)]  # fmt: skip
            saved.append(1 - errors[0] / errors[1])
    return torch.stack(saved).mean(0).tolist()


def check(scores: list[float]) -> None:
    """Raises ValueError if a picture shows the concept."""
    for number, score in enumerate(scores, 1):
        if not score < THRESHOLD:
            which = f"Picture {number} of those" if len(scores) > 1 else "The picture"
            raise ValueError(
                f"{which} that this run starts from shows the concept: the target prompt explains it {score:.0%} "
                f"better than no prompt, and from {THRESHOLD:.0%} on that counts. Start from another picture, or "
                f"switch `check_picture` off."
            )
