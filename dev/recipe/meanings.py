"""How well the text encoder understands words that it was not trained on, beside its teacher."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import normalize

from dev.recipe import text_corpus, text_teacher
from dev.recipe.text_student import TextEncoder

OFFSETS = (0, 3, 20, 60)  # positions of the outputs that are compared, behind the end token
TEMPLATE = "a photo of the {}"
NEARER = """
    dog cat truck, cat tiger automobile, cat kitten puppy, dog wolf bicycle, airplane helicopter horse,
    automobile truck bird, automobile bus frog, bird owl ship, bird duck tractor, frog turtle airplane,
    deer goat rocket, horse donkey train, horse cow guitar, ship canoe rabbit, ship submarine cake,
    truck tractor butterfly, truck bus sheep, pizza hamburger whale, whale dolphin castle, forest tree pig
"""
"""Triples: the first is nearer to the second than to the third."""


def measure(folder: Path) -> dict[str, float]:
    """Shares of right answers by the encoder in `folder`; `teacher_...` is its teacher's."""
    encoder = TextEncoder(folder)
    figures = {
        "unseen_nearest_right": nearest_right(
            lambda prompts: torch.cat([outputs_behind(encoder, prompts, offset) for offset in OFFSETS], -1)
        ),
        "teacher_nearest_right": nearest_right(text_teacher.embed),
        "triples_right": triples_right(lambda prompts: outputs_behind(encoder, prompts, 20)),
    }
    return {name: round(value, 4) for name, value in figures.items()}


def outputs_behind(encoder: TextEncoder, prompts: list[str], offset: int) -> torch.Tensor:
    """Unit outputs so many positions behind each prompt's end token, [number of prompts, width]."""
    return normalize(encoder(prompts)[torch.arange(len(prompts)), encoder.ends(prompts) + offset], dim=-1)


def nearest_right(encode: Callable[[list[str]], torch.Tensor]) -> float:
    """The share of the benchmark's held-out words that are nearest to their class among the ten."""
    classes = text_corpus.benchmark()["classes"]
    cases = [(word, number) for number, entry in enumerate(classes.values())
             for words in entry["unseen"].values() for word in words]  # fmt: skip
    anchors = encode([TEMPLATE.format(name) for name in classes])
    cosines = encode([TEMPLATE.format(word) for word, _ in cases]) @ anchors.T
    right = [nearest == number for nearest, (_, number) in zip(cosines.argmax(1).tolist(), cases, strict=True)]
    return sum(right) / len(right)


def triples_right(encode: Callable[[list[str]], torch.Tensor]) -> float:
    """The share of the triples in which the nearer one is nearer."""
    triples = [text.split() for text in NEARER.split(",")]
    first, near, far = (encode([TEMPLATE.format(word) for word in column]) for column in zip(*triples, strict=True))
    return ((first * near).sum(-1) > (first * far).sum(-1)).float().mean().item()
