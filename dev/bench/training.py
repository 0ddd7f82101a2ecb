"""What training costs and achieves, by profile: default, the paper's, and the default less one thing at a time."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from PIL import Image

from dev.bench import forgetting, memory
from dev.bench.model import Pictures, mean
from dev.bench.studio import SIZE, draw_base, photo, studio
from dev.judge import Panel

NUMBER = 8  # pictures a prompt
WAYS = ("lora", "w_minus_1")
DEFAULT, PAPER = "default", "paper"
PROFILES: dict[str, tuple[str, dict]] = {
    DEFAULT: ("object", {}),
    PAPER: ("object, as in the paper", {}),
}
ABLATION: dict[str, tuple[str, dict]] = {
    "no retain term": ("object", {"retain_weight": 0.0}),
    "random directions": ("object", {"initialisation": "random", "learning_rate": 3e-4}),
    "random directions, no retain term": (
        "object", {"initialisation": "random", "learning_rate": 3e-4, "retain_weight": 0.0},
    ),
    "target alone, no synonyms": ("object", {"train_synonyms": False}),
    "a trajectory each iteration": ("object", {"reuse": 1}),
    "negative guidance 2, the paper's": ("object", {"negative_guidance": 2.0}),
    "half the iterations": ("object", {"iterations": 30}),
    "rank 1": ("object", {"rank": 1}),
    "rank 16": ("object", {"rank": 16}),
    "SGD, 4.0": ("object", {"optimizer": "SGD", "learning_rate": 4.0}),
    "all but cross-attention": ("nudity", {}),
    "paper, learning rate 3e-4": ("object, as in the paper", {"learning_rate": 3e-4}),
}  # fmt: skip
ABLATION_CLASSES = ("cat", "truck")
MEASURES = ("acc_e", "acc_s", "acc_g", "acc_u", "h0")


def measure(
    workers: ProcessPoolExecutor, each, folder: Path, words: dict, classes: list[str], ablation: list[str]
) -> dict:
    """Everything: `figures`, `profiles` (profile -> class -> what was measured), and the `grid`."""
    panel = Panel()
    parts = [forgetting.prompts_of(words, name) for name in dict.fromkeys([*classes, *ablation])]
    prompts = list(dict.fromkeys(p for its in parts for part in (*forgetting.TOUCHED, "others") for p in its[part]))
    drawn = each(workers, "Drawing", draw_base, [(folder, prompt) for prompt in prompts])
    base = {p: torch.from_numpy(them[:NUMBER]).float() / 255 for p, them in zip(prompts, drawn, strict=True)}
    cases = [(profile, name) for profile in PROFILES for name in classes]
    cases += [(profile, name) for profile in ABLATION for name in ablation]
    tasks = [(folder, words, name, *{**PROFILES, **ABLATION}[profile], WAYS, NUMBER) for profile, name in cases]
    results = dict(zip(cases, each(workers, "Training", forgetting.forget, tasks), strict=True))
    profiles: dict[str, dict] = {}
    for (profile, name), result in results.items():
        ways = forgetting.accuracies(words, name, result, base, panel)
        profiles.setdefault(profile, {})[name] = {
            **result["report"],
            "lora": ways["lora"],
            "unguidance": ways[forgetting.GATED],
            "right gate": ways[forgetting.RIGHT],
            "gate_auc": forgetting.gate_aucs(words, name, result),
        }
    (once,) = each(workers, "Reproducing", reproduce, [(folder,)])
    return {
        "figures": {**figures(profiles), **once, **ratios(memory.measure(memory.TRAINING))},
        "profiles": profiles,
        "grid": grid(words, results, base, classes),
    }


def figures(profiles: dict[str, dict]) -> dict[str, float]:
    """The headline figures: means over the classes of both profiles."""
    found = {}
    for profile in PROFILES:
        its = list(profiles[profile].values())
        found |= {
            f"evaluations_{profile}": mean(it["evaluations"] for it in its),
            f"h0_{profile}": mean(it["unguidance"]["h0"] for it in its),
            f"h0_right_gate_{profile}": mean(it["right gate"]["h0"] for it in its),
            f"gate_auc_{profile}": max(best_statistics(its).values()),
        }
        found |= {f"{measure}_lora_{profile}": mean(it["lora"][measure] for it in its) for measure in MEASURES}
    found["seconds_per_concept"] = mean(it["seconds"] for it in profiles[DEFAULT].values())
    return found


def best_statistics(its: list[dict]) -> dict[str, float]:
    """Each statistic's mean AUC over the classes, at the best of the early steps."""
    return {
        statistic: max(mean(it["gate_auc"][statistic][step] for it in its) for step in steps)
        for statistic, steps in its[0]["gate_auc"].items()
    }


