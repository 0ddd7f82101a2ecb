"""A concept in encoded prompts: what responds to it, and what it is swapped for. The encoder gives a vector a word."""

import hashlib
import re

import pytest
import torch
from unguide.unguide_ops.concept import Concept
from unguide.unguide_ops.concept_text import TOKENS, ConceptText
from unguide.unguide_ops.files import lora_file
from unguide.unguide_ops.gate.calibration import Calibration, KnownScores, LevelScores

WIDTH, POOLED = 48, 32
THINGS = ("house", "dog", "chair", "tree", "sky", "road")
CONCEPT = Concept(
    target="a photo of the cat", reference="a photo of the sea", synonyms=["a photo of the feline"],
    preserve=[f"a photo of the {thing}" for thing in THINGS],
)  # fmt: skip
UNRELATED = [f"a {colour} {thing}" for colour in ("red", "blue", "old") for thing in THINGS]


def vector(word, width=WIDTH):
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4])
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def encode(prompt):
    words = ["<begin>", *prompt.split()]
    return {
        TOKENS: torch.stack([vector(word) for word in words])[None],
        "pooled_output": sum(vector(word, POOLED) for word in words)[None],
        "guidance": torch.tensor(3.5),
    }


@pytest.fixture(scope="module")
def text():
    return ConceptText.of(CONCEPT, encode, UNRELATED)


def response(text, prompt):
    return text.response(encode(prompt)[TOKENS]).item()


def test_names_respond_fully_also_among_many_words_and_others_do_not(text):
    assert response(text, "a photo of the cat") == pytest.approx(1, abs=0.01)
    assert response(text, "feline") == pytest.approx(1, abs=0.1)
    assert response(text, "an old house with a tree and a red chair and in the street a cat") > 0.9
    assert all(response(text, prompt) < 0.2 for prompt in UNRELATED)
    assert response(text, "a photo of the sea") < 0.2
    batch = torch.cat([encode(prompt)[TOKENS] for prompt in ("the cat", "the dog")])
    assert torch.allclose(text.response(batch), torch.tensor([response(text, "the cat"), response(text, "the dog")]))


def test_swapped_the_concept_is_the_reference_and_all_other_words_are_what_they_were(text):
    ((*others, swapped),) = text.swapped(encode("a blue cat"))[TOKENS]
    assert torch.nn.functional.cosine_similarity(swapped, vector("sea"), dim=0) > 0.9
    for word, row in zip(("<begin>", "a", "blue"), others, strict=True):
        assert (row - vector(word)).norm() < 0.2 * vector(word).norm()
    pooled = text.swapped(encode("a photo of the cat"))["pooled_output"]
    assert (pooled - encode("a photo of the sea")["pooled_output"]).norm() < 0.2 * pooled.norm()
    assert text.swapped(encode("a dog")).keys() == {TOKENS, "pooled_output"}  # a number is no place for a concept


def test_another_encoder_s_prompt_cannot_be_read(text):
    wider = {TOKENS: torch.ones(1, 4, WIDTH + 1), "pooled_output": torch.ones(1, POOLED)}
    assert text.response(wider[TOKENS]) is None and text.swapped(wider) is None
    assert text.response(None) is None and text.response(torch.ones(1, WIDTH)) is None and text.swapped({}) is None
    assert text.swapped({**encode("a cat"), "pooled_output": torch.ones(1, POOLED + 1)}) is None
    assert text.swapped({TOKENS: encode("a cat")[TOKENS], "pooled_output": None}).keys() == {TOKENS}
    assert text.response_to([[encode("a cat")[TOKENS], {}], [wider[TOKENS], {}]]) is None
    assert text.response_to([[encode("a dog")[TOKENS], {}], [encode("a cat")[TOKENS], {}]]) > 0.9


def test_an_encoder_with_further_texts_is_left_to_the_prediction():
    layers = {"conditioning_llama3": torch.ones(1, 32, 4, 8)}
    assert ConceptText.of(CONCEPT, lambda prompt: {**encode(prompt), **layers}, UNRELATED) is None


def test_it_is_the_same_from_its_tensors_and_what_does_not_fit_together_is_refused(text):
    tensors = text.tensors()
    again = ConceptText.from_tensors(tensors)
    assert again.tensors().keys() == tensors.keys()
    assert all(torch.equal(it, tensors[name]) for name, it in again.tensors().items())
    for name, wrong in (
        ("names", None), ("names", torch.ones(2, 3)), (f"{TOKENS}.change", torch.ones(3, 4)),
        (f"{TOKENS}.directions", None), (f"reference.{TOKENS}", torch.ones(1, 5, WIDTH + 1)),
        (f"reference.{TOKENS}", None), (f"empty.{TOKENS}", None), ("names", tensors["names"].half()),
    ):  # fmt: skip
        changed = {key: it for key, it in {**tensors, name: wrong}.items() if it is not None}
        with pytest.raises(ValueError, match="its text cannot be read|its (reference|empty) prompt has no"):
            lora_file._unpack_text(lora_file._packed(changed))
    broken = lora_file._packed({**tensors, "names": torch.full_like(tensors["names"], torch.nan)})
    with pytest.raises(ValueError, match=re.escape("`names` of its text is empty, of a wrong type, NaN or infinite")):
        lora_file._unpack_text(broken)


# --- the two votes


def calibration(**words):
    known = {"neutral": (0.0, 0.1, 0.2, 0.1), "preserved": (0.0,), "target": (1.0,), "synonyms": (0.8,)}
    text = KnownScores(**{**known, **words}) if words else None
    return Calibration(base="", width=64, height=64, cfg=7.5, steps=10, levels=(LevelScores(sigma=1.0, **known),),
                       text=text)  # fmt: skip


def test_the_score_is_the_geometric_mean_of_both_votes_with_a_threshold_of_its_own():
    both = calibration(neutral=(0.1, 0.0, 0.2, -0.1))
    decision = both.decide({1.0: 0.2}, 0.01, 0.8)
    assert decision.score == pytest.approx(0.4) and decision.erased and decision.votes == (0.2, 0.8)
    assert both.known(both.levels[0]).neutral == pytest.approx((0.0, 0.0, 0.2, 0.0))
    assert both.decide({1.0: -0.2}, 0.01, 0.9).score == both.decide({1.0: 0.9}, 0.01, -0.2).score == 0
    with pytest.raises(ValueError, match="NaN"):
        both.decide({1.0: float("nan")}, 0.01, 0.9)
    alone = both.decide({1.0: 0.2}, 0.01, None)
    assert alone.score == 0.2 and not alone.erased and alone.votes == (0.2, None)
    assert alone.threshold == calibration().decide({1.0: 0.2}, 0.01, 0.9).threshold != decision.threshold
    assert both.decide({1.0: 0.1}, 0.01, 0.1).report()["words"] == 0.1


def test_error_rates_are_counted_on_the_known_prompts():
    assert calibration(neutral=(0.0,) * 4).error_rates(0.001) == (0.0, 0.0)
    false_alarms, misses = calibration(neutral=(0.0, 0.0, 2.0, 0.0), synonyms=(-0.8,)).error_rates(0.001)
    assert (false_alarms, misses) == (pytest.approx(1 / 5), 1 / 2)


def test_votes_on_other_prompts_than_the_prediction_s_are_refused():
    with pytest.raises(ValueError, match="scores of the same prompts"):
        calibration(neutral=(0.1,))
