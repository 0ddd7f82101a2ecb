"""How far the judges can be trusted: on a style that they have never seen, and on pictures of nothing."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw

from dev.judge import Panel
from dev.judge.hog import HogJudge
from dev.recipe import judge_pictures as draw
from dev.recipe.judges import landscapes
from dev.recipe.scenes import LANDSCAPES, OVERSAMPLED
from dev.recipe.sprites import load_sprites, load_things, styles

TEN_CLASSES = list(OVERSAMPLED)
SIZES = (52, 44)
GRID_COLUMNS, CELL, WORD = 10, 100, 16
SURE = 0.5


def pictures_of(style: str) -> dict[str, torch.Tensor]:
    """Concept -> [N, 3, 64, 64] in [0, 1]: each sprite at two sizes, both ways round, on every named colour."""
    colours = load_things()["colours"].values()
    drawn = {
        concept: [_single(s, size, way, rgb) for s in sprites for size in SIZES for way in (1, -1) for rgb in colours]
        for concept, sprites in load_sprites([style]).items()
        if concept not in LANDSCAPES and len(sprites)
    }
    pictures = {concept: torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2) for concept, found in drawn.items()}
    scenes = landscapes([style]).unflatten(0, (len(LANDSCAPES), -1)) / 255
    return pictures | dict(zip(LANDSCAPES, scenes, strict=True))


def _single(sprite: np.ndarray, size: int, way: int, colour: list[int]) -> np.ndarray:
    small = Image.fromarray(sprite[:, ::way]).resize((size, size), Image.Resampling.LANCZOS)
    picture = Image.new("RGBA", (64, 64), tuple(colour))
    picture.alpha_composite(small, ((64 - size) // 2, (64 - size) // 2))
    return np.asarray(picture.convert("RGB"), np.float32) / 255


def report(panel: Panel, third: HogJudge | None) -> tuple[dict, list[tuple[torch.Tensor, str, str, str]]]:
    """The figures, and (picture, truth, judge A's answer, judge B's) wherever the judges differ."""
    held_out = pictures_of(*styles("held out"))
    cases, by_concept = [], {}
    for concept, pictures in held_out.items():
        shares = [judge.share_recognised(pictures, concept) for judge in panel.judges]
        differ = panel.disagreements(pictures)
        cases += [(pictures[index], concept, a, b) for index, a, b in differ]
        by_concept[concept] = {"a": shares[0], "b": shares[1], "agreement": 1 - len(differ) / len(pictures)}
        if third and concept not in LANDSCAPES:
            by_concept[concept]["hog"] = np.mean([answer == concept for answer in third.answers(pictures)])
    negatives = nothing(torch.cat([pictures[::12] for pictures in held_out.values()]))
    figures = {"judge_heldout_top1": _mean(by_concept, TEN_CLASSES, "a", "b")}
    for judge in ("a", "b", *(("hog",) if third else ())):
        figures[f"judge_heldout_top1_{judge}"] = _mean(by_concept, TEN_CLASSES, judge)
        figures[f"judge_heldout_top1_all_{judge}"] = _mean(by_concept, by_concept, judge)
    figures["judge_heldout_agreement"] = _mean(by_concept, by_concept, "agreement")
    for kind, pictures in negatives.items():
        doubt = [(j.probabilities(pictures)[:, :-1].amax(1) < SURE).float().mean().item() for j in panel.judges]
        figures[f"judge_none_{kind}"] = sum(doubt) / len(doubt)
    figures["judge_none"] = np.mean([value for name, value in figures.items() if name.startswith("judge_none_")])
    figures = {name: round(float(value), 4) for name, value in figures.items()}
    return {"figures": figures, "concepts": by_concept}, cases


def nothing(pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pictures of none of the things, by kind."""
    torch.manual_seed(2)
    others = pictures[torch.randperm(len(pictures))]
    return dict(zip(draw.NOTHINGS, draw.all_nothings(pictures, others), strict=True))


def _mean(rows: dict[str, dict], concepts, *columns: str) -> float:
    return float(
        np.mean([rows[concept][column] for concept in concepts for column in columns if column in rows[concept]])
    )


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
