"""Measuring the gate's scores: sample with the base model for a few steps and compare predictions (section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean, pstdev

import torch

from .. import host
from ..concept import EMPTY_PROMPT
from ..concept_lora import ConceptLoRA
from ..ddim import classifier_free_guidance, ddim_trajectory
from ..host.types import Conditioning, Model
from ..lora.adapter import LoRAAdapter
from ..model_adapter import adapter_for
from .decision import GateDecision
from .scores import NOT_FINITE, change_norm, response

TARGET_PROMPT = "target prompt"  # the name, among a session's prompts, of the target prompt that the LoRA carries
Encode = Callable[[str], Conditioning]


@dataclass
class PromptScore:
    """One prompt's scores, [seeds][noise levels], its share of the model calls, and the decision that follows."""

    prompt: str
    scores: list[list[float]]
    evaluations: int
    decision: GateDecision

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds of the mean over the noise levels; 0 for a single seed."""
        return pstdev(fmean(levels) for levels in self.scores)


def calibration_trajectory(steps: int, levels: int, cfg: float, width: int, height: int) -> ProbeTrajectory:
    """The trajectory of a calibration, and of the probes that use it: scored at its first steps, from pure noise on."""
    return ProbeTrajectory(steps, tuple(range(levels)), cfg, width, height)


ScoreFunction = Callable[[host.LiveModel, LoRAAdapter, torch.Tensor, float, list[str], torch.Tensor], torch.Tensor]
"""(live model, adapter, latents [B, ...], noise level, a prompt per row, the base's predictions) -> scores [B]."""


def score_by_change_norm(
    live: host.LiveModel, adapter: LoRAAdapter, x: torch.Tensor, sigma: float, prompts: list[str], base: torch.Tensor
) -> torch.Tensor:
    """The paper's score, `scores.change_norm`, as a ScoreFunction."""
    with adapter.on():
        return change_norm(base, live.row_predictions(x, x.new_full((len(x),), sigma), prompts))


def score_by_response(
    live: host.LiveModel, adapter: LoRAAdapter, x: torch.Tensor, sigma: float, prompts: list[str], base: torch.Tensor
) -> torch.Tensor:
    """The calibrated gate's score, `scores.response`, as a ScoreFunction. Raises ValueError for NaN or infinity."""
    distinct, index = torch.unique(x.flatten(1), dim=0, return_inverse=True)  # equal latents share the target's calls
    distinct = distinct.view(-1, *x.shape[1:])
    targets = [TARGET_PROMPT] * len(distinct)
    base_target = live.row_predictions(distinct, x.new_full((len(distinct),), sigma), targets)
    with adapter.on():
        rows = torch.cat([x, distinct])
        lora, lora_target = live.row_predictions(rows, x.new_full((len(rows),), sigma), [*prompts, *targets]).split(
            [len(x), len(distinct)]
        )
    scores = response(base, lora, base_target[index], lora_target[index])
    if not scores.isfinite().all():
        raise ValueError(NOT_FINITE)
    return scores


@dataclass(frozen=True)
class ProbeTrajectory:
    """The base model's DDIM trajectory from pure noise, with CFG, and the steps at which scores are measured."""

    steps: int  # of the whole DDIM schedule
    scored_steps: tuple[int, ...]  # ascending, from 0; sampling ends at the last of them
    cfg: float
    width: int  # pixels
    height: int

    def run(
        self,
        live: host.LiveModel,
        adapter: LoRAAdapter,
        noise: torch.Tensor,
        prompts: list[str],
        score_function: ScoreFunction,
        on_step: Callable[[int], None],
    ) -> torch.Tensor:
        """The scores [B, scored steps] of pure noise [B, ...], a prompt per row; `on_step` gets each step's number."""
        last = self.scored_steps[-1]
        sigmas, scores = self.sigmas(live)[: last + 1], []
        e = noise
        trajectory = ddim_trajectory(live.first_latents(sigmas[0], noise), sigmas, lambda x, sigma: x - sigma * e)
        for step, x in enumerate(trajectory):
            is_guided = step < last and self.cfg != 1
            rows, row_prompts = x, prompts
            if is_guided:
                rows, row_prompts = torch.cat([x, x]), [*prompts, *[EMPTY_PROMPT] * len(x)]
            e = live.row_predictions(rows, x.new_full((len(rows),), sigmas[step]), row_prompts)
            if step in self.scored_steps:
                scores.append(score_function(live, adapter, x, sigmas[step], prompts, e[: len(x)]))
            if is_guided:
                e = classifier_free_guidance(e[len(x) :], e[: len(x)], self.cfg)
            on_step(step)
        return torch.stack(scores, 1)

    def sigmas(self, live: host.LiveModel) -> list[float]:
        """The noise levels of the whole DDIM schedule."""
        return live.ddim_sigmas(self.steps)


@dataclass
class ScoreTable:
    """Scores of several prompts."""

    scores: dict[str, list[list[float]]]  # by prompt: [seeds][scored steps]
    sigmas: list[float]  # noise levels of the scored steps
    evaluations: int  # model calls that all of this took

    def prompt_scores(
        self, prompts: list[str], decide: Callable[[str, list[list[float]]], GateDecision]
    ) -> list[PromptScore]:
        """A PromptScore for each of these prompts, with an equal share of the model calls, rounded up."""
        share = -(-self.evaluations // len(self.scores))
        return [
            PromptScore(prompt, self.scores[prompt], share, decide(prompt, self.scores[prompt])) for prompt in prompts
        ]


def measure_scores(
    model: Model,
    lora: ConceptLoRA,
    encode: Encode,
    prompts: Iterable[str],
    seeds: int,
    seed: int,
    trajectory: ProbeTrajectory,
    score_function: ScoreFunction,
) -> ScoreTable:
    """The scores of each prompt for `seeds` noises, from `seed` on, in batches of as many rows as fit in memory."""
    adapter, counter = adapter_for(model, lora), host.EvaluationCounter()
    counted = counter.count_on(model)
    latent = host.empty_latent(model, trajectory.width, trajectory.height)
    noises = [host.noise_like(latent, seed + i) for i in range(seeds)]
    shared = {EMPTY_PROMPT: encode(EMPTY_PROMPT)}
    if lora.target_prompt:
        shared[TARGET_PROMPT] = host.unpack_conditioning(lora.target_prompt)
    rows = [(prompt, i) for prompt in dict.fromkeys(prompts) for i in range(seeds)]
    size = host.rows_that_fit(model, latent)
    batches = [rows[i : i + size] for i in range(0, len(rows), size)]
    progress, steps = host.ProgressReporter(), trajectory.scored_steps[-1] + 1
    progress.begin(len(batches) * steps)
    scores: dict[str, list[list[float]]] = {}
    sigmas: list[float] = []
    for number, batch in enumerate(batches):
        row_prompts = [prompt for prompt, _ in batch]
        encoded = {**{prompt: encode(prompt) for prompt in dict.fromkeys(row_prompts)}, **shared}

        def body(live: host.LiveModel, row_prompts=row_prompts, batch=batch, number=number) -> torch.Tensor:
            schedule = trajectory.sigmas(live)
            sigmas[:] = [schedule[step] for step in trajectory.scored_steps]
            noise = torch.cat([noises[i] for _, i in batch])
            with adapter.attached(live.diffusion_model):
                return trajectory.run(
                    live, adapter, noise, row_prompts, score_function,
                    lambda step: progress.update(number * steps + step + 1),
                )  # fmt: skip

        batch_scores = host.session(counted, encoded, latent.expand(len(batch), *latent.shape[1:]), body)
        for prompt, levels in zip(row_prompts, batch_scores.cpu().tolist(), strict=True):
            scores.setdefault(prompt, []).append(levels)
    return ScoreTable(scores, sigmas, counter.count)
