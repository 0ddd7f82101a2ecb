"""`bench training`: what training costs and achieves, by our preset, the paper's, and ours with one thing changed."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import fmean

import torch
from PIL import Image
from unguide.demo_model.judges import JudgePair
from unguide.unguide_ops import host
from unguide.unguide_ops.files import lora_file
from unguide.unguide_ops.training import config
from unguide.unguide_ops.training.trainer import train

from dev.bench import Bench, chosen_models, memory, training_models
from dev.bench.forgetting import GATE_STEPS, GATED, MEASURES, RIGHT, accuracies_by_method, forget, gate_aucs
from dev.bench.report import Pictures, as_floats, figures_table, grid, table
from dev.bench.sessions import SIZE, demo_session
from dev.bench.words import drawn_prompts, grid_prompts

NUMBER = 8  # pictures per prompt
DEFAULT, PAPER = "default", "paper"
PROFILES: dict[str, tuple[str, dict]] = {
    DEFAULT: ("object", {}),
    PAPER: ("object, as in the paper", {}),
}
RANDOM = {"initialisation": "random", "learning_rate": 3e-4, "schedule": "cosine"}
ABLATION: dict[str, tuple[str, dict]] = {
    "no retain term": ("object", {"retain_weight": 0.0}),
    "random directions": ("object", RANDOM),
    "random directions, no retain term": ("object", {**RANDOM, "retain_weight": 0.0}),
    "target alone, no synonyms": ("object", {"train_synonyms": False}),
    "a trajectory each iteration": ("object", {"reuse": 1}),
    "negative guidance 2, the paper's": ("object", {"negative_guidance": 2.0}),
    "60 iterations, erased or not": ("object", {"early_stop": False}),
    "rank 1": ("object", {"rank": 1}),
    "rank 16": ("object", {"rank": 16}),
    "ridge 0.01": ("object", {"ridge": 0.01}),
    "12 nearest nouns preserved": ("object", {"near_words": 12}),
    "SGD, 4.0": ("object", {"optimizer": "SGD", "learning_rate": 4.0}),
    "all but cross-attention": ("nudity", {}),
    "paper, learning rate 3e-4": ("object, as in the paper", {"learning_rate": 3e-4}),
}
ABLATION_CLASSES = ("cat", "truck")


def measure(bench: Bench) -> dict:
    """`figures`, `models` (a row each) and `profiles` (profile -> class -> what was measured); writes training.png."""
    cells = training_models.cases(chosen_models(bench.options), bench.classes)
    with tempfile.TemporaryDirectory() as folder:
        learnt = bench.each("Models", training_models.learn, [(Path(folder), cell) for cell in cells])
    of_models, rows = training_models.analyse(dict(zip(cells, learnt, strict=True)))
    ablation = ABLATION_CLASSES if bench.options.ablation is None else bench.options.ablation
    prompts = drawn_prompts(dict.fromkeys([*bench.classes, *ablation]))
    base = {prompt: drawn[:NUMBER] for prompt, drawn in bench.base_pictures(prompts).items()}
    cases = [(profile, name) for profile in PROFILES for name in bench.classes]
    cases += [(profile, name) for profile in ABLATION for name in ablation]
    tasks = [(bench.folder, name, *{**PROFILES, **ABLATION}[profile], ("lora", "w_minus_1"), NUMBER)
             for profile, name in cases]  # fmt: skip
    results = dict(zip(cases, bench.each("Training", forget, tasks), strict=True))
    judges, profiles = JudgePair(), {}
    for (profile, name), result in results.items():
        methods = accuracies_by_method(name, result, base, judges)
        profiles.setdefault(profile, {})[name] = {
            **result["report"],
            "lora": methods["lora"],
            "unguidance": methods[GATED],
            "right gate": methods[RIGHT],
            "gate_auc": gate_aucs(name, result),
        }
    (once,) = bench.each("Reproducing", reproduce, [(bench.folder,)])
    peaks = memory.measure(memory.TRAINING)
    inference, training, checkpointing = (peaks[case] for case in memory.TRAINING)
    ratios = {"memory_ratio": training / inference, "memory_ratio_checkpointing": checkpointing / inference}
    training_grid(bench.classes, results, base).save(bench.output / "training.png")
    return {"figures": {**of_models, **figures(profiles), **once, **ratios}, "models": rows, "profiles": profiles}


def figures(profiles: dict[str, dict]) -> dict[str, float]:
    """The headline figures: means over the classes of both profiles."""
    means = {}
    for profile in PROFILES:
        rows = list(profiles[profile].values())
        means |= {
            f"evaluations_{profile}": fmean(it["evaluations"] for it in rows),
            f"h0_{profile}": fmean(it["unguidance"]["h0"] for it in rows),
            f"h0_right_gate_{profile}": fmean(it["right gate"]["h0"] for it in rows),
            f"gate_auc_{profile}": max(best_aucs(rows).values()),
        }
        means |= {f"{measure}_lora_{profile}": fmean(it["lora"][measure] for it in rows) for measure in MEASURES}
    return means | {"seconds_per_concept": fmean(it["seconds"] for it in profiles[DEFAULT].values())}


def best_aucs(rows: list[dict]) -> dict[str, float]:
    """Each statistic's mean AUC over the classes, at the best of the early steps."""
    return {
        statistic: max(fmean(it["gate_auc"][statistic][step] for it in rows) for step in steps)
        for statistic, steps in rows[0]["gate_auc"].items()
    }


