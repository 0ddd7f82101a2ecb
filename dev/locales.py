"""`python dev locales`: the English texts from the nodes' schema, and which translations no longer are of these.

`locales/LANGUAGE/nodeDefs.json` has the layout in which ComfyUI's front end reads a pack's texts.
`locales/sources.json` says, by hash, of which English texts a language has a translation that was read and accepted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from dev.environment import ROOT
from dev.inprocess import load_pack, start_host
from dev.stages import say

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
    """Write the English texts, accept, and list what is wrong; 1 if anything is."""
    start_host(options.host)
    load_pack()
    from unguide.nodes import NODES

    write(SOURCE, english(NODES))
    accept(options.accept)
    found: dict[str, list[str]] = {}
    for language in LANGUAGES:
        for line in findings(language):
            found.setdefault(line, []).append(language)
    for line, languages in found.items():
        say(f"{' '.join(languages)}: {line}")
    if not found:
        say("All translations are complete and up to date.")
    return 1 if found else 0


def english(nodes: Iterable[Any]) -> dict[str, Any]:
    """What the front end shows of node classes without a translation, in the layout of its nodeDefs.json."""
    return {node.GET_SCHEMA().node_id: definition(node.GET_NODE_INFO_V1()) for node in nodes}


def definition(info: dict[str, Any]) -> dict[str, Any]:
    """The texts of one node in the host's /object_info. Outputs named as their type are named by the front end."""
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    outputs = zip(info["output"], info["output_name"], info["output_tooltips"], strict=True)
    texts = {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {name: filled(name=name, tooltip=spec[1].get("tooltip")) for name, spec in inputs.items()},
        "outputs": {
            str(index): filled(name=name if name != kind else None, tooltip=tooltip)
            for index, (kind, name, tooltip) in enumerate(outputs)
        },
    }
    return filled(**texts)


def filled(**texts: Any) -> dict[str, Any]:
    """Without what is empty."""
    return {name: text for name, text in texts.items() if text}


def flat(tree: dict[str, Any], above: str = "") -> dict[str, str]:
    """Every text by its path, such as `UnGuidance.inputs.w.tooltip`."""
    texts: dict[str, str] = {}
    for name, below in tree.items():
        texts |= flat(below, f"{above}{name}.") if isinstance(below, dict) else {above + name: below}
    return texts


def read(language: str) -> dict[str, str]:
    """A language's texts by their path."""
    file = LOCALES / language / "nodeDefs.json"
    return flat(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def write(language: str, tree: dict[str, Any]) -> None:
    """A language's texts as the front end reads them."""
    file = LOCALES / language / "nodeDefs.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(layout(tree), encoding="utf-8", newline="\n")


def layout(tree: dict[str, Any]) -> str:
    """JSON as all files in locales/ are written."""
    return json.dumps(tree, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def fingerprint(text: str) -> str:
    """A short hash of an English text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def accepted() -> dict[str, list[str]]:
    """The languages that have a translation of an English text, by the text's hash."""
    if not SOURCES.is_file():
        return {}
    return {text: languages.split() for text, languages in json.loads(SOURCES.read_text(encoding="utf-8")).items()}


def accept(new: Iterable[str]) -> None:
    """Note that what these languages have is a translation of the English texts as they are now."""
    source, before = read(SOURCE), accepted()
    have = {language: {fingerprint(source[key]) for key in read(language) if key in source} for language in new}
    table = {}
    for text in map(fingerprint, source.values()):
        languages = {*before.get(text, ()), *(language for language, texts in have.items() if text in texts)}
        if languages:
            table[text] = " ".join(sorted(languages))
    if have:
        SOURCES.write_text(layout(table), encoding="utf-8", newline="\n")


def findings(language: str) -> list[str]:
    """What is wrong with a language's texts, a line each.

    A text that several nodes share has one translation: else a changed text could pass for another, accepted one.
    """
    source, translated, known = read(SOURCE), read(language), accepted()
    lines = [f"missing: {key}" for key in source if key not in translated]
    lines += [f"superfluous: {key}" for key in translated if key not in source]
    first: dict[str, str] = {}
    for key in (key for key in source if key in translated):
        if language not in known.get(fingerprint(source[key]), ()):
            lines.append(f"out of date: {key}: {source[key]}")
        if translated[key] != translated[first.setdefault(source[key], key)]:
            lines.append(f"unlike {first[source[key]]}: {key}")
    return sorted(lines)
