"""The language of the captions: templates, articles, plurals."""

import numpy as np

FAVOURITE = "a photo of {the}"
FAVOURITE_SHARE = 0.35
TEMPLATES = (
    "a photo of {a}", "a picture of {the}", "a picture of {a}", "an image of {the}", "an image of {a}",
    "a drawing of {a}", "an icon of {a}", "a small picture of {a}", "a cute {bare}", "{a}", "{the}", "{bare}",
)  # fmt: skip
PHRASE_TEMPLATES = (
    "a photo of {}", "a picture of {}", "an image of {}", "a drawing of {}", "an icon of {}", "{}", "{}",
)  # fmt: skip
WITHOUT_A = {"cattle", "woods", "clouds", "sea", "ocean", "sky", "ground", "soil"}
PLURALS = {
    **dict.fromkeys(("aircraft", "watercraft", "deer", "sheep", "fish", "swine", "cattle", "fowl"), None),
    "mouse": "mice", "wolf": "wolves", "fungus": "fungi",
}  # fmt: skip
"""Irregular plurals; None where it is the word itself."""


def with_article(noun: str) -> str:
    """The noun after "a" or "an", or after "the" where neither can stand ("the sea")."""
    if noun.split()[-1] in WITHOUT_A:
        return f"the {noun}"
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    """The noun in the plural: "cats", "mice", "butterflies", "winged creatures"."""
    if noun in PLURALS:
        return PLURALS[noun] or noun
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def caption_of(noun: str, rng: np.random.Generator) -> str:
    """A caption for a picture of one thing; `noun` may carry a colour ("red car")."""
    template = FAVOURITE if rng.random() < FAVOURITE_SHARE else TEMPLATES[rng.integers(len(TEMPLATES))]
    return template.format(a=with_article(noun), the=f"the {noun}", bare=noun)


def caption_of_phrase(phrase: str, rng: np.random.Generator) -> str:
    """A caption for a phrase that has its articles already ("a cat and a dog", "two cats")."""
    return PHRASE_TEMPLATES[rng.integers(len(PHRASE_TEMPLATES))].format(phrase)
