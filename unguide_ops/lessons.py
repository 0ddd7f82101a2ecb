"""What one trajectory teaches: latents on the LoRA's own path, and what it shall predict there (paper section 3.1).

A lesson is a latent, its noise level, a prompt, and the prediction that is wanted of the LoRA: the erasing target under
the target prompt or a synonym, the base's own prediction under a prompt that is retained. The base is asked once for
each, and the lesson may be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch

from .branch import Branch
from .concept import NEUTRAL
from .objective import classifier_free_guidance, ddim_step, erasing_target


@dataclass
class Lessons:
    """Lessons [N]. At each latent the first lesson erases, the others retain."""

    prompts: list[str]
    latents: torch.Tensor  # [N, ...]
    sigmas: torch.Tensor  # [N]
    erases: torch.Tensor  # bool [N]
    goals: torch.Tensor  # [N, ...]: what the LoRA shall predict
    base: torch.Tensor  # [N, ...]: what the base predicts
    reference: torch.Tensor  # [N, ...]: what the base predicts under the reference prompt
    scale: torch.Tensor  # [N]: the distance of the two under the prompt to be erased at that latent

    def at(self, latents: list[int]) -> Lessons:
        """All lessons at the latents with these numbers (see `lessons_at`)."""
        number = int(self.erases.sum())
        per_latent = len(self.prompts) // number - 1
        return self.rows([*latents, *(number + i * per_latent + j for i in latents for j in range(per_latent))])

    def rows(self, index: list[int]) -> Lessons:
        """The lessons with these numbers."""
        tensors = {it.name: getattr(self, it.name)[index] for it in fields(self) if it.name != "prompts"}
        return Lessons([self.prompts[i] for i in index], **tensors)


def trajectory(
    live,
    branch: Branch,
    noise: torch.Tensor,
    target: str,
    guidance: float,
    steps: int,
    stops: list[int],
    seen: Callable,
) -> Iterator[tuple[torch.Tensor, float]]:
    """The latents z_t at these steps of a DDIM schedule, with their noise levels: the LoRA on, from pure noise.

    `guidance` 1 asks for no neutral prediction. `stops` are ascending; nothing is evaluated behind the last. `seen(x0)`
    is told what every step predicts.
    """
    sigmas = live.ddim_sigmas(steps)
    x = live.first_latents(sigmas[0], noise)
    for step in range(stops[-1] + 1):
        if step in stops:
            yield x, sigmas[step]
        if step < stops[-1]:
            with torch.no_grad(), branch.on():
                cond, *uncond = live.denoised(x, sigmas[step], *((target, NEUTRAL) if guidance != 1 else (target,)))
            denoised = classifier_free_guidance(uncond[0], cond, guidance) if uncond else cond
            seen(denoised)
            x = ddim_step(x, denoised, sigmas[step], sigmas[step + 1])


@torch.no_grad()
def lessons_at(
    live,
    latents: torch.Tensor,
    sigmas: list[float],
    erased: list[str],
    retained: list[list[str]],
    reference: str,
    g: float,
    rows: int,
) -> Lessons:
    """The lessons at latents [N, ...] and their noise levels: at each, one prompt to erase and some to retain.

    They stand in this order: all that erase, then those that retain, latent by latent. The base is asked for so many
    `rows` at once.
    """
    number = len(latents)
    at = [*range(number), *(i for i, some in enumerate(retained) for _ in some)]
    prompts = [*erased, *(prompt for some in retained for prompt in some)]
    levels = torch.tensor(sigmas, device=latents.device)
    base = live.row_predictions(latents[at], levels[at], prompts, rows)
    e_reference = live.row_predictions(latents, levels, [reference] * number, rows)
    goals = torch.cat([erasing_target(base[:number], e_reference, g), base[number:]])
    scale = (base[:number] - e_reference).flatten(1).norm(dim=1)
    erases = torch.arange(len(at), device=latents.device) < number
    return Lessons(prompts, latents[at], levels[at], erases, goals, base, e_reference[at], scale[at])
