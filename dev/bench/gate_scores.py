"""Every score that a gate could use, higher the more a prompt touches the erased concept, and the area under ROC."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from torch.nn.functional import cosine_similarity, normalize
from unguide.unguide_ops.concept import EMPTY_PROMPT
from unguide.unguide_ops.gate.probe_trajectory import TARGET_PROMPT, ProbeTrajectory, measure_scores
from unguide.unguide_ops.gate.scores import change_norm, response

from dev.bench.sessions import CFG, SIZE

SCHEDULE = 50  # DDIM steps
PAPER, OURS = "L2 (paper)", "response"


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Area under the ROC curve: how often a prompt with a true label scores higher than one with a false label."""
    scores, labels = np.asarray(scores), np.asarray(labels, dtype=bool)
    return float(mannwhitneyu(scores[labels], scores[~labels]).statistic / (labels.sum() * (~labels).sum()))


def scores_along(
    model, lora, encode: Callable, prompts: Sequence[str], seeds: int, steps: tuple[int, ...], cfg: float = CFG
) -> dict[str, dict[int, dict[tuple[str, int], float]]]:
    """Statistic -> step -> (prompt, seed) -> score, along the base model's own trajectories."""
    statistics: list[str] = []

    def every_score(live, adapter, x, sigma, row_prompts, base):
        """A ScoreFunction that gives every statistic, [B, statistics]."""
        levels = x.new_full((len(x),), sigma)
        targets, empties = [TARGET_PROMPT] * len(x), [EMPTY_PROMPT] * len(x)
        unchanged = [base, *(live.row_predictions(x, levels, rows) for rows in (targets, empties))]
        with adapter.on():
            changed = [live.row_predictions(x, levels, rows) for rows in (row_prompts, targets, empties)]
        scores = of_predictions(*unchanged, *changed)
        statistics[:] = scores
        return torch.stack(list(scores.values()), 1)

    trajectory = ProbeTrajectory(SCHEDULE, steps, cfg, SIZE, SIZE)
    scores = measure_scores(model, lora, encode, prompts, seeds, 0, trajectory, every_score).scores
    return {
        statistic: {
            step: {
                (prompt, seed): by_step[j][i]
                for prompt, by_seed in scores.items()
                for seed, by_step in enumerate(by_seed)
            }
            for j, step in enumerate(steps)
        }
        for i, statistic in enumerate(statistics)
    }


def of_predictions(base, base_target, base_empty, lora, lora_target, lora_empty) -> dict[str, torch.Tensor]:
    """Statistic -> scores [B], from predictions [B, ...] at the same latents for the prompts, the target prompt and the
    empty prompt, by the base model and with the LoRA.
    """
    norm, empty_norm = change_norm(base, lora), change_norm(base_empty, lora_empty)
    change, target_change = (lora - base).flatten(1), (lora_target - base_target).flatten(1)
    guidance, target_guidance = (base - base_empty).flatten(1), (base_target - base_empty).flatten(1)
    return {
        PAPER: norm,
        'L2 less that of ""': norm - empty_norm,
        'L2 over that of ""': norm / empty_norm,
        "L2 over the guidance": norm / guidance.norm(dim=1).clamp(min=1e-6),
        "change cosine": cosine_similarity(change, target_change),
        "guidance cosine": cosine_similarity(guidance, target_guidance),
        "projection on the target's change": (change * normalize(target_change)).sum(1),
        OURS: response(base, lora, base_target, lora_target),
    }


def of_texts(linears: dict, lora, encode: Callable, concept, prompts: Sequence[str]) -> dict[str, list[float]]:
    """Statistic -> scores [B], from the encoded prompts alone, without running the UNet.

    `linears`: the model's layers by the names of the LoRA's pairs. `concept`: a Concept.
    """
    target, names = concept.target, concept.erased
    tokens = {prompt: encode(prompt)[0][0][0].float() for prompt in (*prompts, *names, *concept.preserved)}

    def similarity(prompt: str, others: Sequence[str]) -> float:
        """The cosine with the nearest of the other prompts."""
        vectors = torch.stack([tokens[other].mean(0) for other in others if other != prompt])
        return cosine_similarity(tokens[prompt].mean(0)[None], vectors).max().item()

    def layer_scores(prompt: str, name: str) -> tuple[float, float]:
        """How much of the target's change of a layer's output the prompt causes, and its change's relative size."""
        pair = lora.pairs[name]
        change, target_change = pair.change(tokens[prompt]), pair.change(tokens[target])
        plain = linears[name](tokens[prompt].to(linears[name].weight)).float()
        share = (change @ target_change.mean(0)).mean() / target_change.mean(0).square().sum()
        return share.item(), (change.norm() / plain.norm()).item()

    layers = torch.tensor([[layer_scores(prompt, name) for name in lora.pairs] for prompt in prompts]).mean(1)
    to_target = [similarity(prompt, [target]) if prompt != target else 1.0 for prompt in prompts]
    margins = [
        (1.0 if prompt in names else similarity(prompt, names)) - similarity(prompt, concept.preserved)
        for prompt in prompts
    ]
    return {
        "text: cosine with the target": torch.tensor(to_target).tolist(),
        "text: nearest name less nearest preserved": torch.tensor(margins).tolist(),
        "keys and values: response": layers[:, 0].tolist(),
        "keys and values: size of the change": layers[:, 1].tolist(),
    }
