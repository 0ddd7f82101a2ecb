"""`bench model`: what two judges see in the embedded model's pictures, how far to trust them, what is forgotten."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from unguide.demo_model.judges import JudgePair
from unguide.demo_model.loader import load_config

from dev.bench import Bench, save
from dev.bench.forgetting import MEASURES, accuracies_by_method, forget, gate_errors
from dev.bench.report import Pictures, as_floats, figures_table, sheet, table
from dev.bench.sessions import PICTURES
from dev.bench.words import photo, read_words, word_in

HALF = 32  # pixels a side of what is judged of each thing of a pair
SIDE_BY_SIDE = re.compile(r" and | next to | beside ")  # phrases that put the first thing on the left
KID_SUBSET = 100
METHODS = {"base": "base model", "lora": "LoRA alone (w = 0)", "half": "w = 0.5 for all", "w_2": "w = 2 for all",
           "w_minus_1": "w = -1 for all", "paper's rule": "-1 or 1, the paper's rule",
           "calibrated gate": "-1 or 1, our gate", "a right gate": "-1 or 1, a gate that is never wrong"}  # fmt: skip
HEADS = dict(zip(("Acc_e", "Acc_s", "Acc_g", "unseen words", "H0"), MEASURES, strict=True))


def measure(bench: Bench) -> dict:
    """`figures`, and of each class `forgetting`, `gate_decisions` and `recognised`; writes sheets of pictures."""
    judges, concepts = JudgePair(), load_config(bench.folder)["concepts"]
    pictures = bench.base_pictures(all_prompts(concepts))
    figures = shares(concepts, pictures, judges) | compare_with_data(pictures, judges) | trust(bench.folder, judges)
    result: dict = {"figures": figures | {"weights_mib": weights_mib(bench.folder)}}
    write_sheets(bench.output, concepts, pictures, judges)
    save("model", bench, result, text)  # whatever happens to the long part below
    if bench.classes:
        forgotten = bench.each_class("Forgetting", forget)
        result |= {
            "forgetting": {name: accuracies_by_method(name, it, pictures, judges) for name, it in forgotten.items()},
            "gate_decisions": {name: gate_errors(name, it) for name, it in forgotten.items()},
            "recognised": {photo(name): judges.share_recognised(pictures[photo(name)], name) for name in concepts},
        }
    return result


def all_prompts(concepts: Iterable[str]) -> list[str]:
    """Every prompt that is drawn, once each."""
    classes = read_words()["classes"].values()
    single = [word for it in classes for word in [*it["seen"], *it["unseen"]["choose"], *it["unseen"]["test"]]]
    return list(dict.fromkeys([*map(photo, [*concepts, *single]), *phrases(), ""]))


def phrases() -> list[str]:
    """The prompts of more than a word: attributes, then pairs."""
    attributes = [it for entry in read_words()["classes"].values() for split in entry["attributes"].values()
                  for it in split]  # fmt: skip
    return attributes + [it for split in read_words()["pairs"].values() for it, *_ in split]


def shares(concepts: dict[str, list[str]], pictures: Pictures, judges: JudgePair) -> dict[str, float]:
    """The shares of pictures that show what their prompts say, means over prompts and both judges' top-1."""
    classes = read_words()["classes"]

    def share(cases: Iterable[tuple[str, str]]) -> float:
        return fmean(judges.share_recognised(pictures[prompt], name) for prompt, name in cases)

    def of_classes(prompts_in: Callable[[dict], Iterable[str]]) -> float:
        return share((prompt, name) for name, entry in classes.items() for prompt in prompts_in(entry))

    seen = [photo(word) for entry in classes.values() for word in entry["seen"]]
    single = dict.fromkeys([*map(photo, concepts), *seen])
    return {
        "classes_top1": share((photo(name), name) for name in classes),
        "concepts_top1": share((photo(name), name) for name in concepts),
        "seen_synonyms_top1": of_classes(lambda entry: map(photo, entry["seen"][1:])),
        "unseen_synonyms_top1": of_classes(lambda entry: map(photo, entry["unseen"]["test"])),
        "unseen_synonyms_top1_choose": of_classes(lambda entry: map(photo, entry["unseen"]["choose"])),
        "attributes_top1": of_classes(lambda entry: sum(entry["attributes"].values(), [])),
        "pairs_both_top1": fmean(
            judges.share_recognised(half(pictures[phrase], side), name)
            for split in read_words()["pairs"].values()
            for phrase, *names in split
            if SIDE_BY_SIDE.search(phrase)
            for side, name in enumerate(names)
        ),
        "judges_agreement": judges.agreement(torch.cat([pictures[prompt] for prompt in single])),
        "judges_agreement_all": judges.agreement(torch.cat(list(pictures.values()))),
    }


