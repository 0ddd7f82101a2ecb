"""`bench sampling`: what each sampling method costs, and what the options of the sampling nodes do to pictures."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import comfy.samplers
import numpy as np
import torch
from PIL import Image
from unguide.demo_model.judges import JudgePair
from unguide.demo_model.loader import load_demo_model
from unguide.unguide_ops import host
from unguide.unguide_ops.concept import concept_from
from unguide.unguide_ops.concept_lora import ConceptLoRA
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide

from dev.bench import Bench, memory
from dev.bench import sampling_methods as methods
from dev.bench.card.prompts import captions
from dev.bench.forgetting import PAPER_SEEDS, accuracies
from dev.bench.random_model_session import random_model_setup
from dev.bench.reference import blend, relative_error
from dev.bench.report import as_floats, figures_table, grid, table
from dev.bench.sessions import SIZE, Session, all_threads, demo_session
from dev.bench.words import photo, prompts_of
from dev.families.full import SD15

CLASSES = ("cat", "automobile", "frog", "ship")
NUMBER = 8  # pictures per prompt
BASE, PAPER, REFERENCE = "base", "paper", "reference"
VARIANTS: dict[str, dict] = {
    "default": {},
    "cond and uncond": {"lora_branch": "cond and uncond"},
    "eta 1": {"eta": 1.0},
    "3 gate steps, going on": {"gate_steps": 3},
    "3 gate steps, restart": {"gate_steps": 3, "restart": True},
    "w_erased -1": {"w_erased": -1.0},
    "w_erased -0.5": {"w_erased": -0.5},
    "softness 0.2": {"softness": 0.2},
    "first half only": {"end": 0.5},
    "half": {"w": 0.5, **methods.AS_PUBLISHED},
}
LABELS = {"default": "default: w = 0 from the first step", PAPER: "paper: -1 or 2 by its rule",
          "half": "w = 0.5 for all"}  # fmt: skip
GATE_CALLS = 3  # about a picture, if its words leave a doubt
COLOURS = ("clipped", "saturation", "contrast")
PAPER_GATE_SEEDS = (10, 30)


def measure(bench: Bench) -> dict:
    """`figures`, `costs`, `full_size`, `memory` and `variants`; writes sampling.png."""
    classes = bench.options.classes or CLASSES
    (cost,) = bench.each("Timing", cost_on_demo, [(bench.folder, classes[0])])
    (full_size,) = bench.each("Timing, full size", cost_at_full_size, [()])
    peaks = memory.measure(memory.SAMPLING)
    drawn, judges = bench.each_class("Drawing", draw_variants, classes), JudgePair()
    pictures = {name: by_variant for name, (by_variant, _) in drawn.items()}
    free = fmean(share for _, share in drawn.values())
    variants = {name: compare(name, by_variant, judges) for name, by_variant in pictures.items()}
    short, long = cost["costs"]["20 steps, batch 1"], cost["costs"]["50 steps, batch 1"]
    plain = peaks["sampling, plain"]
    figures = {
        "unrelated_evaluations_ratio": long["ours, unrelated"]["evaluations"],
        "unrelated_wall_ratio_20": short["ours, unrelated"]["wall"],
        "unrelated_wall_ratio_50": long["ours, unrelated"]["wall"],
        "unrelated_bit_identical": cost["bit_identical"],
        "unrelated_zero_call_share": free,
        **{f"unrelated_calls_{steps}": 1 + (1 - free) * GATE_CALLS / (2 * steps) for steps in (20, 4)},
        "erased_blend_calls_20": short["ours, erased"]["evaluations"],
        "erased_swap_calls_20": short["ours, erased, swapped"]["evaluations"],
        "erased_evaluations_ratio": long["ours, erased, cond and uncond"]["evaluations"],
        "erased_cond_only_evaluations_ratio": long["ours, erased"]["evaluations"],
        "memory_ratio": peaks["sampling, ours, erased"] / plain,
        "two_copies_memory_ratio": peaks["sampling, two copies"] / plain,
        **{f"paper{seeds}_evaluations_ratio": cost["paper"][seeds] for seeds in PAPER_GATE_SEEDS},
        "swap_wall_ratio": long["weight swap"]["wall"],
        "host_hooks_wall_ratio": long["host weight hooks"]["wall"],
        "two_copies_wall_ratio": long["two copies"]["wall"],
        "max_relative_error": cost["max_relative_error"],
        **{f"h0 {it}": fmean(by_variant[it]["h0"] for by_variant in variants.values())
           for it in (BASE, *VARIANTS, PAPER)},
    }  # fmt: skip
    variants_grid(pictures).save(bench.output / "sampling.png")
    return {"figures": figures, "costs": cost["costs"], "full_size": full_size, "memory": peaks, "variants": variants}


def cost_on_demo(folder: Path, name: str) -> dict:
    """A worker's task, alone on the machine: the costs of all methods, and how exact UnGuidance is."""
    session = demo_session(folder)
    with all_threads(), torch.inference_mode():
        lora = session.train(name).lora
        unrelated = photo("horse" if name != "horse" else "ship")
        prompts = {methods.ERASED: photo(name), methods.UNRELATED: unrelated, "": ""}
        encoded = {key: session.encode(prompt) for key, prompt in prompts.items()}
        latent = host.empty_latent(session.model, SIZE, SIZE)
        setup = methods.SamplingSetup(session.model, lora, encoded, latent, lambda: load_demo_model(folder)[0])
        costs = {
            f"{steps} steps, batch {batch}": methods.costs(setup, steps, batch, rounds)
            for steps, batch, rounds in ((20, 1, 5), (50, 1, 3), (20, 4, 2))
        }
        paper = {}
        for seeds in PAPER_GATE_SEEDS:
            _, evaluations = methods.paper_weights(
                session.model, lora, session.encode, [photo(name)], seeds=seeds, width=SIZE, height=SIZE
            )
            paper[seeds] = (evaluations + 4 * 50) / (2 * 50)
        exact = all(
            torch.equal(*(draw(setup, methods.UNRELATED, 20, batch) for draw in (methods.plain, methods.unguidance)))
            for batch in (1, 4)
        )
        return {"costs": costs, "paper": paper, "bit_identical": int(exact), "max_relative_error": largest_error(setup)}


