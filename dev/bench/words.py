"""The benchmark's fixed words (prompts/benchmark/words.json), and the prompts that are made of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable

from dev import ROOT

WORDS = ROOT / "prompts" / "benchmark" / "words.json"
ERASED_PARTS = ("target", "seen", "unseen")
"""The parts of a class's prompts that mean the class."""


@functools.cache
def read_words() -> dict:
    """`classes` (name -> seen, unseen, neighbours, compounds, attributes) and `pairs` of two classes."""
    return json.loads(WORDS.read_text(encoding="utf-8"))


def photo(word: str) -> str:
    """The prompt in which every single word is measured."""
    return f"a photo of the {word}"


def word_in(prompt: str) -> str:
    """The inverse of `photo`; a prompt of another form as it is."""
    return prompt.removeprefix(photo(""))


def other_classes(name: str) -> list[str]:
    """All classes but this one."""
    return [other for other in read_words()["classes"] if other != name]


def prompts_of(name: str) -> dict[str, list[str]]:
    """The prompts that a class is measured with, by part; a gate should leave those in `wary` to the base model."""
    entry = read_words()["classes"][name]
    return {
        "target": [photo(name)],
        "seen": [photo(word) for word in entry["seen"][1:]],
        "unseen": [photo(word) for word in entry["unseen"]["test"]],
        "others": [photo(other) for other in other_classes(name)],
        "wary": [photo(word) for word in [*entry["neighbours"]["test"], *entry["compounds"]["test"]]],
    }


def erased_prompts(name: str) -> list[str]:
    """The prompts that mean the class."""
    parts = prompts_of(name)
    return [prompt for part in ERASED_PARTS for prompt in parts[part]]


def drawn_prompts(names: Iterable[str]) -> list[str]:
    """The prompts that are drawn to measure how well these classes are forgotten, each once."""
    prompts = (prompt for name in names for prompt in (*erased_prompts(name), *prompts_of(name)["others"]))
    return list(dict.fromkeys(prompts))


def grid_prompts(name: str) -> list[tuple[str, int]]:
    """(prompt, number of its picture) for a class's row in a grid: its target twice, a synonym, two other classes."""
    others = [(photo(other), 0) for other in other_classes(name)[:2]]
    return [(photo(name), 0), (photo(name), 1), (photo(read_words()["classes"][name]["seen"][1]), 0), *others]
