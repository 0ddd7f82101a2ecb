"""The benchmark's words are fixed and apart, and the embedded model draws what two judges recognise."""

import json

import pytest
import torch
from unguide.demo_model import FOLDER, load_config
from unguide.unguide_ops import host
from unguide.unguide_ops.concept import presets

from dev.bench import forgetting, gate, model
from dev.bench.studio import photo, read_words
from dev.judge import Panel

WORDS = read_words()
SEEN = {word for words in load_config()["concepts"].values() for word in words}


def words_of(entry, kind):
    return [word for split in ("choose", "test") for word in entry[kind][split]]


def test_the_words_cover_the_ten_classes_of_the_presets():
    assert sorted([*WORDS["classes"], "nudity"]) == presets()
    for name, entry in WORDS["classes"].items():
        assert entry["seen"] == load_config()["concepts"][name]
        assert len(entry["unseen"]["choose"]) >= 3 and len(entry["unseen"]["test"]) >= 3


def test_no_unseen_word_was_seen_and_no_word_is_in_both_splits():
    unseen = [word for entry in WORDS["classes"].values() for word in words_of(entry, "unseen")]
    assert not SEEN & set(unseen) and len(set(unseen)) == len(unseen)
    for entry in WORDS["classes"].values():
        for kind in ("unseen", "neighbours", "compounds", "attributes"):
            assert len(set(words_of(entry, kind))) == len(words_of(entry, kind))


def test_every_pair_is_of_two_classes():
    for phrase, left, right in WORDS["pairs"]["choose"] + WORDS["pairs"]["test"]:
        assert {left, right} <= set(WORDS["classes"]) and left != right and isinstance(phrase, str)


def test_the_model_fits_into_20_mib():
    assert model.weights_mib(FOLDER) < 20


@pytest.fixture(scope="module")
def panel():
    return Panel()


@pytest.fixture(scope="module")
def pictures(demo, sample):
    """Two pictures of every class, and of an unseen word of each."""
    base, _, vae = demo
    prompts = [photo(word) for name, it in WORDS["classes"].items() for word in (name, it["unseen"]["choose"][0])]
    with torch.inference_mode():
        return {p: vae.decode(sample(base, p, steps=20)).movedim(-1, 1).clamp(0, 1) for p in prompts}


def test_both_judges_recognise_the_ten_classes(panel, pictures):
    for judge in panel.judges:
        right = [judge.share_recognised(pictures[photo(name)], name) for name in WORDS["classes"]]
        assert sum(right) / len(right) >= 0.9


def test_words_that_the_unet_never_saw_are_drawn_as_what_they_mean(panel, pictures):
    """About six in ten of them; a word without meaning would be one in ten."""
    cases = [(photo(it["unseen"]["choose"][0]), name) for name, it in WORDS["classes"].items()]
    assert model.mean(panel.share_recognised(pictures[prompt], name) for prompt, name in cases) >= 0.45


def test_the_judges_see_nothing_in_noise_and_plain_colours(panel):
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(32, 3, 64, 64, generator=generator)
    plain = torch.rand(32, 3, 1, 1, generator=generator).expand(32, 3, 64, 64)
    for judge in panel.judges:
        for nothing in (noise, plain):
            assert (judge.probabilities(nothing)[:, : len(judge.names)].amax(1) < 0.5).float().mean() >= 0.8


def test_every_output_token_separates_concepts(clip):
    """Padding included: cross-attention sees them all."""
    outputs = torch.stack([host.encode(clip, photo(name))[0][0][0] for name in WORDS["classes"]])  # [10, 77, width]
    outputs = torch.nn.functional.normalize(outputs, dim=-1)[:, 8:]  # behind the end token
    for position in range(outputs.shape[1]):
        cosines = outputs[:, position] @ outputs[:, position].T
        assert (cosines - torch.eye(len(cosines))).max() < 0.8


def test_the_report_s_measures_on_made_up_pictures(panel, pictures):
    """A gate that takes every prompt for the concept gives w = -1's row, one that takes none the base's."""
    parts = forgetting.prompts_of(WORDS, "cat")
    drawn = [prompt for part in ("target", "seen", "unseen", "others") for prompt in parts[part]]
    cat, dog = pictures[photo("cat")], pictures[photo("dog")]
    base = {prompt: pictures.get(prompt, cat) for prompt in drawn}
    gone = {prompt: (dog * 255).byte().numpy() for prompt in drawn}
    result = {
        "pictures": {"lora": gone, "w_minus_1": gone},
        "erased": {"all": drawn, "none": []},
    }
    found = forgetting.accuracies(WORDS, "cat", result, base, panel)
    assert found["all"] == found["w_minus_1"] and found["none"] == found["base"]
    assert found["a right gate"]["acc_e"] == found["w_minus_1"]["acc_e"]
    assert found["a right gate"]["acc_s"] == found["base"]["acc_s"]
    assert json.dumps(found)


def test_a_gate_is_held_against_what_the_model_draws(pictures):
    """One that takes for the cat exactly what the model draws as one errs by the words, and not by what is drawn."""
    drawn = {photo("cat"): 0.9, photo("moggy"): 0.1, photo("catfish"): 0.8, photo("dog"): 0.1, "a bridge": 0.0}
    parts = ("target", "unseen", "compounds", "others", "captions")
    decisions = {prompt: {"score": share, "erased": share > 0.5} for prompt, share in drawn.items()}
    results = {
        "cat": {
            "parts": {prompt: (part, "test") for prompt, part in zip(drawn, parts, strict=True)},
            "drawn": drawn,
            "default": {"decisions": decisions},
        }
    }
    assert gate.by_drawing(results) == {
        "drawn_auc_min": 1, "drawn_auc_mean": 1, "drawn_false_positive_rate": 0, "drawn_false_negative_rate": 0,
    }  # fmt: skip
    assert gate.wrong_by_words(results) == [("cat", photo("moggy")), ("cat", photo("catfish"))]
    assert gate.rates(results, "default", lambda it, prompt, _: decisions[prompt]["erased"])["false negatives"] == 0.5
    assert gate.auc([0.1, 0.9, 0.5, 0.5], [False, True, True, False]) == 0.875
    assert gate.doubtful(results, dict.fromkeys(drawn, pictures[photo("cat")])).size[0] > 400
