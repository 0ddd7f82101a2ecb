"""The texts that the text encoder learns from: English words, and phrases of colours, counts, two things and scenes.

A phrase is written in segments parted by " | ", things and connectives in turn, with "the" for every article:
"the red car | next to | the blue boat". So each thing of a phrase can be found again in the caption made of it.
"""

import json
import random
from collections.abc import Iterator

from dev import ROOT
from dev.recipe.captions import plural, with_article
from dev.recipe.sprites import load_things

WORDS = ROOT / "prompts" / "benchmark" / "words.json"
TEMPLATES = {
    "a photo of {}": 8, "a picture of {}": 2, "an image of {}": 2, "a drawing of {}": 2, "an icon of {}": 1,
    "a small picture of {}": 1, "{} in the picture": 0.5, "this is {}": 0.5, "a painting of {}": 0.5,
    "photo of {}": 0.5, "a photograph of {}": 0.5, "a close-up of {}": 0.5, "an oil painting of {}": 0.5,
    "a sketch of {}": 0.5, "a nice photo of {}": 0.5, "{} , high quality": 0.5, "{} , digital art": 0.5, "{}": 4,
}  # fmt: skip
"""Captions, and how often each is drawn: all of them mean what is in the braces."""

LOOKS = ["cute", "small", "big"]
COUNTS = ["two", "three", "four", "five", "many"]
RELATIONS = ["and", "next to", "beside", "with", "on", "above", "under", "behind", "in front of", "in", "near"]
SCENES = ["the forest", "the sea", "the sky", "the street", "the ground", "the snow", "the beach", "the city",
          "the desert", "the grass", "the river", "the mountains", "the garden", "the water", "the night"]  # fmt: skip
ENGLISH = 16_000  # the number of frequent words that are looked at; most are made of letters alone


def colours() -> list[str]:
    """The colours that the training pictures have."""
    return list(load_things()["colours"])


def concepts() -> dict[str, list[str]]:
    """The concepts that the pictures show, scenes among them: name -> words for it."""
    return {name: thing["words"] for name, thing in load_things()["things"].items()}


def benchmark() -> dict:
    """The benchmark's words, prompts/benchmark/words.json."""
    return json.loads(WORDS.read_text(encoding="utf-8"))


def drawable() -> list[str]:
    """Words for things: the concepts', seen and held out, and the benchmark's neighbours and compounds."""
    words = [word for words in concepts().values() for word in words]
    for entry in benchmark()["classes"].values():
        for kind in ("unseen", "neighbours", "compounds"):
            words += entry[kind]["choose"] + entry[kind]["test"]
    return list(dict.fromkeys(words))


def english() -> list[str]:
    """Frequent English words, most frequent first."""
    from wordfreq import top_n_list  # of the section `recipe`, which the tests do not install

    return [word for word in top_n_list("en", ENGLISH) if word.isascii() and word.isalpha() and len(word) > 1]


def phrases(number: int, seed: int = 0) -> list[str]:
    """`number` different phrases; most of their things are drawable, the others any English word."""
    draw = random.Random(seed)
    nouns, words, tints = drawable(), english()[100:9000], colours()
    phrases = {f"the {quality} {noun}": None for quality in (*tints, *LOOKS) for noun in nouns}
    phrases |= {f"the {noun} | on | the {tint} background": None for tint in tints for noun in nouns}
    while len(phrases) < number:
        phrases[_phrase(draw, lambda: draw.choice(draw.choice((nouns, words))), tints)] = None
    return list(phrases)


def _phrase(draw: random.Random, noun, tints: list[str]) -> str:
    def thing() -> str:
        return f"the {draw.choice(tints)} {noun()}" if draw.random() < 0.5 else f"the {noun()}"

    match draw.choice(("alone", "counted", "pair", "pair", "scene", "background")):
        case "alone":
            return f"the {draw.choice(tints)} {noun()}"
        case "counted":
            group = f"{draw.choice(COUNTS)} {plural(noun())}"
            return group if draw.random() < 0.5 else f"{group} | on | the {draw.choice(tints)} background"
        case "pair":
            return f"{thing()} | {draw.choice(RELATIONS)} | {thing()}"
        case "scene":
            return f"{thing()} | {draw.choice(('in', 'on', 'above', 'near'))} | {draw.choice(SCENES)}"
        case _:
            return f"{thing()} | on | the {draw.choice(tints)} background"


def sentence(phrase: str) -> str:
    """The one sentence whose embedding by the teacher is what every caption of `phrase` means."""
    return f"a photo of {phrase.replace(' | ', ' ')}" if phrase else ""


def things_in(phrase: str) -> Iterator[tuple[int, str]]:
    """(number of its segment, the thing) for each thing of `phrase`."""
    for number, segment in enumerate(phrase.split(" | ")):
        if number % 2 == 0:
            yield number, segment


def caption(phrase: str, draw: random.Random) -> list[str]:
    """`phrase` in a template, with other articles: the text before it, its segments, and the text behind it."""
    if not phrase:
        return ["", "", ""]
    template = draw.choices(list(TEMPLATES), list(TEMPLATES.values()))[0]
    article = draw.choices(("the", "a", "my", ""), (6, 6, 1, 2))[0]
    before, behind = template.split("{}")
    return [before, *(_with_article(segment, article) for segment in phrase.split(" | ")), behind]


def _with_article(segment: str, article: str) -> str:
    if not segment.startswith("the ") or article == "the":
        return segment
    bare = segment.removeprefix("the ")
    return with_article(bare) if article == "a" else f"{article} {bare}".strip()