@torch.inference_mode()
def share_left_by_words(session: Session, lora: ConceptLoRA, name: str) -> float:
    """The share of everyday captions whose words leave them to the base model without a model call."""
    votes = [lora.text.response_to(session.encode(caption)) for caption in captions(name, None)]
    return fmean(lora.calibration.words_alone(vote) is not None for vote in votes)


def largest_error(setup: methods.SamplingSetup) -> float:
    """The largest difference from two merged copies, over all samplers that do not choose their own steps."""
    guided = unguide(setup.model, setup.lora, SteeringConfig(w=methods.W, **methods.AS_PUBLISHED))
    copies = blend(setup.model, (setup.merged, methods.W))

    def draw(model, sampler: str) -> torch.Tensor:
        positive, negative, latent = setup.prompts[methods.ERASED], setup.prompts[""], {"samples": setup.latent}
        return host.ksample(model, 0, 8, methods.CFG, sampler, "normal", positive, negative, latent, 1.0)["samples"]

    samplers = [it for it in comfy.samplers.KSampler.SAMPLERS if it != "dpm_adaptive"]
    return max(relative_error(draw(guided, sampler), draw(copies, sampler)) for sampler in samplers)


def cost_at_full_size() -> dict:
    """A worker's task: the methods on Stable Diffusion 1.5 with random weights, a small latent and few steps."""
    with all_threads(), torch.inference_mode():
        by_lora = [name for name in methods.METHODS if name != "ours, erased, swapped"]  # its LoRA knows no text
        return methods.costs(random_model_setup(SD15, 128, memory.loading_dtype()), 3, 1, 1, by_lora)


def draw_variants(folder: Path, name: str) -> tuple[dict[str, dict[str, np.ndarray]], float]:
    """A worker's task: variant -> prompt -> pictures, uint8; BASE and PAPER among the variants, and REFERENCE, the
    class's reference prompt by the base model. And the share of captions that words leave to the base model.
    """
    session, prompts = demo_session(folder), variant_prompts(name)
    lora = session.train(name).lora
    by_rule, _ = methods.paper_weights(
        session.model, lora, session.encode, prompts, seeds=PAPER_SEEDS, width=SIZE, height=SIZE
    )

    def steered(**config):
        return unguide(session.model, lora, SteeringConfig(**config))

    models = {variant: steered(**config) for variant, config in VARIANTS.items()} | {BASE: None}
    pictures = {it: {prompt: session.draw(prompt, model, NUMBER) for prompt in prompts} for it, model in models.items()}
    pictures[PAPER] = {
        prompt: session.draw(prompt, steered(w=by_rule[prompt], **methods.AS_PUBLISHED), NUMBER) for prompt in prompts
    }
    reference = concept_from(name, "", "", "", "").reference
    pictures[REFERENCE] = {"": session.draw(reference, None, NUMBER)}
    return pictures, share_left_by_words(session, lora, name)