class PreviewTimer(host.ProgressReporter):
    """Measures the seconds from its creation to the first preview."""

    def __init__(self, *args):
        super().__init__(*args)
        self.began, self.seconds = time.monotonic(), 0.0

    def show(self, *args) -> None:
        """Show a preview."""
        super().show(*args)
        self.seconds = self.seconds or time.monotonic() - self.began


def reproduce(folder: Path) -> dict[str, float]:
    """A worker's task: seconds to the first preview, and whether the same seed gives the same file."""
    session, settings = demo_session(folder), config.preset("object", width=SIZE, height=SIZE)
    contents, seconds = [], []
    with torch.inference_mode(), tempfile.TemporaryDirectory() as scratch:
        concept, path = session.concept("cat"), Path(scratch, "it.safetensors")
        for _ in range(2):
            progress = PreviewTimer(10)
            lora_file.save_lora(path, train(session.model, concept, settings, progress=progress).lora)
            contents.append(path.read_bytes())
            seconds.append(progress.seconds)
    return {"first_preview_seconds": seconds[0], "same_seed_same_file": int(contents[0] == contents[1])}


def training_grid(classes: list[str], results: dict, base: Pictures) -> Image.Image:
    """Rows: the classes. Columns: base model, LoRA alone, UnGuidance."""

    def cell(name: str, column: str) -> list[torch.Tensor]:
        result, pictures = results[DEFAULT, name], []
        for prompt, index in grid_prompts(name):
            gated = "w_minus_1" if prompt in result["erased"][GATED] else "base"
            method = gated if column == GATED else column
            drawn = base[prompt] if method == "base" else as_floats(result["pictures"][method][prompt])
            pictures.append(drawn[index])
        return pictures

    columns = {"base": "base", "lora": "LoRA alone", GATED: "UnGuidance"}
    return grid(classes, list(columns.values()), [[cell(name, column) for column in columns] for name in classes])


def text(result: dict) -> str:
    """The report as Markdown."""
    rows, best = [], {profile: best_aucs(list(it.values())) for profile, it in result["profiles"].items()}
    for profile, by_class in result["profiles"].items():
        row = {
            "profile": profile,
            "classes": len(by_class),
            "model calls": f"{fmean(it['evaluations'] for it in by_class.values()):.0f}",
            "seconds": f"{fmean(it['seconds'] for it in by_class.values()):.1f}",
        }
        for label, method in (("LoRA alone", "lora"), ("UnGuidance", "unguidance")):
            *means, h0 = (fmean(it[method][measure] for it in by_class.values()) for measure in MEASURES)
            row |= {f"{label}: e / s / g / u": " / ".join(f"{mean:.2f}" for mean in means), f"{label}: H0": h0}
        statistic = max(best[profile], key=best[profile].__getitem__)
        rows.append({**row, "AUC, best gate statistic": f"{best[profile][statistic]:.3f}, {statistic}"})
    return "\n\n".join([
        figures_table(result["figures"]),
        "By the defaults, on every trained model:",
        table(result["models"]),
        "Means over the classes. e / s / g / u: Acc_e, Acc_s, Acc_g, and the class under words never seen.",
        table(rows),
        f"AUC of each statistic, one seed, at the best of the first {max(GATE_STEPS)} steps:",
        table([{"statistic": it, **{profile: best[profile][it] for profile in PROFILES}} for it in best[DEFAULT]]),
    ]) + "\n"  # fmt: skip
