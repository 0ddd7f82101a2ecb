"""How far the judges can be trusted: on a style that they have never seen, and on pictures of nothing."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from unguide.demo_model.judges import JudgePair

from dev.recipe import judge_pictures
from dev.recipe.hog import HogJudge
from dev.recipe.judges import landscapes
from dev.recipe.scenes import LANDSCAPES, OVERSAMPLED, SINGLE_SIZES
from dev.recipe.sprites import load_sprites, load_things, on_background, styles

TEN_CLASSES = list(OVERSAMPLED)
GRID_COLUMNS, CELL, WORD = 10, 100, 16
SURE = 0.5


def pictures_of(style: str) -> dict[str, torch.Tensor]:
    """Concept -> [N, 3, 64, 64] in [0, 1]: each sprite at two sizes, both ways round, on every named colour."""
    colours = load_things()["colours"].values()
    pictures = {}
    for concept, sprites in load_sprites([style]).items():
        if concept not in LANDSCAPES and len(sprites):
            views = [
                on_background(sprite[:, ::direction], size, colour)
                for sprite in sprites for size in SINGLE_SIZES for direction in (1, -1) for colour in colours
            ]  # fmt: skip
            pictures[concept] = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)
    scenes = landscapes([style]).unflatten(0, (len(LANDSCAPES), -1)) / 255
    return pictures | dict(zip(LANDSCAPES, scenes, strict=True))


def report(pair: JudgePair, third: HogJudge | None) -> tuple[dict, list[tuple[torch.Tensor, str, str, str]]]:
    """The figures, and (picture, truth, judge A's answer, judge B's) wherever the judges differ."""
    held_out = pictures_of(*styles("held out"))
    cases, by_concept = [], {}
    for concept, pictures in held_out.items():
        shares = [judge.share_recognised(pictures, concept) for judge in pair.judges]
        differences = pair.disagreements(pictures)
        cases += [(pictures[index], concept, a, b) for index, a, b in differences]
        by_concept[concept] = {"a": shares[0], "b": shares[1], "agreement": 1 - len(differences) / len(pictures)}
        if third and concept not in LANDSCAPES:
            by_concept[concept]["hog"] = np.mean([answer == concept for answer in third.answers(pictures)])
    negatives = nothing(torch.cat([pictures[::12] for pictures in held_out.values()]))
    figures = {"judge_heldout_top1": _mean(by_concept, TEN_CLASSES, "a", "b")}
    for judge in ("a", "b", *(("hog",) if third else ())):
        figures[f"judge_heldout_top1_{judge}"] = _mean(by_concept, TEN_CLASSES, judge)
        figures[f"judge_heldout_top1_all_{judge}"] = _mean(by_concept, by_concept, judge)
    figures["judge_heldout_agreement"] = _mean(by_concept, by_concept, "agreement")
    for kind, pictures in negatives.items():
        unsure = [(j.probabilities(pictures)[:, :-1].amax(1) < SURE).float().mean().item() for j in pair.judges]
        figures[f"judge_none_{kind}"] = sum(unsure) / len(unsure)
    figures["judge_none"] = np.mean([value for name, value in figures.items() if name.startswith("judge_none_")])
    figures = {name: round(float(value), 4) for name, value in figures.items()}
    return {"figures": figures, "concepts": by_concept}, cases


def nothing(pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pictures of none of the things, by kind."""
    torch.manual_seed(2)
    shuffled = pictures[torch.randperm(len(pictures))]
    return dict(zip(judge_pictures.NOTHINGS, judge_pictures.all_nothings(pictures, shuffled), strict=True))


def _mean(rows: dict[str, dict], concepts, *columns: str) -> float:
    values = [rows[concept][column] for concept in concepts for column in columns if column in rows[concept]]
    return float(np.mean(values))


def grid(cases: list[tuple[torch.Tensor, str, str, str]]) -> Image.Image:
    """The pictures with the truth and both opinions below."""
    rows = -(-len(cases) // GRID_COLUMNS) or 1
    sheet = Image.new("RGB", (GRID_COLUMNS * CELL, rows * (CELL + 4)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (picture, *words) in enumerate(cases):
        x, y = index % GRID_COLUMNS * CELL, index // GRID_COLUMNS * (CELL + 4)
        sheet.paste(Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy()), (x + 18, y))
        for line, (mark, word) in enumerate(zip(("", "A ", "B "), words, strict=True)):
            pen.text((x + 2, y + 64 + 11 * line), (mark + word)[:WORD], fill=("black", "crimson", "blue")[line])
    return sheet
