"""The nouns nearest to a concept: found from encoded prompts, kept apart from those that mean it, and preserved."""

import dataclasses
import json

import comfy.model_management
import pytest
from unguide.unguide_ops import host
from unguide.unguide_ops.concept import Concept, EncodedConcept
from unguide.unguide_ops.pipeline import train_concept
from unguide.unguide_ops.training import config, near_words
from unguide.unguide_ops.training.near_words import with_near_words

NOUNS = ("kitten", "lion", "leopard", "sofa", "dog", "tree", "hammer", "castle", "pizza", "cloud", "jacket", "forest")
ASKED = dataclasses.replace(config.OBJECT, width=64, height=64, near_words=4)


@pytest.fixture(autouse=True)
def few_nouns(monkeypatch):
    monkeypatch.setattr(near_words, "nouns", lambda: NOUNS)
    monkeypatch.setattr(near_words, "_kept", {})


@pytest.fixture
def encoding(clip):
    """A concept without a list of what to preserve, and the prompts that were encoded."""
    encoded = []

    def encode(prompt):
        encoded.append(prompt)
        return host.encode(clip, prompt)

    cat, kitty, preserve = "a photo of the cat", "a photo of the kitty", ("a photo of the dog", "a photo of the house")
    concept = Concept(target=cat, reference="a photo of the forest", synonyms=(kitty,), preserve=preserve)
    return EncodedConcept.of(concept, encode), encoded


def test_they_are_close_do_not_mean_it_and_are_preserved(encoding):
    concept, _ = encoding
    found_in, words = with_near_words(concept, ASKED, host.ProgressReporter())
    kept = [word for word in words if not word.means_it]
    assert len(kept) == 4 and set(found_in.concept.near) == {word.prompt for word in kept}
    assert {*found_in.concept.near} <= {*found_in.concept.retained} <= {*found_in.prompts}
    assert {word.prompt for word in words}.isdisjoint({*concept.concept.erased, *concept.concept.retained})
    responses = [word.response for word in words]
    assert responses == sorted(responses, reverse=True) and all(-1 <= word.likeness <= 1 for word in words)
    threshold = min(word.likeness for word in words if word.means_it) if len(words) > len(kept) else 1
    assert all(word.likeness < threshold for word in kept)
    assert concept.concept.near == ()  # the user's is left as it was


def test_every_noun_is_encoded_once_for_an_encoder_whatever_the_concept(encoding, clip):
    concept, encoded = encoding
    with_near_words(concept, ASKED, host.ProgressReporter())
    assert {f"a photo of the {noun}" for noun in NOUNS} <= {*encoded}
    encoded.clear()
    other = EncodedConcept.of(Concept(target="a photo of the ship", reference="a photo of the sea"), concept.encode)
    encoded.clear()
    with_near_words(other, ASKED, host.ProgressReporter())
    assert len(encoded) < len(NOUNS)

    def louder(prompt):  # another encoder
        ((tokens, extras),) = host.encode(clip, prompt)
        return [[2 * tokens, extras]]

    encoded.clear()
    with_near_words(EncodedConcept.of(other.concept, louder), ASKED, host.ProgressReporter())
    assert len(near_words._kept) == 2


def test_cancel_ends_the_search(encoding, monkeypatch):
    monkeypatch.setattr(near_words, "SHOWN_EVERY", 1)

    class Cancelling(host.ProgressReporter):
        def show(self, count, text, preview):
            assert "near the concept" in text
            comfy.model_management.interrupt_current_processing()

    with pytest.raises(host.Interrupted):
        with_near_words(encoding[0], ASKED, Cancelling())
    assert near_words._kept == {}


def test_the_trainer_reports_them_and_its_file_names_them(encoding, model):
    trained = train_concept(model, encoding[0], ASKED, captions=3)
    near = trained.report()["near"]
    kept = [word["prompt"] for word in near if not word["means_it"]]
    assert len(kept) == 4 and {*trained.lora.concept["near"]} == {*kept} and json.dumps(near)
    assert train_concept(model, encoding[0], dataclasses.replace(ASKED, near_words=0), captions=3).near == []


def test_the_prompts_around_a_noun_are_the_targets():
    assert near_words._frame_of("a photo of the cat") == "a photo of the "
    assert near_words._frame_of("cat") == "" and near_words._frame_of("Cat on a mat") == ""
    assert near_words._frame_of("a photo of a nude person") == "a photo of a "