def half(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """The left (0) or right (1) thing of pictures of two, as large as a picture of one."""
    top = (pictures.shape[-2] - HALF) // 2
    part = pictures[:, :, top : top + HALF, side * HALF : (side + 1) * HALF]
    return torch.nn.functional.interpolate(part, scale_factor=2, mode="bilinear")


def compare_with_data(pictures: Pictures, judges: JudgePair) -> dict[str, float]:
    """Kernel distance (KID) to fresh training-style pictures of the ten classes, and diversity relative to theirs.

    Both on judge A's features. `kid_of_data`, the distance of two halves of the data, is what "no distance" comes to.
    """
    from torchmetrics.image.kid import KernelInceptionDistance  # with the recipe's packages, which tests do not need

    features, classes = judges.judges[0].features, read_words()["classes"]
    data = fresh_pictures(list(classes), 2 * PICTURES)
    by_class = {name: pictures[photo(name)] for name in classes}

    def distance(a: torch.Tensor, b: torch.Tensor) -> float:
        kid = KernelInceptionDistance(Features(features), subsets=50, subset_size=KID_SUBSET, normalize=True)
        torch.manual_seed(0)
        kid.update(a, real=True)
        kid.update(b, real=False)
        return kid.compute()[0].item()

    def diversity(pictures: Pictures) -> float:
        """Mean distance between two pictures of one prompt."""
        return fmean(torch.pdist(features(them)).mean().item() for them in pictures.values())

    halves = [torch.cat([them[i::2] for them in data.values()]) for i in (0, 1)]
    return {
        "kid": distance(halves[0], torch.cat(list(by_class.values()))),
        "kid_of_data": distance(*halves),
        "diversity_of_data": diversity(by_class) / diversity(data),
    }


class Features(torch.nn.Module):
    """A function from pictures [N, 3, 64, 64] to features [N, D] as the module that torchmetrics needs."""

    def __init__(self, function: Callable):
        super().__init__()
        self.function = function

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features of pictures in uint8, or in [0, 1]."""
        return self.function(pictures / 255 if pictures.dtype == torch.uint8 else pictures).double()


def fresh_pictures(names: list[str], number: int) -> Pictures:
    """Training-style pictures of single things that no training run has drawn."""
    from dev.recipe.scenes import Scenes  # with the recipe's packages
    from dev.recipe.sprites import load_sprites, load_things, styles

    scenes, rng = Scenes(load_sprites(styles("train")), load_things()), np.random.default_rng(20_261_124)
    drawn = {name: np.stack([scenes.picture_of(name, rng) for _ in range(number)]) for name in names}
    return {name: as_floats(pictures).movedim(-1, 1) for name, pictures in drawn.items()}


def trust(folder: Path, judges: JudgePair) -> dict[str, float]:
    """How far judges and text encoder can be trusted, each on what it has not seen."""
    from dev.recipe import judge_report, meanings
    from dev.recipe.hog import HogJudge

    judged, read = judge_report.report(judges, HogJudge())[0]["figures"], meanings.measure(folder)
    return judged | {it: read[it] for it in ("unseen_nearest_right", "teacher_nearest_right", "triples_right")}


def weights_mib(folder: Path) -> float:
    """The size of the model's weight files together."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 2**20


def write_sheets(output: Path, concepts: Iterable[str], pictures: Pictures, judges: JudgePair) -> None:
    """Write concepts.png, unseen.png, phrases.png, and disagreements.png: every picture on which the judges differ."""
    from dev.recipe.judge_report import grid

    classes = read_words()["classes"].values()
    unseen = [photo(word) for entry in classes for split in entry["unseen"].values() for word in split]
    for name, prompts in (("concepts", map(photo, concepts)), ("unseen", unseen), ("phrases", phrases())):
        sheet([(prompt, pictures[prompt]) for prompt in prompts]).save(output / f"{name}.png")
    cases = [(drawn[i], word_in(prompt), a, b) for prompt, drawn in pictures.items()
             for i, a, b in judges.disagreements(drawn)]  # fmt: skip
    grid(cases).save(output / "disagreements.png")


def text(result: dict) -> str:
    """The report as Markdown."""
    paragraphs = [figures_table(result["figures"])]
    if by_class := result.get("forgetting"):
        rows = [
            {"sampling": label, **{head: fmean(it[method][m] for it in by_class.values()) for head, m in HEADS.items()}}
            for method, label in METHODS.items()
        ]
        decisions = list(result["gate_decisions"].values())
        shares_of_parts = [
            {"gate": gate, **{part: fmean(it[gate][part] for it in decisions) for part in decisions[0][gate]}}
            for gate in decisions[0]
        ]
        paragraphs += [f"Forgetting, mean of {', '.join(by_class)}:", table(rows),
                       "Share of prompts taken for the concept:", table(shares_of_parts)]  # fmt: skip
    return "\n\n".join(paragraphs) + "\n"
