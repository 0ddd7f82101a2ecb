"""The benchmark that runs the tests of what can go wrong."""

import argparse

from dev.bench import Bench, reliability


def test_it_adds_figures_up_and_keeps_those_of_other_parts(tmp_path, monkeypatch):
    rows = {
        "faults": [{"cases": 1}, {"passed": 1}, {"cases": 1}],
        "load": [
            {"queued_prompts": number, "memory_growth_ratio": ratio} for number, ratio in ((20, 1.01), (200, 1.0))
        ],
    }
    monkeypatch.setattr(reliability, "recorded", lambda bench, tests: {part: rows[part]})
    monkeypatch.setattr(reliability.browser, "get", lambda: None)
    for part in rows:
        bench = Bench(argparse.Namespace(output=tmp_path, only=[part]), [], None)
        figures = reliability.measure(bench)["figures"]
    assert figures == {"fault_cases": 2, "fault_failures": 1, "queued_prompts": 220, "memory_growth_ratio": 1.01}
    assert "| `fault_failures` | 1 |" in (tmp_path / "reliability.md").read_text(encoding="utf-8")


def test_the_page_has_a_row_for_each_part(tmp_path):
    names = {name for pair in reliability.ROWS.values() for name in pair} | reliability.LARGEST
    page = tmp_path / "page.md"
    page.write_text(f"before\n{reliability.BEGIN}- old -\n{reliability.END}after\n", encoding="utf-8")
    reliability.write_page(page, dict.fromkeys([*names, "fuzz_minutes", "cancelled_prompts"], 1234.0))
    words = page.read_text(encoding="utf-8")
    assert words.startswith("before") and words.endswith("after\n") and "- old -" not in words
    assert words.count("| 1,234 | 1234 |") == len(reliability.ROWS)
