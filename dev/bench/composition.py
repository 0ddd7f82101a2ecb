"""`bench composition` runs tests/test_matrix.py: how many combinations with other packs are right, refused or wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dev import ROOT
from dev.bench import Bench
from dev.bench.from_tests import recorded

TESTS = [f"tests/test_matrix.py::{test}" for test in ("test_combination", "test_effect_and_cost")]
RIGHT, REFUSED, WRONG = "right", "refused with words", "wrong"
DOES_NOT_APPLY = "does not apply"  # nodes of a newer ComfyUI that raise without UnGuidance, too
PLAIN = 40  # evaluations of plain sampling in 20 steps
WORKS_DEARER = "works, with more model calls"
PAGE = ROOT / "docs" / "sampling.md"
BEGIN, END = "<!-- the matrix -->\n", "<!-- end of the matrix -->\n"


def measure(bench: Bench) -> dict:
    """`figures`, `outcomes` of all combinations, `parts` and what they cost; writes the table of docs/sampling.md."""
    tested = recorded(bench, TESTS)
    parts = sorted(tested["part"], key=lambda part: part.pop("number"))
    order = [part["part"] for part in parts]
    outcomes = sorted(tested["combination"], key=lambda it: (order.index(it["part"]), it["way"], it["prompts"]))
    counts = Counter(outcome["verdict"] for outcome in outcomes if not outcome["untried"])
    figures = {
        "combinations": sum(counts.values()),
        "right": counts[RIGHT],
        "refused_with_words": counts[REFUSED],
        "wrong": counts[WRONG],
        "another_picture": sum(bool(outcome["another_picture"]) for outcome in outcomes),
        "untried": sum(outcome["untried"] and outcome["verdict"] != DOES_NOT_APPLY for outcome in outcomes),
    }
    costs = [part["costs"] for part in parts if part.get("costs", {}).get("plain") == PLAIN]
    for picture in ("unrelated", "erased"):
        figures[f"of_40_evaluations_{picture}_least"] = min(cost[picture] for cost in costs)
        figures[f"of_40_evaluations_{picture}_most"] = max(cost[picture] for cost in costs)
    parts = [{"name": part.pop("part"), **part} for part in parts]
    result = {"figures": figures, "parts": parts, "outcomes": outcomes}
    write_page(PAGE, result)
    return result


def text(result: dict) -> str:
    """The report as Markdown."""
    lines = ["| figure | value |", "|---|---|"]
    lines += [f"| `{name}` | {value} |" for name, value in result["figures"].items()]
    wrong = [outcome for outcome in result["outcomes"] if outcome["verdict"] == WRONG]
    lines += ["", *(f"- {it['part']}, {it['way']}, {' | '.join(it['prompts'])}: {it['words']}" for it in wrong)]
    return "\n".join(lines) + "\n\n" + table(result)


def table(result: dict) -> str:
    """What UnGuidance works with, as a table in Markdown: a row for each group of parts with the same result."""
    rows: dict[tuple[str, str], list[str]] = {}
    for part in result["parts"]:
        outcomes = [outcome for outcome in result["outcomes"] if outcome["part"] == part["name"]]
        rows.setdefault((part["group"], summary(part, outcomes)), []).append(part["name"])
    lines = ["| | with | result |", "|---|---|---|"]
    lines += [f"| {group} | {'; '.join(names)} | {words} |" for (group, words), names in rows.items()]
    return "\n".join(lines) + "\n"


def summary(part: dict, outcomes: list[dict]) -> str:
    """What came of all combinations of a part, in words."""
    verdicts = {outcome["verdict"] for outcome in outcomes}
    if DOES_NOT_APPLY in verdicts or WRONG in verdicts:
        return DOES_NOT_APPLY if DOES_NOT_APPLY in verdicts else WRONG
    quotes = " or ".join(f'"{words}"' for words in part["refusal"].split("|"))
    if verdicts == {REFUSED}:
        return f"refused: {quotes}"
    if REFUSED in verdicts:
        return f"with a fixed w it works; the gate is in doubt: {quotes}"
    works = WORKS_DEARER if part["costs_more"] else "works"
    reason = next((outcome["another_picture"] for outcome in outcomes if outcome["another_picture"]), "")
    return f"{works}; an unrelated picture may be another: {reason}" if reason else works


def write_page(page: Path, result: dict) -> None:
    """Puts the table into a page, between its marks."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table(result)}\n{END}{rest.split(END)[1]}", encoding="utf-8")
