"""`python dev locales`: write the nodes' English texts from their schemas, and list the translations that do not fit.

`locales/LANGUAGE/nodeDefs.json` has the layout in which ComfyUI's front end reads a pack's texts.
`locales/sources.json` lists, by the hash of an English text, the languages with an accepted translation of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from dev import ROOT
from dev.console import say
from dev.inprocess import load_pack, start_host

LOCALES = ROOT / "locales"
SOURCES = LOCALES / "sources.json"
SOURCE = "en"
LANGUAGES = ("de", "es", "fr", "ja", "ko", "pt-BR", "ru", "zh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `locales`."""
    parser.add_argument("--accept", nargs="+", default=[], choices=LANGUAGES, metavar="LANGUAGE",
                        help="note that these translations are of the English texts as they are now: "
                        + ", ".join(LANGUAGES))  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Write the English texts, accept translations, and list the problems; returns 1 if there are any."""
    start_host(options.host)
    load_pack()
    from unguide.nodes import NODES  # needs the host

    write(SOURCE, english(NODES))
    accept(options.accept)
    problems: dict[str, list[str]] = {}
    for language in LANGUAGES:
        for problem in findings(language):
            problems.setdefault(problem, []).append(language)
    for problem, languages in problems.items():
        say(f"{' '.join(languages)}: {problem}")
    if not problems:
        say("All translations are complete and up to date.")
    return 1 if problems else 0


def english(nodes: Iterable[Any]) -> dict[str, Any]:
    """The texts of node classes that the front end shows without a translation, laid out as its nodeDefs.json."""
    return {node.GET_SCHEMA().node_id: definition(node.GET_NODE_INFO_V1()) for node in nodes}


def definition(info: dict[str, Any]) -> dict[str, Any]:
    """The texts of one node in the host's /object_info. Outputs named as their type are named by the front end."""
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    outputs = enumerate(zip(info["output"], info["output_name"], info["output_tooltips"], strict=True))
    return without_empty(
        display_name=info["display_name"],
        description=info["description"],
        inputs={name: without_empty(name=name, tooltip=spec[1].get("tooltip")) for name, spec in inputs.items()},
        outputs={
            str(index): without_empty(name=name if name != kind else None, tooltip=tooltip)
            for index, (kind, name, tooltip) in outputs
        },
    )


def without_empty(**texts: Any) -> dict[str, Any]:
    """The arguments that are not empty."""
    return {name: text for name, text in texts.items() if text}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Every text by its path, such as `UnGuidance.inputs.w.tooltip`."""
    texts: dict[str, str] = {}
    for name, value in tree.items():
        texts |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return texts


def read(language: str) -> dict[str, str]:
    """A language's texts by their path."""
    file = LOCALES / language / "nodeDefs.json"
    return flat(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def write(language: str, tree: dict[str, Any]) -> None:
    """Write a language's texts as the front end reads them."""
    file = LOCALES / language / "nodeDefs.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(layout(tree), encoding="utf-8", newline="\n")


def layout(tree: dict[str, Any]) -> str:
    """JSON in the layout of all files in locales/."""
    return json.dumps(tree, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def fingerprint(text: str) -> str:
    """A short hash of an English text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def accepted() -> dict[str, list[str]]:
    """The languages with an accepted translation of an English text, by the text's hash."""
    if not SOURCES.is_file():
        return {}
    return {text: languages.split() for text, languages in json.loads(SOURCES.read_text(encoding="utf-8")).items()}


def accept(languages: Iterable[str]) -> None:
    """Note that the texts of these languages translate the English texts as they are now."""
    source, before = read(SOURCE), accepted()
    translated = {
        language: {fingerprint(source[key]) for key in read(language) if key in source} for language in languages
    }
    table = {}
    for text in map(fingerprint, source.values()):
        new = {language for language, texts in translated.items() if text in texts}
        if names := new.union(before.get(text, ())):
            table[text] = " ".join(sorted(names))
    if translated:
        SOURCES.write_text(layout(table), encoding="utf-8", newline="\n")


def findings(language: str) -> list[str]:
    """The problems with a language's texts, a line each.

    A text that several nodes share has one translation: else a changed text could pass for another, accepted one.
    """
    source, translated, languages_of = read(SOURCE), read(language), accepted()
    problems = [f"missing: {key}" for key in source if key not in translated]
    problems += [f"superfluous: {key}" for key in translated if key not in source]
    first: dict[str, str] = {}
    for key in (key for key in source if key in translated):
        if language not in languages_of.get(fingerprint(source[key]), ()):
            problems.append(f"out of date: {key}: {source[key]}")
        if translated[key] != translated[first.setdefault(source[key], key)]:
            problems.append(f"unlike {first[source[key]]}: {key}")
    return sorted(problems)
