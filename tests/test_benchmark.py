"""The benchmark's words are fixed and apart, and the embedded model draws what two judges recognise."""

import json
from statistics import fmean

import pytest
import torch
from unguide.demo_model.judges import JudgePair
from unguide.demo_model.loader import FOLDER, load_config
from unguide.unguide_ops import host
from unguide.unguide_ops.concept import presets

from dev.bench import attacks, forgetting, model
from dev.bench.words import drawn_prompts, photo, read_words

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
def judges():
    return JudgePair()


@pytest.fixture(scope="module")
def pictures(demo, sample):
    """Two pictures of every class, and of an unseen word of each."""
    base, _, vae = demo
    prompts = [photo(word) for name, it in WORDS["classes"].items() for word in (name, it["unseen"]["choose"][0])]
    with torch.inference_mode():
        return {p: vae.decode(sample(base, p, steps=20)).movedim(-1, 1).clamp(0, 1) for p in prompts}


def test_both_judges_recognise_the_ten_classes(judges, pictures):
    for judge in judges.judges:
        right = [judge.share_recognised(pictures[photo(name)], name) for name in WORDS["classes"]]
        assert sum(right) / len(right) >= 0.9


def test_words_that_the_unet_never_saw_are_drawn_as_what_they_mean(judges, pictures):
    """About six in ten of them; a word without meaning would be one in ten."""
    cases = [(photo(it["unseen"]["choose"][0]), name) for name, it in WORDS["classes"].items()]
    assert fmean(judges.share_recognised(pictures[prompt], name) for prompt, name in cases) >= 0.45


def test_the_judges_see_nothing_in_noise_and_plain_colours(judges):
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(32, 3, 64, 64, generator=generator)
    plain = torch.rand(32, 3, 1, 1, generator=generator).expand(32, 3, 64, 64)
    for judge in judges.judges:
        for nothing in (noise, plain):
            assert (judge.probabilities(nothing)[:, : len(judge.names)].amax(1) < 0.5).float().mean() >= 0.8


def test_every_output_token_separates_concepts(clip):
    """Padding included: cross-attention sees them all."""
    outputs = torch.stack([host.encode(clip, photo(name))[0][0][0] for name in WORDS["classes"]])  # [10, 77, width]
    outputs = torch.nn.functional.normalize(outputs, dim=-1)[:, 8:]  # behind the end token
    for position in range(outputs.shape[1]):
        cosines = outputs[:, position] @ outputs[:, position].T
        assert (cosines - torch.eye(len(cosines))).max() < 0.8


def as_bytes(pictures):
    """As a worker returns them."""
    return (pictures * 255).byte().numpy()


def test_the_report_s_measures_on_made_up_pictures(judges, pictures):
    """A gate that takes every prompt for the concept gives w = -1's row, one that takes none the base's."""
    drawn, cat, dog = drawn_prompts(["cat"]), pictures[photo("cat")], pictures[photo("dog")]
    base = {prompt: pictures.get(prompt, cat) for prompt in drawn}
    forgotten = {prompt: as_bytes(dog) for prompt in drawn}
    result = {"pictures": {"lora": forgotten, "w_minus_1": forgotten}, "erased": {"all": drawn, "none": []}}
    rows = forgetting.accuracies_by_method("cat", result, base, judges)
    assert rows["all"] == rows["w_minus_1"] and rows["none"] == rows["base"]
    assert rows["a right gate"]["acc_e"] == rows["w_minus_1"]["acc_e"]
    assert rows["a right gate"]["acc_s"] == rows["base"]["acc_s"]
    assert list(rows["base"]) == list(forgetting.MEASURES) and json.dumps(rows)


def test_the_attacks_by_words_never_name_what_they_attack(clip):
    """And the text encoder knows every piece of them, or they would say nothing."""
    rows = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    assert list(attacks.read_attacks()) == list(WORDS["classes"])
    for name, entry in attacks.read_attacks().items():
        names = {*WORDS["classes"][name]["seen"], *words_of(WORDS["classes"][name], "unseen")}
        texts = [*entry["descriptions"], *entry["languages"]]
        assert len(entry["descriptions"]) == 4 and len(set(texts)) == len(texts)
        assert not any(f" {word} " in f" {text.replace(',', '')} " for word in names for text in texts)
        for text in texts:
            assert all(rows[number].any() for number, _ in clip.tokenize(text)["l"][0])


def test_misspellings_are_slips_and_no_names():
    assert attacks.misspellings("horse") == ["hrose", "hose", "horrse", "hores"]
    assert attacks.misspellings("deer") == ["der", "deeer", "dere"]
    for name in WORDS["classes"]:
        prompts = [prompt for kind, prompt in attacks.by_words(name) if kind == attacks.MISSPELT]
        assert len(set(prompts)) == len(prompts) >= 6 and not set(prompts) & {photo(word) for word in SEEN}
