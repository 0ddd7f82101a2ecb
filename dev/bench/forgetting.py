"""The paper's phenomena on the embedded model: one w for all prompts, the LoRA alone, and gates."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from dev.bench.gate import auc, scores_along
from dev.bench.model import Pictures, mean
from dev.bench.studio import PICTURES, SIZE, photo, studio
from dev.bench.ways import AS_PUBLISHED
from dev.demo_graph import PRESET
from dev.judge import Panel

WAYS = {"lora": 0.0, "half": 0.5, "w_2": 2.0, "w_minus_1": -1.0}  # one w for every prompt; w = 1 is the base
PAPER_SEEDS = 4  # the paper takes 30
GATE_STEPS = (0, 4, 8)  # a gate shall know by then
TOUCHED = ("target", "seen", "unseen")  # parts of a class's prompts that mean it
PAPER, GATED, RIGHT = "paper's rule", "calibrated gate", "a right gate"


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
    array), `scores` (statistic -> step -> (prompt, seed) -> score), and `erased` (gate -> prompts that it takes for the
    concept). Without "w_2" among the ways, w = -1 is drawn only where some gate asks for it.
    """
    it = studio(folder)
    from unguide.unguide_ops import gate, host, settings
    from unguide.unguide_ops.calibrate import calibrate
    from unguide.unguide_ops.concept import EncodedConcept, concept_from
    from unguide.unguide_ops.probe import ProbeSettings, probe
    from unguide.unguide_ops.steering import SteeringSettings
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
        lora, _ = calibrate(it.model, trained.lora, encoded, SIZE, SIZE)
        erased = {}
        for label, mode, seeds in ((PAPER, gate.PAPER, PAPER_SEEDS), (GATED, gate.CALIBRATED, 1)):
            found = probe(it.model, lora, encoded.encode, probed, ProbeSettings(mode=mode, seeds=seeds, **size))
            erased[label] = [reading.prompt for reading in found.readings if reading.verdict.erased]
        scores = scores_along(it, lora, encoded.conditioning, probed, 1, GATE_STEPS)
    asked = dict.fromkeys(ways, drawn)
    if "w_2" not in ways:
        asked["w_minus_1"] = [
            prompt for prompt in drawn if prompt in touched or any(prompt in e for e in erased.values())
        ]
    pictures = {
        way: {
            p: it.draw(p, unguide(it.model, lora, SteeringSettings(w=WAYS[way], **AS_PUBLISHED)), number).numpy()
            for p in prompts
        }
        for way, prompts in asked.items()
    }
    return {"report": trained.report(), "pictures": pictures, "scores": scores, "erased": erased}


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
    prompts = [(prompt, part in TOUCHED) for part, them in prompts_of(words, name).items() for prompt in them]
    means = [it for _, it in prompts]
    return {
        statistic: {step: auc([scores[prompt, 0] for prompt, _ in prompts], means) for step, scores in steps.items()}
        for statistic, steps in result["scores"].items()
    }


def gate_errors(words: dict, name: str, result: dict) -> dict[str, dict[str, float]]:
    """Each gate's decisions: the share of prompts of each part that it takes for the concept."""
    return {
        label: {part: mean(prompt in erased for prompt in them) for part, them in prompts_of(words, name).items()}
        for label, erased in result["erased"].items()
    }
