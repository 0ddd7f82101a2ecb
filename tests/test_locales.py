"""The translations of the nodes, as the front end reads them: locales/LANGUAGE/nodeDefs.json."""

import json
import re
from collections import Counter

import pytest
from unguide.nodes import NODES

from dev import locales

TEXTS = {language: locales.read(language) for language in (locales.SOURCE, *locales.LANGUAGES)}
ENGLISH = locales.flat(locales.english(NODES))
OPTIONS = {
    f"{node.GET_SCHEMA().node_id}.inputs.{control.id}.tooltip": control.options
    for node in NODES
    for control in node.GET_SCHEMA().inputs or ()
    if getattr(control, "options", None)
}
every_language = pytest.mark.parametrize("language", locales.LANGUAGES)


def label_of(language, name):
    """What a control is called there, whichever node has it."""
    return next(text for key, text in TEXTS[language].items() if key.endswith(f"inputs.{name}.name"))


def named_controls(text):
    """The controls that an English text names: in backticks, or by a name with an underscore."""
    names = {key.split(".")[2] for key in ENGLISH if ".inputs." in key}
    return names & {*re.findall(r"`(\w+)`", text), *re.findall(r"\b\w+_\w+\b", text)}


def numbers(text):
    return Counter(re.findall(r"(?<![A-Za-z0-9_.])-?\d+(?:\.\d+)?(?:e-?\d+)?", text))


def sentences(language):
    """Descriptions and tooltips, with the English ones: what is not a name."""
    texts = TEXTS[language]
    shared = ENGLISH.keys() & texts.keys()
    return [(key, ENGLISH[key], texts[key]) for key in sorted(shared) if key.endswith(("description", "tooltip"))]


def test_english_is_the_schema():
    assert TEXTS["en"] == ENGLISH, "run `python dev locales`"


@every_language
def test_each_text_is_translated_and_none_is_out_of_date(language):
    assert locales.findings(language) == [], "run `python dev locales`; when it is translated, with --accept"


@every_language
def test_no_text_is_empty_or_english(language):
    assert all(text == text.strip() != "" for text in TEXTS[language].values())
    assert [key for key, english, text in sentences(language) if english == text] == []


@every_language
def test_numbers_stay(language):
    assert [
        (key, english, text) for key, english, text in sentences(language) if numbers(english) - numbers(text)
    ] == []


@every_language
def test_options_are_named_as_they_are_shown(language):
    """The front end does not translate the values of a choice."""
    lost = [
        (key, option)
        for key, english, text in sentences(language)
        for option in OPTIONS.get(key, ())
        if re.search(rf"\b{re.escape(option)}\b", english, re.IGNORECASE) and option.lower() not in text.lower()
    ]
    assert lost == []


@every_language
def test_controls_are_named_as_they_are_labelled(language):
    lost = [
        (key, name)
        for key, english, text in sentences(language)
        for name in named_controls(english)
        if label_of(language, name) not in text
    ]
    assert lost == []


@pytest.mark.parametrize("language", TEXTS)
def test_no_text_has_what_the_front_end_takes_for_syntax(language):
    """It compiles names and descriptions as messages of vue-i18n, old versions the tooltips too; keys are paths."""
    assert [key for key, text in TEXTS[language].items() if re.search(r"[@{}|%]", text)] == []
    assert [key for key in TEXTS[language] if not re.fullmatch(r"\w+\.(inputs\.\w+\.|outputs\.\d+\.)?\w+", key)] == []


@pytest.mark.parametrize("language", TEXTS)
def test_files_are_laid_out_alike(language):
    text = (locales.LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8")
    assert text == locales.layout(json.loads(text))


def test_a_changed_text_is_out_of_date_until_it_is_accepted(tmp_path, monkeypatch):
    monkeypatch.setattr(locales, "LOCALES", tmp_path)
    monkeypatch.setattr(locales, "SOURCES", tmp_path / "sources.json")
    node = {"description": "Draws.", "inputs": {"w": {"name": "w", "tooltip": "A weight."}}}
    locales.write("en", {"Node": node})
    locales.write("de", {"Node": node | {"description": "Zeichnet.", "help": "Hilfe."}})
    locales.accept(["de"])
    assert locales.findings("de") == ["superfluous: Node.help"]
    assert locales.findings("fr")[0] == "missing: Node.description"

    locales.write("en", {"Node": node | {"description": "Paints."}})
    locales.accept([])
    assert locales.findings("de") == ["out of date: Node.description: Paints.", "superfluous: Node.help"]
    locales.accept(["de"])
    assert locales.findings("de") == ["superfluous: Node.help"]


def test_texts_that_are_one_in_english_are_one_in_a_translation(tmp_path, monkeypatch):
    monkeypatch.setattr(locales, "LOCALES", tmp_path)
    monkeypatch.setattr(locales, "SOURCES", tmp_path / "sources.json")
    locales.write("en", {"A": {"description": "Draws."}, "B": {"description": "Draws."}})
    locales.write("de", {"A": {"description": "Zeichnet."}, "B": {"description": "Malt."}})
    locales.accept(["de"])
    assert locales.findings("de") == ["unlike A.description: B.description"]
