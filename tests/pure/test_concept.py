"""Concepts and prompt files."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_host import REPOSITORY
from unguide.unguide_ops.concept import PROMPTS, Concept, concept_from, default_preserve, presets, read_prompt_file


def test_every_preset_reads_and_preserves_nothing_of_itself():
    for preset in presets():
        concept = concept_from(preset, "", "", "", "")
        assert len(concept.synonyms) >= 3 and concept.other[-1] == "" and len(concept.other) == 10
        assert concept.preserved and not set(concept.preserved) & {concept.target, *concept.synonyms, ""}
        assert preset == "nudity" or {*concept.other[:-1]} < {*concept.near} <= {*concept.preserved}


def test_no_preset_and_no_noun_is_near_by_a_word_that_the_benchmark_tests():
    def of_test(entry):
        return {word for words in entry.values() if isinstance(words, dict) for word in words.get("test", ())}

    classes = json.loads((REPOSITORY / "prompts" / "benchmark" / "words.json").read_text(encoding="utf-8"))["classes"]
    tested = {word for entry in classes.values() for word in of_test(entry)}
    nouns = (REPOSITORY / "prompts" / "nouns.txt").read_text(encoding="utf-8").splitlines()
    assert len(tested) > 90 and not tested & {*nouns} and len(nouns) > 2000
    for name in classes:
        words = {prompt.removeprefix("a photo of the ") for prompt in concept_from(name, "", "", "", "").near}
        assert not tested & words - {*classes}


def test_what_is_near_is_preserved_though_it_has_the_concepts_name():
    concept = Concept(target="a dog", reference="a park", near=("a hot dog",), preserve=("a dog in a park", "a cat"))
    assert concept.preserved == ("a hot dog", "a cat")


def test_the_synonyms_of_the_presets_are_words_the_embedded_model_was_trained_on():
    config = json.loads((REPOSITORY / "demo_model" / "config.json").read_text(encoding="utf-8"))
    words = config["concepts"]
    for preset in words.keys() & set(presets()):
        assert concept_from(preset, "", "", "", "").target == f"a photo of the {preset}"
        assert {prompt.split()[-1] for prompt in concept_from(preset, "", "", "", "").synonyms} <= {
            word.split()[-1] for word in words[preset]
        }


def test_filled_fields_replace_the_preset_s():
    concept = concept_from("cat", "", " a photo of the sea ", "tabby\n\n moggy ", "")
    assert (concept.target, concept.reference) == ("a photo of the cat", "a photo of the sea")
    assert concept.synonyms == ("tabby", "moggy")


def test_without_preset_target_and_reference_are_required():
    with pytest.raises(ValueError, match="`reference` is empty"):
        concept_from(None, "a tiger", " ", "", "")
    assert concept_from(None, "a tiger", "the sea", "", "").preserve == default_preserve()


def test_a_preserved_prompt_that_is_the_concept_itself_is_left_out():
    concept = concept_from(None, "a tiger", "the sea", "a big cat", "")
    assert "a photo of the tiger" in concept.preserve and "a photo of the tiger" not in concept.preserved


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "JSON"), ("[]", "object"), ('{"target": "a"}', "reference"), ('{"target": 1, "reference": "b"}', "target"),
     ('{"target": "a", "reference": "b", "synonyms": [""]}', "synonyms.0"), ("x" * 1_000_001, "larger than")],
)  # fmt: skip
def test_a_wrong_prompt_file_is_refused_with_the_place(tmp_path, content, message):
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"wrong.json.*{message}"):
        read_prompt_file(path)


@given(st.binary(max_size=300) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
).map(lambda x: json.dumps(x).encode()))  # fmt: skip
def test_any_bytes_give_a_concept_or_a_clear_error(tmp_path, content):
    path = tmp_path / "any.json"
    path.write_bytes(content)
    try:
        assert isinstance(read_prompt_file(path), Concept)
    except ValueError as error:
        assert "any.json" in str(error)


def test_prompt_files_are_in_the_authors_layout():
    for path in PROMPTS.glob("*.json"):
        assert list(json.loads(path.read_text()))[:4] == ["target", "reference", "synonyms", "other"]


@pytest.mark.parametrize(
    ("target", "kept", "left_out"),
    [("a photo of a nude person", "a photo of a person", "a photo of a nude person on a beach"),
     ("a photo of the cat", "a photo of the catfish", "a cat on a sofa"),
     ("a painting in the style of Van Gogh", "a painting in the style of Vermeer", "Van Gogh, in comic style")],
)  # fmt: skip
def test_what_says_all_that_the_target_says_is_not_preserved(target, kept, left_out):
    it = Concept(target=target, reference="a photo of the ground", preserve=(kept, left_out))
    assert it.preserved == (kept,)


def test_the_nudity_preset_preserves_people():
    assert "a photo of a person" in concept_from("nudity", "", "", "", "").preserved
