"""Training examples at latents on the LoRA's own trajectory, and what it should predict there (paper section 3.1).

An example is a latent, its noise level, a prompt, and its goal, the prediction that the LoRA should make: the erasing
target under a prompt to erase, the base model's own prediction under a prompt to retain. The base model's predictions
are made once, so an example may be used in several iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from ..concept import EMPTY_PROMPT
from ..ddim import classifier_free_guidance, ddim_trajectory
from ..lora.adapter import LoRAAdapter
from .loss import erasing_target

if TYPE_CHECKING:
    from ..host import LiveModel


@dataclass
class TrainingBatch:
    """Training examples [N]: those that erase, one for each latent, then those that retain, latent by latent."""

    prompts: list[str]
    latents: torch.Tensor  # [N, ...]
    sigmas: torch.Tensor  # [N]
    erases: torch.Tensor  # bool [N]
    goals: torch.Tensor  # [N, ...]: what the LoRA should predict
    base: torch.Tensor  # [N, ...]: what the base model predicts
    reference: torch.Tensor  # [N, ...]: what the base model predicts under the reference prompt
    erasing_distance: torch.Tensor  # [N]: from `reference` to the base's prediction under the latent's prompt to erase

    def at(self, latents: list[int]) -> TrainingBatch:
        """The examples at the latents with these numbers. Each latent must have as many examples as the others."""
        number = int(self.erases.sum())
        retaining = len(self.prompts) // number - 1  # examples for each latent
        return self.rows([*latents, *(number + i * retaining + j for i in latents for j in range(retaining))])

    def rows(self, index: list[int]) -> TrainingBatch:
        """The examples with these numbers."""
        tensors = {field.name: getattr(self, field.name)[index] for field in fields(self) if field.name != "prompts"}
        return TrainingBatch([self.prompts[i] for i in index], **tensors)


def student_trajectory(
    live: LiveModel,
    adapter: LoRAAdapter,
    noise: torch.Tensor,
    target: str,
    guidance: float,
    steps: int,
    stops: list[int],
    on_denoised: Callable[[torch.Tensor], None],
) -> Iterator[tuple[torch.Tensor, float]]:
    """Latents z_t, with their noise levels, of a DDIM run from pure noise that is predicted with the LoRA on.

    They are those at the ascending numbers `stops` of its `steps` steps, and no prediction is made after the last one.
    `guidance` is that of the run towards the prompt `target`; with 1, the empty prompt is not predicted.
    `on_denoised(x0)` is called with each step's guided prediction.
    """
    sigmas = live.ddim_sigmas(steps)[: stops[-1] + 1]
    prompts = (target, EMPTY_PROMPT) if guidance != 1 else (target,)

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        with torch.no_grad(), adapter.on():
            cond, *uncond = live.denoised(x, sigma, *prompts)
        denoised = classifier_free_guidance(uncond[0], cond, guidance) if uncond else cond
        on_denoised(denoised)
        return denoised

    for step, x in enumerate(ddim_trajectory(live.first_latents(sigmas[0], noise), sigmas, denoise)):
        if step in stops:
            yield x, sigmas[step]


@torch.no_grad()
def batch_at(
    live: LiveModel,
    latents: torch.Tensor,
    sigmas: list[float],
    erased: list[str],
    retained: list[list[str]],
    reference: str,
    g: float,
    max_rows: int,
) -> TrainingBatch:
    """The examples at latents [N, ...] and their noise levels: at each, one prompt to erase and some to retain.

    `g` is the negative guidance of the erasing target. The base model predicts at most `max_rows` rows at once.
    """
    number = len(latents)
    latent_of_row = [*range(number), *(i for i, prompts in enumerate(retained) for _ in prompts)]
    all_prompts = [*erased, *(prompt for prompts in retained for prompt in prompts)]
    levels = torch.tensor(sigmas, device=latents.device)
    base = live.row_predictions(latents[latent_of_row], levels[latent_of_row], all_prompts, max_rows)
    e_reference = live.row_predictions(latents, levels, [reference] * number, max_rows)
    return TrainingBatch(
        prompts=all_prompts,
        latents=latents[latent_of_row],
        sigmas=levels[latent_of_row],
        erases=torch.arange(len(latent_of_row), device=latents.device) < number,
        goals=torch.cat([erasing_target(base[:number], e_reference, g), base[number:]]),
        base=base,
        reference=e_reference[latent_of_row],
        erasing_distance=(base[:number] - e_reference).flatten(1).norm(dim=1)[latent_of_row],
    )
