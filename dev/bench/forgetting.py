"""How well a class is forgotten on the embedded model: with one w for all prompts, the LoRA alone, and by gates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import torch
from unguide.demo_model.judges import JudgePair
from unguide.unguide_ops.gate import decision
from unguide.unguide_ops.gate.probe import ProbeConfig, probe
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide
from unguide.unguide_ops.metrics.tables import overall

from dev.bench.gate_scores import auc, scores_along
from dev.bench.report import Pictures, as_floats
from dev.bench.sampling_methods import AS_PUBLISHED
from dev.bench.sessions import PICTURES, SIZE, demo_session
from dev.bench.words import ERASED_PARTS, drawn_prompts, erased_prompts, other_classes, photo, prompts_of

FIXED_W = {"lora": 0.0, "half": 0.5, "w_2": 2.0, "w_minus_1": -1.0}  # for every prompt; w = 1 is the base model
PAPER_SEEDS = 4  # the paper takes 30
GATE_STEPS = (0, 4, 8)  # a gate should decide by then
PAPER, GATED, RIGHT = "paper's rule", "calibrated gate", "a right gate"
MEASURES = ("acc_e", "acc_s", "acc_g", "acc_u", "h0")


def forget(
    folder: Path, name: str, preset: str = "object", changes: dict | None = None,
    methods: tuple[str, ...] = tuple(FIXED_W), number: int = PICTURES,
) -> dict:  # fmt: skip
    """A worker's task: trains a LoRA for the class, probes every prompt, and draws it by every method of FIXED_W.

    `changes` replace settings of the preset. Returns the training's `report`, `pictures` (method -> prompt -> uint8
    array), `scores` (statistic -> step -> (prompt, seed) -> score), and `erased` (gate -> prompts that it takes for the
    concept). Without "w_2" among the methods, w = -1 is drawn only for prompts that mean the class or that some gate
    erases.
    """
    session, size = demo_session(folder), {"width": SIZE, "height": SIZE}
    prompts = drawn_prompts([name])
    probed = [*prompts, *prompts_of(name)["wary"]]
    trained, erased = session.train(name, preset, **(changes or {})), {}
    with torch.inference_mode():
        for label, mode, seeds in ((PAPER, decision.PAPER, PAPER_SEEDS), (GATED, decision.CALIBRATED, 1)):
            config = ProbeConfig(mode=mode, seeds=seeds, **size)
            result = probe(session.model, trained.lora, session.encode, probed, config)
            erased[label] = [it.prompt for it in result.prompt_scores if it.decision.erased]
        scores = scores_along(session.model, trained.lora, session.encode, probed, 1, GATE_STEPS)
    steered, pictures = {*erased_prompts(name), *sum(erased.values(), [])}, {}
    for method in methods:
        model = unguide(session.model, trained.lora, SteeringConfig(w=FIXED_W[method], **AS_PUBLISHED))
        is_partial = method == "w_minus_1" and "w_2" not in methods
        pictures[method] = {
            prompt: session.draw(prompt, model, number) for prompt in prompts if prompt in steered or not is_partial
        }
    return {"report": trained.training.report(), "pictures": pictures, "scores": scores, "erased": erased}


def accuracies(
    share: Callable[[str, str], float], name: str, parts: dict[str, list[str]] | None = None
) -> dict[str, float]:
    """Acc_e, Acc_s, Acc_g and H0 of a forgotten class, and `acc_u`, Acc_e under words that the model never saw.

    `share(prompt, class)` is the share of the prompt's pictures taken for the class. `parts`: see `prompts_of`.
    """
    parts = parts or prompts_of(name)
    cases = [("erased", prompt, name) for prompt in parts["target"]]
    cases += [("other", photo(other), other) for other in other_classes(name)]
    cases += [("synonym", prompt, name) for prompt in parts["seen"]]
    (row,) = overall({"part": part, "recognised": share(prompt, shown)} for part, prompt, shown in cases)
    h0 = row.pop("h0")
    return {**row, "acc_u": fmean(share(prompt, name) for prompt in parts["unseen"]), "h0": h0}


def accuracies_by_method(name: str, result: dict, base: Pictures, judges: JudgePair) -> dict[str, dict[str, float]]:
    """Method -> its accuracies, by both judges' mean: each method of a `forget`, the base model, each gate, and RIGHT.

    A gate has w = -1's pictures for the prompts that it erases and the base's for others; RIGHT is one that never errs.
    """
    pictures = {method: {prompt: as_floats(them) for prompt, them in by_prompt.items()}
                for method, by_prompt in result["pictures"].items()} | {"base": base}  # fmt: skip
    prompts = list(pictures["lora"])
    for gate, erased in ((RIGHT, erased_prompts(name)), *result["erased"].items()):
        pictures[gate] = {prompt: pictures["w_minus_1" if prompt in erased else "base"][prompt] for prompt in prompts}
    return {
        method: accuracies(lambda prompt, shown, its=its: judges.share_recognised(its[prompt], shown), name)
        for method, its in pictures.items()
        if all(prompt in its for prompt in prompts)
    }


def gate_aucs(name: str, result: dict) -> dict[str, dict[int, float]]:
    """Statistic -> step -> how well it ranks target, synonyms and unseen words above other prompts (area under ROC)."""
    prompts = [(prompt, part in ERASED_PARTS) for part, them in prompts_of(name).items() for prompt in them]
    labels = [label for _, label in prompts]
    return {
        statistic: {step: auc([scores[prompt, 0] for prompt, _ in prompts], labels) for step, scores in steps.items()}
        for statistic, steps in result["scores"].items()
    }


def gate_errors(name: str, result: dict) -> dict[str, dict[str, float]]:
    """Gate -> part -> the share of the part's prompts that the gate takes for the concept."""
    return {
        gate: {part: fmean(prompt in erased for prompt in prompts) for part, prompts in prompts_of(name).items()}
        for gate, erased in result["erased"].items()
    }
