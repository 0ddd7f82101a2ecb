"""The benchmark in words and pictures: tables in Markdown, grids to look at."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from dev.bench.model import Pictures, mean
from dev.bench.studio import photo
from dev.judge import Panel

SHOWN = 8  # pictures of a prompt in a grid
NAMES = {"base": "base model", "lora": "LoRA alone (w = 0)", "half": "w = 0.5 for all", "w_2": "w = 2 for all",
         "w_minus_1": "w = -1 for all", "paper's rule": "-1 or 1, the paper's rule",
         "calibrated gate": "-1 or 1, our gate", "a right gate": "-1 or 1, a gate that errs never"}  # fmt: skip


def trust(folder: Path, panel: Panel) -> dict[str, float]:
    """How far judges and text encoder can be trusted, each on what it has not seen."""
    from dev.judge.hog import HogJudge
    from dev.recipe import judge_report, meanings

    judged = judge_report.report(panel, HogJudge())[0]["figures"]
    read = meanings.measure(folder)
    return judged | {
        "unseen_nearest_right": read["unseen_nearest_right"],
        "teacher_nearest_right": read["teacher_nearest_right"],
        "triples_right": read["triples_right"],
    }


def grids(output: Path, concepts, words: dict, pictures: Pictures, panel: Panel) -> None:
    """concepts.png, unseen.png, phrases.png, and every picture on which the judges differ."""
    classes = words["classes"].values()
    unseen = [photo(word) for it in classes for split in it["unseen"].values() for word in split]
    phrases = [phrase for it in classes for split in it["attributes"].values() for phrase in split]
    phrases += [phrase for split in words["pairs"].values() for phrase, *_ in split]
    for name, prompts in (("concepts", map(photo, concepts)), ("unseen", unseen), ("phrases", phrases)):
        sheet(list(prompts), pictures).save(output / f"{name}.png")
    from dev.recipe.judge_report import grid

    cases = [
        (them[i], prompt.removeprefix(photo("")), a, b)
        for prompt, them in pictures.items()
        for i, a, b in panel.disagreements(them)
    ]
    grid(cases).save(output / "disagreements.png")


def sheet(prompts: list[str], pictures: Pictures) -> Image.Image:
    """SHOWN pictures of each prompt."""
    return labelled([(prompt, pictures[prompt]) for prompt in prompts])


def labelled(lines: list[tuple[str, torch.Tensor]], columns: int = 2) -> Image.Image:
    """SHOWN pictures under each label, in two columns."""
    from unguide_ops.figures import comparison_grid

    rows = -(-len(lines) // columns)
    parts = []
    for start in range(0, len(lines), rows):
        labels, pictures = zip(*lines[start : start + rows], strict=True)
        cells = torch.stack([them[:SHOWN].movedim(1, -1) for them in pictures])[:, None]
        parts.append(comparison_grid(labels, [""], cells, "")[0])
    height = max(part.shape[0] for part in parts)
    padded = [torch.nn.functional.pad(part, (0, 0, 0, 0, 0, height - part.shape[0]), value=1.0) for part in parts]
    return Image.fromarray((torch.cat(padded, 1) * 255).round().byte().numpy())


def write(path: Path, whole: dict, text: str) -> None:
    """`path`.json and `path`.md."""
    path.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(text, encoding="utf-8")


def text(whole: dict) -> str:
    """The report as Markdown."""
    lines = ["| figure | value |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in whole["figures"].items()]
    by_class = whole.get("forgetting")
    if not by_class:
        return "\n".join(lines) + "\n"
    lines += ["", f"Forgetting, mean of {', '.join(by_class)}:", "",
              "| sampling | Acc_e | Acc_s | Acc_g | unseen words | H0 |", "|---|---|---|---|---|---|"]  # fmt: skip
    for way, label in NAMES.items():
        values = [mean(it[way][m] for it in by_class.values()) for m in ("acc_e", "acc_s", "acc_g", "acc_u", "h0")]
        lines.append(f"| {label} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    decisions = list(whole["gate_decisions"].values())
    parts = list(next(iter(decisions[0].values())))
    lines += ["", "Share of prompts taken for the concept:", "",
              "| gate | " + " | ".join(parts) + " |", "|---" * (len(parts) + 1) + "|"]  # fmt: skip
    for gate in decisions[0]:
        values = [mean(it[gate][part] for it in decisions) for part in parts]
        lines.append(f"| {gate} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    return "\n".join(lines) + "\n"
