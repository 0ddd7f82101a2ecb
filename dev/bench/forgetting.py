"""The paper's phenomena on the embedded model: one w for all prompts, the LoRA alone, and what a gate could see."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from dev.bench.model import Pictures, mean
from dev.bench.studio import CFG, PICTURES, SIZE, photo, studio
from dev.demo_graph import PRESET
from dev.judge import Panel

WAYS = {"lora": 0.0, "half": 0.5, "w_2": 2.0, "w_minus_1": -1.0}  # one w for every prompt; w = 1 is the base
GATE_STEPS, SCHEDULE = (0, 4, 8, 16, 24), 50
TOUCHED = ("target", "seen", "unseen")  # parts of a class's prompts that mean it
PAPER, GATED, RIGHT = "paper's rule", "guidance cosine", "a right gate"


def prompts_of(words: dict, name: str) -> dict[str, list[str]]:
    """A class's prompts by their part in the measures. `wary`: prompts that a gate should leave to the base."""
    entry = words["classes"][name]
    return {
        "target": [photo(name)],
        "seen": [photo(word) for word in entry["seen"][1:]],
        "unseen": [photo(word) for word in entry["unseen"]["test"]],
        "others": [photo(other) for other in words["classes"] if other != name],
        "wary": [photo(word) for word in [*entry["neighbours"]["test"], *entry["compounds"]["test"]]],
    }


def forget(
    folder: Path, words: dict, name: str, preset: str = PRESET, changes: dict | None = None,
    ways: tuple[str, ...] = tuple(WAYS), number: int = PICTURES,
) -> dict:  # fmt: skip
    """A task for a worker: train a LoRA for the class, probe every prompt and draw it every way.

    `changes` replace settings of the preset. Returns the training's `report`, `pictures` (way -> prompt -> uint8
    array), `scores` (statistic -> step -> prompt -> score), and `erased` (gate -> prompts that it takes for the
    concept). Without "w_2" among the ways, w = -1 is drawn only where some gate asks for it.
    """
    it = studio(folder)
    from unguide.unguide_ops import gate, host, settings
    from unguide.unguide_ops.concept import EncodedConcept, concept_from
    from unguide.unguide_ops.probe import ProbeSettings, probe
    from unguide.unguide_ops.training import train
    from unguide.unguide_ops.unguidance import unguide

    size = {"width": SIZE, "height": SIZE}
    parts = prompts_of(words, name)
    touched = [prompt for part in TOUCHED for prompt in parts[part]]
    drawn = [*touched, *parts["others"]]
    probed = [*drawn, *parts["wary"]]
    with torch.inference_mode():
        concept = concept_from(name, "", "", "", "")
        encoded = EncodedConcept.of(concept, lambda prompt: host.encode(it.clip, prompt))
        trained = train(it.model, encoded, dataclasses.replace(settings.preset(preset, **size), **(changes or {})))
        erased = {}
        for label, mode in ((PAPER, gate.PAPER), (GATED, gate.GUIDANCE_COSINE)):
            found = probe(it.model, trained.lora, it.clip, probed, ProbeSettings(mode=mode, **size))
            erased[label] = [prompt for prompt, touches in zip(probed, found.erased(), strict=True) if touches]
        scores = gate_scores(it, trained.lora, probed)
    asked = dict.fromkeys(ways, drawn)
    if "w_2" not in ways:
        asked["w_minus_1"] = [
            prompt for prompt in drawn if prompt in touched or any(prompt in e for e in erased.values())
        ]
    pictures = {
        way: {p: it.draw(p, unguide(it.model, trained.lora, WAYS[way]), number).numpy() for p in prompts}
        for way, prompts in asked.items()
    }
    return {"report": trained.report(), "pictures": pictures, "scores": scores, "erased": erased}


