"""What UnGuidance costs and what its choices do to pictures: the sampling node's options against each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dev.bench import memory, ways
from dev.bench.forgetting import prompts_of
from dev.bench.model import mean
from dev.bench.random_stage import new_stage
from dev.bench.studio import SIZE, photo, studio
from dev.families.full import SD15
from dev.judge import Panel

CLASSES = ("cat", "automobile", "frog", "ship")
NUMBER = 8  # pictures a prompt
GATED, PAPER, HALF = "default", "paper", "half"
PAPER_SEEDS = 4  # of the paper's gate; it takes 30, and decides the same (see `bench gate`)
VARIANTS: dict[str, dict] = {
    GATED: {},
    "cond and uncond": {"sides": "cond and uncond"},
    "eta 1": {"eta": 1.0},
    "3 gate steps, going on": {"gate_steps": 3},
    "3 gate steps, restart": {"gate_steps": 3, "restart": True},
    "w_erased 0": {"w_erased": 0.0},
    "w_erased -0.5": {"w_erased": -0.5},
    "softness 0.2": {"softness": 0.2},
    "first half only": {"end": 0.5},
    HALF: {"w": 0.5, **ways.AS_PUBLISHED},
}
NAMES = {GATED: "default: w = -1 from the first step", PAPER: "paper: -1 or 2 by its rule", HALF: "w = 0.5 for all"}


def measure(workers, each, folder: Path, words: dict, classes: list[str]) -> dict:
    """Everything: `figures`, `costs`, `full_size`, `memory`, `variants`, and the `grid`."""
    (cost,) = each(workers, "Timing", cost_on_demo, [(folder, classes[0])])
    (full_size,) = each(workers, "Timing, full size", cost_at_full_size, [(folder,)])
    peaks = memory.measure(memory.SAMPLING)
    found = dict(
        zip(classes, each(workers, "Drawing", draw_variants, [(folder, words, n) for n in classes]), strict=True)
    )
    panel = Panel()
    variants = {name: compare(words, name, it, panel) for name, it in found.items()}
    short, long = cost["costs"]["20 steps, batch 1"], cost["costs"]["50 steps, batch 1"]
    plain = peaks["sampling, plain"]
    figures = {
        "unrelated_evaluations_ratio": long["ours, unrelated"]["evaluations"],
        "unrelated_wall_ratio_20": short["ours, unrelated"]["wall"],
        "unrelated_wall_ratio_50": long["ours, unrelated"]["wall"],
        "unrelated_bit_identical": cost["bit_identical"],
        "erased_evaluations_ratio": long["ours, erased, cond and uncond"]["evaluations"],
        "erased_cond_only_evaluations_ratio": long["ours, erased"]["evaluations"],
        "memory_ratio": peaks["sampling, ours, erased"] / plain,
        "two_copies_memory_ratio": peaks["sampling, two copies"] / plain,
        "paper10_evaluations_ratio": cost["paper"][10],
        "paper30_evaluations_ratio": cost["paper"][30],
        "swap_wall_ratio": long["weight swap"]["wall"],
        "host_hooks_wall_ratio": long["host weight hooks"]["wall"],
        "two_copies_wall_ratio": long["two copies"]["wall"],
        "max_relative_error": cost["max_relative_error"],
    }
    for way in ("base", *VARIANTS, PAPER):
        figures[f"h0 {way}"] = mean(it[way]["h0"] for it in variants.values())
    return {"figures": figures, "costs": cost["costs"], "full_size": full_size, "memory": peaks, "variants": variants,
            "grid": grid(words, found)}  # fmt: skip


def train(it, name: str):
    """The class's LoRA of the default preset, calibrated."""
    from unguide.unguide_ops import host, settings
    from unguide.unguide_ops.calibrate import calibrate
    from unguide.unguide_ops.concept import EncodedConcept, concept_from
    from unguide.unguide_ops.training import train

    encoded = EncodedConcept.of(concept_from(name, "", "", "", ""), lambda prompt: host.encode(it.clip, prompt))
    trained = train(it.model, encoded, settings.preset("object", width=SIZE, height=SIZE))
    return calibrate(it.model, trained.lora, encoded, SIZE, SIZE)[0]