def ratios(peaks: dict[str, float]) -> dict[str, float]:
    """Peak memory of training on a full-size Stable Diffusion 1.5, over that of plain inference."""
    plain, kept, checkpointed = (peaks[case] for case in memory.TRAINING)
    return {"memory_ratio": kept / plain, "memory_ratio_checkpointing": checkpointed / plain}


def reproduce(folder: Path) -> dict[str, float]:
    """A task for a worker: seconds to the first preview, and whether the same seed gives the same file."""
    it = studio(folder)
    from unguide.unguide_ops import files, host, settings
    from unguide.unguide_ops.concept import EncodedConcept, concept_from
    from unguide.unguide_ops.training import train

    class Timed(host.Watch):
        """Notes when the first preview is shown."""

        def show(self, *args) -> None:
            super().show(*args)
            seen.append(time.monotonic() - began)

    seen: list[float] = []
    contents = []
    with torch.inference_mode(), tempfile.TemporaryDirectory() as place:
        encoded = EncodedConcept.of(concept_from("cat", "", "", "", ""), lambda prompt: host.encode(it.clip, prompt))
        for _ in range(2):
            began = time.monotonic()
            trained = train(it.model, encoded, settings.preset("object", width=SIZE, height=SIZE), watch=Timed(10))
            files.save_lora(Path(place, "it.safetensors"), trained.lora)
            contents.append(Path(place, "it.safetensors").read_bytes())
    return {"first_preview_seconds": seen[0], "same_seed_same_file": int(contents[0] == contents[1])}


def grid(words: dict, results: dict, base: Pictures, classes: list[str]) -> Image.Image:
    """Rows classes; columns base, LoRA alone, UnGuidance: the target twice, a synonym, and two other classes."""
    from unguide_ops.figures import comparison_grid

    def cells(name: str) -> torch.Tensor:
        result = results[DEFAULT, name]
        others = [other for other in words["classes"] if other != name][:2]
        shown = [(photo(name), 0), (photo(name), 1), (photo(words["classes"][name]["seen"][1]), 0)]
        shown += [(photo(other), 0) for other in others]
        erased = result["erased"][forgetting.GATED]

        def picture(way: str, prompt: str, index: int) -> torch.Tensor:
            if way == "gated":
                way = "w_minus_1" if prompt in erased else "base"
            them = base[prompt] if way == "base" else torch.from_numpy(result["pictures"][way][prompt]).float() / 255
            return them[index].movedim(0, -1)

        return torch.stack([torch.stack([picture(way, *it) for it in shown]) for way in ("base", "lora", "gated")])

    titles = ["base", "LoRA alone", "UnGuidance"]
    picture = comparison_grid(classes, titles, torch.stack([cells(name) for name in classes]), "")
    return Image.fromarray((picture[0] * 255).round().byte().numpy())


def text(whole: dict) -> str:
    """The report as Markdown."""
    lines = ["| figure | value |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in whole["figures"].items()]
    ways = "e / s / g / u"
    columns = ("profile", "classes", "evaluations", "seconds", f"LoRA alone: {ways}", "H0", f"UnGuidance: {ways}", "H0",
               "AUC, best gate statistic")  # fmt: skip
    lines += ["", "Means over the classes. e / s / g / u: Acc_e, Acc_s, Acc_g, and the class under words never seen.",
              "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]  # fmt: skip
    for profile, by_class in whole["profiles"].items():
        its = list(by_class.values())
        aucs = best_statistics(its)
        best = max(aucs, key=aucs.__getitem__)
        cells = [profile, str(len(its)), f"{mean(it['evaluations'] for it in its):.0f}",
                 f"{mean(it['seconds'] for it in its):.1f}"]  # fmt: skip
        for way in ("lora", "unguidance"):
            cells.append(" / ".join(f"{mean(it[way][measure] for it in its):.2f}" for measure in MEASURES[:-1]))
            cells.append(f"{mean(it[way]['h0'] for it in its):.3f}")
        cells.append(f"{aucs[best]:.3f}, {best}")
        lines.append(f"| {' | '.join(cells)} |")
    statistics = {profile: best_statistics(list(whole["profiles"][profile].values())) for profile in PROFILES}
    lines += ["", f"AUC of each statistic, one seed, at the best of the first {max(forgetting.GATE_STEPS)} steps:", "",
              "| statistic | " + " | ".join(PROFILES) + " |", "|---" * (len(PROFILES) + 1) + "|"]  # fmt: skip
    for statistic in statistics[DEFAULT]:
        lines.append(f"| {statistic} | " + " | ".join(f"{statistics[p][statistic]:.3f}" for p in PROFILES) + " |")
    return "\n".join(lines) + "\n"
