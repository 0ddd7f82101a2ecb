"""Every statistic that a gate could use: scores that are higher the more a prompt touches the erased concept."""

from __future__ import annotations

import torch
from torch.nn.functional import cosine_similarity

PAPER, OURS = "L2 (paper)", "response"


def of_predictions(base, base_target, base_neutral, lora, lora_target, lora_neutral) -> dict[str, torch.Tensor]:
    """Scores [B] from predictions [B, ...] at the same latents: of the prompts, the target, the empty prompt."""
    from unguide.unguide_ops import gate

    norm = gate.change_norm(base, lora)
    change, goal = (lora - base).flatten(1), (lora_target - base_target).flatten(1)
    guidance, goal_guidance = (base - base_neutral).flatten(1), (base_target - base_neutral).flatten(1)
    empty = gate.change_norm(base_neutral, lora_neutral)
    return {
        PAPER: norm,
        'L2 less that of ""': norm - empty,
        'L2 over that of ""': norm / empty,
        "L2 over the guidance": norm / guidance.norm(dim=1).clamp(min=1e-6),
        "change cosine": cosine_similarity(change, goal),
        "guidance cosine": cosine_similarity(guidance, goal_guidance),
        "projection on the target's change": (change * torch.nn.functional.normalize(goal)).sum(1),
        OURS: gate.response(base, lora, base_target, lora_target),
    }


def of_texts(linears, lora, encode, target: str, synonyms: list[str], preserved: list[str], prompts: list[str]) -> dict:
    """Scores from the encoded prompts alone, no UNet run: [B] each. `linears`: layer name -> the model's Linear."""
    tokens = {prompt: encode(prompt)[0][0][0].float() for prompt in (*prompts, target, *synonyms, *preserved)}

    def alike(prompt: str, others: list[str]) -> float:
        """The cosine with the nearest of the others, itself not among them."""
        vectors = torch.stack([tokens[other].mean(0) for other in others if other != prompt])
        return cosine_similarity(tokens[prompt].mean(0)[None], vectors).max().item()

    def heard(prompt: str, name: str) -> tuple[float, float]:
        """How much of the target's change of a layer's keys or values the prompt causes, and its size."""
        pair = lora.pairs[name]
        change, goal = pair.change(tokens[prompt]), pair.change(tokens[target])
        plain = linears[name](tokens[prompt].to(linears[name].weight)).float()
        return ((change @ goal.mean(0)).mean() / goal.mean(0).square().sum()).item(), (
            change.norm() / plain.norm()
        ).item()

    layers = torch.tensor([[heard(prompt, name) for name in lora.pairs] for prompt in prompts]).mean(1)
    return {
        "text: cosine with the target": torch.tensor([alike(p, [target]) if p != target else 1.0 for p in prompts]),
        "text: nearest name less nearest preserved": torch.tensor(
            [
                (1.0 if p in (target, *synonyms) else alike(p, [target, *synonyms])) - alike(p, preserved)
                for p in prompts
            ]
        ),
        "keys and values: response": layers[:, 0],
        "keys and values: size of the change": layers[:, 1],
    }
