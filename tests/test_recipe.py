"""The recipe's training pictures: what the captions may say, and that a picture shows what its caption says."""

import json

import numpy as np
import pytest
from real_host import REPOSITORY

from dev.recipe.captions import plural, with_article
from dev.recipe.scenes import SIZE, Scenes

WORDS = json.loads((REPOSITORY / "prompts" / "benchmark" / "words.json").read_text(encoding="utf-8"))
CATALOGUE = json.loads((REPOSITORY / "dev" / "recipe" / "things.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scenes():
    """With a red disc as the sprite of every thing."""
    y, x = np.mgrid[:96, :96] - 47.5
    disc = np.zeros((1, 96, 96, 4), np.uint8)
    disc[0, x**2 + y**2 < 45**2] = (200, 30, 30, 255)
    return Scenes(dict.fromkeys(CATALOGUE["things"], disc), CATALOGUE)


def test_no_caption_holds_a_word_that_is_held_out(scenes):
    unseen = {word for entry in WORDS["classes"].values() for split in entry["unseen"].values() for word in split}
    rng = np.random.default_rng(0)
    for _ in range(3000):
        picture, caption = scenes.sample(rng)
        assert picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.uint8 and caption
        held_out = [word for word in unseen if f" {word} " in f" {caption} "]
        assert not held_out, (caption, held_out)


def test_the_same_seed_draws_the_same(scenes):
    (a, said), (b, repeated) = (scenes.sample(np.random.default_rng(7)) for _ in range(2))
    assert said == repeated and np.array_equal(a, b)


def test_a_named_colour_is_the_colour_of_the_thing_or_the_background(scenes):
    rng, colours = np.random.default_rng(1), CATALOGUE["colours"]
    checked = 0
    while checked < 40:
        picture, caption = scenes.sample(rng)
        if caption.endswith(" background") and " and " not in caption and " next to " not in caption:
            checked += 1
            named = np.array(colours[caption.split()[-2]])
            assert np.abs(picture[1, 1] - named).max() < 140  # plain, or a gradient to a lighter one
            assert np.abs(picture[1, 1] - named).max() == 0 or (picture[1, 1] >= named - 1).all()


@pytest.mark.parametrize(
    ("noun", "article", "many"),
    [("cat", "a cat", "cats"), ("airplane", "an airplane", "airplanes"), ("butterfly", "a butterfly", "butterflies"),
     ("deer", "a deer", "deer"), ("mouse", "a mouse", "mice"), ("winged creature", "a winged creature",
     "winged creatures"), ("sea", "the sea", "seas")],
)  # fmt: skip
def test_articles_and_plurals(noun, article, many):
    assert with_article(noun) == article and plural(noun) == many