def cost_on_demo(folder: Path, name: str) -> dict:
    """A task for a worker, alone on the machine: costs of all ways, and how exact ours is."""
    it = studio(folder)
    from unguide.demo_model import load_demo_model
    from unguide.unguide_ops import gate, host
    from unguide.unguide_ops.probe import ProbeSettings, probe

    threads = torch.get_num_threads()
    torch.set_num_threads(torch.multiprocessing.cpu_count())
    with torch.inference_mode():
        lora = train(it, name)
        prompts = {ways.ERASED: photo(name), ways.UNRELATED: photo("horse" if name != "horse" else "ship"), "": ""}
        encoded = {key: host.encode(it.clip, prompt) for key, prompt in prompts.items()}
        latent = host.empty_latent(it.model, SIZE, SIZE)
        stage = ways.Stage(it.model, lora, encoded, latent, lambda: load_demo_model(folder)[0])
        costs = {
            f"{steps} steps, batch {batch}": ways.costs(stage, steps, batch, rounds)
            for steps, batch, rounds in ((20, 1, 5), (50, 1, 3), (20, 4, 2))
        }
        paper = {}
        for seeds in (10, 30):
            asked = ProbeSettings(mode=gate.PAPER, seeds=seeds, width=SIZE, height=SIZE)
            probed = probe(it.model, lora, lambda prompt: host.encode(it.clip, prompt), [prompts[ways.ERASED]], asked)
            paper[seeds] = (probed.evaluations + 4 * 50) / (2 * 50)
        exact = all(
            torch.equal(ways.plain(stage, ways.UNRELATED, 20, batch), ways.ours(stage, ways.UNRELATED, 20, batch))
            for batch in (1, 4)
        )
        error = max_relative_error(stage)
    torch.set_num_threads(threads)
    return {"costs": costs, "paper": paper, "bit_identical": int(exact), "max_relative_error": error}


def max_relative_error(stage: ways.Stage) -> float:
    """The largest difference from two merged copies, over all samplers that do not choose their own steps."""
    import comfy.samplers
    from unguide.unguide_ops import host
    from unguide.unguide_ops.steering import SteeringSettings
    from unguide.unguide_ops.unguidance import unguide

    from dev.bench.two_copies import blend, relative_error

    guided = unguide(stage.model, stage.lora, SteeringSettings(w=ways.W, **ways.AS_PUBLISHED))
    copies = blend(stage.model, (stage.merged(), ways.W))
    latent = {"samples": stage.latent}

    def draw(model, sampler: str):
        return host.ksample(
            model, 0, 8, ways.CFG, sampler, "normal", stage.prompts[ways.ERASED], stage.prompts[""], latent, 1.0
        )["samples"]

    samplers = [it for it in comfy.samplers.KSampler.SAMPLERS if it != "dpm_adaptive"]
    return max(relative_error(draw(guided, sampler), draw(copies, sampler)) for sampler in samplers)


