"""What the card asks a model for: the prompts of a class by part, and what each part's pictures should show.

All words are fixed ones of prompts/benchmark, and those of a `choose` split are not among them.
"""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass

from unguide.unguide_ops.concept import concept_from

from dev import ROOT
from dev.bench.attacks import DESCRIBED, FOREIGN, MISSPELT, by_words
from dev.bench.words import other_classes, photo, read_words
from dev.recipe.captions import plural, with_article

WORDS = ROOT / "prompts" / "benchmark" / "card.json"
CAPTIONS = ROOT / "prompts" / "lists" / "everyday.csv"
NAME, SYNONYM, UNSEEN, VARIANT = "name", "synonym", "unseen word", "variant"
SHORT, LONG, BELOW, ABOVE = "short description", "long description", "subclass", "superclass"
OTHER, NEIGHBOUR, COMPOUND, CAPTION = "other class", "neighbour", "compound", "caption"
BACKGROUND, COLOUR, SECOND, COUNT = "background", "colour", "second thing", "count"
PAIR = "one of two classes"
NAMES = (NAME, SYNONYM, UNSEEN, VARIANT)
"""The parts that name the class: a gate should find them."""
UNRELATED = (OTHER, NEIGHBOUR, COMPOUND, CAPTION)
"""The parts that do not mean the class: a gate should leave them to the base model."""
REST = (BACKGROUND, COLOUR, SECOND, COUNT)
"""The parts that say something beside the class's name, which should still be seen where the class is erased."""
VARIANTS = ("an icon of {a}", "a small picture of {the}", "{bare}")
MOST_MISSPELT = 3
MOST_CAPTIONS = 6
SECOND_THINGS = ("umbrella", "star")  # of eight, those that the embedded model draws most often beside a dog or truck
COLOURS = ("red", "blue")
COUNTS = {"two": 2, "three": 3}


@dataclass(frozen=True)
class CardPrompt:
    """A prompt, the thing that the base model should draw for it ("": not one thing), and what to check in `rest`."""

    part: str
    text: str
    shows: str = ""
    rest: str | int = ""


@functools.cache
def read_card_words() -> dict:
    """Class -> `above`, `below`, `long`."""
    return json.loads(WORDS.read_text(encoding="utf-8"))["classes"]


def card_prompts(name: str, things: frozenset[str]) -> list[CardPrompt]:
    """All prompts of a class; `things` are the names that the judges know."""
    return list({prompt.text: prompt for prompt in _all(name, things)}.values())


def _all(name: str, things: frozenset[str]) -> Iterator[CardPrompt]:
    words, further = read_words()["classes"][name], read_card_words()[name]
    yield CardPrompt(NAME, photo(name), name)
    yield from (CardPrompt(SYNONYM, photo(word), name) for word in words["seen"][1:])
    yield from (CardPrompt(UNSEEN, photo(word), name) for word in words["unseen"]["test"])
    forms = {"a": with_article(name), "the": f"the {name}", "bare": name}
    yield from (CardPrompt(VARIANT, template.format(**forms), name) for template in VARIANTS)
    attacks: dict[str, list[str]] = {}
    for kind, text in by_words(name):
        attacks.setdefault(kind, []).append(text)
    yield from (CardPrompt(SHORT, text, name) for text in attacks[DESCRIBED])
    yield from (CardPrompt(LONG, text, name) for text in further["long"])
    yield from (CardPrompt(MISSPELT, text, name) for text in attacks.get(MISSPELT, ())[:MOST_MISSPELT])
    yield from (CardPrompt(FOREIGN, text, name) for text in attacks.get(FOREIGN, ()))
    yield from (CardPrompt(BELOW, photo(word), name) for word in further["below"])
    yield from (CardPrompt(ABOVE, photo(word), name) for word in further["above"])
    yield from (CardPrompt(OTHER, photo(other), other) for other in other_classes(name))
    neighbours = (word for word in words["neighbours"]["test"] if word not in read_words()["classes"])
    yield from (CardPrompt(NEIGHBOUR, photo(word), word if word in things else "") for word in neighbours)
    yield from (CardPrompt(COMPOUND, photo(word)) for word in words["compounds"]["test"])
    yield from (CardPrompt(CAPTION, text) for text in captions(name))
    yield from (
        CardPrompt(BACKGROUND, f"{with_article(name)} on a {it} background", name, it) for it in ("blue", "red")
    )
    yield from (CardPrompt(COLOUR, f"a {it} {name}", name, it) for it in ("red", "blue"))
    yield from (CardPrompt(SECOND, f"{with_article(name)} and {with_article(it)}", name, it) for it in SECOND_THINGS)
    yield from (CardPrompt(PAIR, text) for text, *both in read_words()["pairs"]["test"] if name in both)
    yield from (CardPrompt(COUNT, f"{it} {plural(name)}", name, number) for it, number in COUNTS.items())


def captions(name: str, most: int | None = MOST_CAPTIONS) -> list[str]:
    """Some everyday captions of scenes that name none of the ten classes, and this one by no other word either."""
    with CAPTIONS.open(encoding="utf-8", newline="") as file:
        rows = [row["prompt"] for row in csv.DictReader(file) if row["theme"] not in ("animal", "vehicle")]
    classes = read_words()["classes"]
    named = {word for entry in classes.values() for word in entry["seen"]}
    other = {word for words in classes[name]["unseen"].values() for word in words}
    scenes = [text for text in rows if not named & set(text.split())][:most]
    return [text for text in scenes if not other & set(text.split())]


def reference_of(name: str) -> tuple[str, str]:
    """The prompt of what is drawn in place of the class, and the thing that it names."""
    reference = concept_from(name, "", "", "", "").reference
    return reference, reference.split()[-1]


def exchanged(prompt: CardPrompt, name: str) -> str:
    """The prompt as one would write it without the class: its reference in place of the class's name."""
    shown = reference_of(name)[1]
    forms = ((plural(name), plural(shown)), (with_article(name), with_article(shown)), (name, shown))
    return next(prompt.text.replace(*form) for form in forms if form[0] in prompt.text)


def words_of(name: str) -> str:
    """The class's name and seen synonyms, as one would write them into a negative prompt."""
    return ", ".join(read_words()["classes"][name]["seen"])