def gate_scores(it, lora, prompts: list[str]) -> dict[str, dict[int, list[float]]]:
    """Every statistic along the base's own trajectory, one seed: statistic -> step -> a score for each prompt."""
    from unguide.unguide_ops import gate, host
    from unguide.unguide_ops.concept import NEUTRAL
    from unguide.unguide_ops.objective import classifier_free_guidance, ddim_step
    from unguide.unguide_ops.probe import ROWS, TARGET
    from unguide.unguide_ops.unguidance import branch_of

    branch = branch_of(it.model, lora)
    latent = host.empty_latent(it.model, SIZE, SIZE)
    rows = latent.expand(len(prompts), *latent.shape[1:])
    names = {ROWS: host.stack([host.encode(it.clip, prompt) for prompt in prompts])}
    names |= {TARGET: host.unpack_conditioning(lora.target_prompt), NEUTRAL: host.encode(it.clip, NEUTRAL)}
    scores: dict[str, dict[int, list[float]]] = {}

    def body(live):
        sigmas = live.ddim_sigmas(SCHEDULE)
        x = live.first_latents(sigmas[0], host.noise_like(latent, 0).expand_as(rows))
        with branch.attached(live.diffusion_model):
            for step in range(max(GATE_STEPS) + 1):
                if step in GATE_STEPS:
                    for statistic, values in statistics(x, sigmas[step], live, branch).items():
                        scores.setdefault(statistic, {})[step] = values.tolist()
                cond, uncond = live.denoised(x, sigmas[step], ROWS, NEUTRAL)
                x = ddim_step(x, classifier_free_guidance(uncond, cond, CFG), sigmas[step], sigmas[step + 1])

    def statistics(x, sigma, live, branch):
        base, base_target, base_neutral = live.predictions(x, sigma, ROWS, TARGET, NEUTRAL)
        with branch.on():
            lora_rows, lora_target, lora_neutral = live.predictions(x, sigma, ROWS, TARGET, NEUTRAL)
        norm = gate.change_norm(base, lora_rows)
        direction = torch.nn.functional.normalize((lora_target - base_target).flatten(1))
        return {
            "L2 (paper)": norm,
            'L2 less that of ""': norm - gate.change_norm(base_neutral, lora_neutral),
            "L2 over the guidance": norm / (base - base_neutral).flatten(1).norm(dim=1).clamp(min=1e-6),
            "projection on the target's change": ((lora_rows - base).flatten(1) * direction).sum(1),
            "change cosine": gate.change_cosine(base, lora_rows, base_target, lora_target),
            "guidance cosine": gate.guidance_cosine(base, base_target, base_neutral),
        }

    host.session(it.model, names, rows, body)
    return scores


def accuracies(words: dict, name: str, result: dict, base: Pictures, panel: Panel) -> dict[str, dict[str, float]]:
    """Acc_e, Acc_s, Acc_g, the same for unseen words (acc_u), and H0, of every way, by both judges' mean."""
    from unguide_ops.metrics import h0  # this process has no host

    parts = prompts_of(words, name)
    touched = {prompt for part in TOUCHED for prompt in parts[part]}
    ways: dict[str, Pictures] = {
        way: {prompt: torch.from_numpy(them).float() / 255 for prompt, them in its.items()}
        for way, its in result["pictures"].items()
    }
    ways["base"] = base
    for label, erased in ((RIGHT, touched), *result["erased"].items()):
        ways[label] = {p: ways["w_minus_1" if p in erased else "base"][p] for p in ways["lora"]}

    def share(way: str, part: str) -> float:
        return mean(panel.share_recognised(ways[way][prompt], name) for prompt in parts[part])

    found = {}
    for way in [way for way, its in ways.items() if all(prompt in its for prompt in ways["lora"])]:
        others = mean(panel.share_recognised(ways[way][photo(o)], o) for o in words["classes"] if o != name)
        acc_e, acc_g = share(way, "target"), share(way, "seen")
        found[way] = {"acc_e": acc_e, "acc_s": others, "acc_g": acc_g, "acc_u": share(way, "unseen"),
                      "h0": h0(acc_e, others, acc_g)}  # fmt: skip
    return found


def gate_aucs(words: dict, name: str, result: dict) -> dict[str, dict[int, float]]:
    """How well each statistic ranks target, synonyms and unseen words above all other prompts (area under ROC)."""
    from torchmetrics.functional.classification import binary_auroc

    parts = prompts_of(words, name)
    labels = torch.tensor([part in TOUCHED for part, them in parts.items() for _ in them]).long()
    return {
        statistic: {step: binary_auroc(rank(torch.tensor(values)), labels).item() for step, values in steps.items()}
        for statistic, steps in result["scores"].items()
    }


def rank(scores: torch.Tensor) -> torch.Tensor:
    """Scores as numbers in [0, 1] of the same order, ties kept: what torchmetrics takes as probabilities."""
    _, places = torch.unique(scores, return_inverse=True)
    return places / max(1, int(places.max()))


def gate_errors(words: dict, name: str, result: dict) -> dict[str, dict[str, float]]:
    """Each gate's decisions: the share of prompts of each part that it takes for the concept."""
    return {
        label: {part: mean(prompt in erased for prompt in them) for part, them in prompts_of(words, name).items()}
        for label, erased in result["erased"].items()
    }