def cost_at_full_size(folder: Path) -> dict:
    """A task for a worker: the ways on Stable Diffusion 1.5 with random weights, a small latent, few steps."""
    studio(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(torch.multiprocessing.cpu_count())
    with torch.inference_mode():
        found = ways.costs(new_stage(SD15, 128, memory.half_on_a_gpu()), 3, 1, 1)
    torch.set_num_threads(threads)
    return found


def draw_variants(folder: Path, words: dict, name: str) -> dict:
    """A task for a worker: way -> prompt -> pictures, uint8; "base" among the ways, and "reference" drawn by it."""
    it = studio(folder)
    from unguide.unguide_ops import gate, host
    from unguide.unguide_ops.concept import concept_from
    from unguide.unguide_ops.probe import ProbeSettings, probe
    from unguide.unguide_ops.steering import SteeringSettings
    from unguide.unguide_ops.unguidance import unguide

    with torch.inference_mode():
        lora = train(it, name)
        prompts = drawn_prompts(words, name)
        asked = ProbeSettings(mode=gate.PAPER, seeds=PAPER_SEEDS, width=SIZE, height=SIZE)
        probed = probe(it.model, lora, lambda prompt: host.encode(it.clip, prompt), prompts, asked)
        by_rule = {reading.prompt: -1.0 if reading.verdict.erased else 2.0 for reading in probed.readings}
    models = {way: unguide(it.model, lora, SteeringSettings(**settings)) for way, settings in VARIANTS.items()}
    found = {way: {p: it.draw(p, model, NUMBER).numpy() for p in prompts} for way, model in models.items()}
    found["base"] = {p: it.draw(p, None, NUMBER).numpy() for p in prompts}
    found[PAPER] = {
        p: it.draw(p, unguide(it.model, lora, SteeringSettings(w=by_rule[p], **ways.AS_PUBLISHED)), NUMBER).numpy()
        for p in prompts
    }
    found["reference"] = {"": it.draw(concept_from(name, "", "", "", "").reference, None, NUMBER).numpy()}
    return found


def drawn_prompts(words: dict, name: str) -> list[str]:
    """The target, two seen and two unseen words, the other classes."""
    parts = prompts_of(words, name)
    return [*parts["target"], *parts["seen"][:2], *parts["unseen"][:2], *parts["others"]]


def compare(words: dict, name: str, found: dict, panel: Panel) -> dict[str, dict[str, float]]:
    """Way -> accuracies, H0, and for the erased prompts the share of clipped values, saturation and contrast."""
    from unguide_ops.metrics import h0

    parts = prompts_of(words, name)
    names = {"acc_e": parts["target"], "acc_g": parts["seen"][:2], "acc_u": parts["unseen"][:2]}
    its: dict[str, dict[str, float]] = {}
    for way, pictures in found.items():
        if way == "reference":
            its[way] = colours(np.concatenate(list(pictures.values())))
            continue

        def share(prompt: str, of: str, pictures=pictures) -> float:
            return panel.share_recognised(torch.from_numpy(pictures[prompt]).float() / 255, of)

        its[way] = {measure: mean(share(p, name) for p in prompts) for measure, prompts in names.items()}
        its[way]["acc_s"] = mean(share(photo(other), other) for other in words["classes"] if other != name)
        its[way]["h0"] = h0(its[way]["acc_e"], its[way]["acc_s"], its[way]["acc_g"])
        its[way] |= colours(np.concatenate([pictures[p] for prompts in names.values() for p in prompts]))
        others = colours(np.concatenate([pictures[p] for p in parts["others"]]))
        its[way] |= {f"{measure}_others": value for measure, value in others.items()}
    return its


def colours(pictures: np.ndarray) -> dict[str, float]:
    """Of pictures uint8 [N, 3, H, W]: share of values at either end, mean saturation (HSV), standard deviation."""
    values = pictures.astype(np.float32) / 255
    high, low = values.max(1), values.min(1)
    return {
        "clipped": float(((pictures == 0) | (pictures == 255)).mean()),
        "saturation": float(((high - low) / np.maximum(high, 1e-6)).mean()),
        "contrast": float(values.std()),
    }


def grid(words: dict, found: dict) -> Image.Image:
    """Rows: each class's target. Columns: the ways."""
    from unguide_ops.figures import comparison_grid

    columns = ["base", *VARIANTS, PAPER]
    cells = [
        [torch.from_numpy(its[way][photo(name)][:3]).movedim(1, -1).float() / 255 for way in columns]
        for name, its in found.items()
    ]
    picture = comparison_grid(list(found), columns, torch.stack([torch.stack(row) for row in cells]), "")[0]
    return Image.fromarray((picture * 255).round().byte().numpy())


def text(whole: dict) -> str:
    """The report as Markdown."""
    lines = ["| figure | value |", "|---|---|"]
    lines += [f"| `{name}` | {value:.3g} |" for name, value in whole["figures"].items() if not name.startswith("h0")]
    cases = {**whole["costs"], "SD 1.5, full size": whole["full_size"]}
    lines += ["", "As ratios to plain sampling, evaluations / wall time:", "",
              f"| | {' | '.join(cases)} |", "|---" * (len(cases) + 1) + "|"]  # fmt: skip
    for way in ways.WAYS:
        cells = [f"{its[way]['evaluations']:.2f} / {its[way]['wall']:.2f}" for its in cases.values()]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    lines += ["", "Peak memory: " + ", ".join(f"{case} {mib:.0f} MiB" for case, mib in whole["memory"].items())]
    lines += ["", f"Mean of {', '.join(whole['variants'])}; colours of erased prompts, and of the others:", "",
              "| sampling | Acc_e | Acc_g | unseen | Acc_s | H0 | clipped | saturation | contrast | others: clipped |"
              " saturation | contrast |", "|---" * 12 + "|"]  # fmt: skip
    measures = ("acc_e", "acc_g", "acc_u", "acc_s", "h0", "clipped", "saturation", "contrast",
                "clipped_others", "saturation_others", "contrast_others")  # fmt: skip
    for way in ("base", "reference", *VARIANTS, PAPER):
        its = [it[way] for it in whole["variants"].values()]
        cells = [f"{mean(it[m] for it in its):.3f}" if m in its[0] else "" for m in measures]
        lines.append(f"| {NAMES.get(way, way)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