def variant_parts(name: str) -> dict[str, list[str]]:
    """The class's prompts by part, two of the seen and two of the unseen words only."""
    parts = prompts_of(name)
    return parts | {"seen": parts["seen"][:2], "unseen": parts["unseen"][:2]}


def variant_prompts(name: str, others: bool = True) -> list[str]:
    """The prompts that are drawn: those that mean the class, then `others` as well."""
    parts = variant_parts(name)
    return [*parts["target"], *parts["seen"], *parts["unseen"], *(parts["others"] if others else ())]


def compare(name: str, by_variant: dict, judges: JudgePair) -> dict[str, dict[str, float]]:
    """Variant -> accuracies, H0, and the colours of the erased prompts' pictures and of the others'."""
    rows: dict[str, dict[str, float]] = {}
    for variant, pictures in by_variant.items():
        if variant == REFERENCE:
            rows[variant] = colours(pictures.values())
            continue

        def share(prompt: str, shown: str, pictures=pictures) -> float:
            return judges.share_recognised(as_floats(pictures[prompt]), shown)

        colours_of_others = colours(pictures[prompt] for prompt in prompts_of(name)["others"])
        rows[variant] = {
            **accuracies(share, name, variant_parts(name)),
            **colours(pictures[prompt] for prompt in variant_prompts(name, others=False)),
            **{f"{measure}_others": value for measure, value in colours_of_others.items()},
        }
    return rows


def colours(pictures) -> dict[str, float]:
    """Of pictures uint8 [N, 3, H, W]: the share of values at either end, mean saturation (HSV), standard deviation."""
    values = np.concatenate([*pictures])
    clipped = float(((values == 0) | (values == 255)).mean())
    values = values.astype(np.float32) / 255
    high, low = values.max(1), values.min(1)
    saturation = float(((high - low) / np.maximum(high, 1e-6)).mean())
    return dict(zip(COLOURS, (clipped, saturation, float(values.std())), strict=True))


def variants_grid(pictures: dict[str, dict]) -> Image.Image:
    """Rows: the classes, three pictures of the target each. Columns: the variants."""
    columns = [BASE, *VARIANTS, PAPER]
    cells = [[as_floats(it[column][photo(name)][:3]) for column in columns] for name, it in pictures.items()]
    return grid(list(pictures), columns, cells)


def text(result: dict) -> str:
    """The report as Markdown."""
    figures = {name: value for name, value in result["figures"].items() if not name.startswith("h0")}
    cases = {**result["costs"], "SD 1.5, full size": result["full_size"]}
    costs = [
        {"": method, **{label: f"{by_method[method]['evaluations']:.2f} / {by_method[method]['wall']:.2f}"
                        for label, by_method in cases.items() if method in by_method}}
        for method in methods.METHODS
    ]  # fmt: skip
    heads = {"Acc_e": "acc_e", "Acc_g": "acc_g", "unseen": "acc_u", "Acc_s": "acc_s", "H0": "h0",
             **{it: it for it in COLOURS}, **{f"others: {it}": f"{it}_others" for it in COLOURS}}  # fmt: skip
    rows = []
    for variant in (BASE, REFERENCE, *VARIANTS, PAPER):
        its = [by_variant[variant] for by_variant in result["variants"].values()]
        means = {head: fmean(it[key] for it in its) if key in its[0] else None for head, key in heads.items()}
        rows.append({"sampling": LABELS.get(variant, variant), **means})
    return "\n\n".join([
        figures_table(figures, ".3g"),
        "As ratios to plain sampling, model calls / wall time:",
        table(costs),
        "Peak memory: " + ", ".join(f"{case} {mib:.0f} MiB" for case, mib in result["memory"].items()),
        f"Means over {', '.join(result['variants'])}; colours of erased prompts, and of the others:",
        table(rows),
    ]) + "\n"  # fmt: skip
