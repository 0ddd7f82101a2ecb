"""`bench reliability` runs the tests of what can go wrong, the slow ones as well, and counts what they tried."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from dev import ROOT, browser
from dev.bench import Bench, save
from dev.bench.from_tests import recorded

PAGE = ROOT / "docs" / "benchmark.md"
BEGIN, END = "<!-- reliability -->\n", "<!-- end of reliability -->\n"
CASES = {"faults": ("fault_cases", "fault_failures"), "untrusted_files": ("hostile_files", "hostile_failures"),
         "fuzz": ("fuzz_runs", "fuzz_crashes")}  # fmt: skip
"""What is made of the figures `cases` and `passed` of a part: a case that has not passed has failed or crashed."""
LARGEST = {"memory_growth_ratio", "tensor_growth_ratio", "peak_mib_hostile", "slowest_hostile_seconds"}
"""Figures of which the largest counts; others are added up."""
ROWS = {
    "fault x phase (interrupt, error, out of memory, end of the program, full disk, folder that cannot be written, "
    "SIGKILL; training, probing, calibrating, sampling, importing, loading, saving)": ("fault_cases", "fault_failures"),
    "hostile files and names (slowest {slowest_hostile_seconds:.1f} s, largest peak {peak_mib_hostile:.0f} MiB)": (
        "hostile_files", "hostile_failures"),
    "LoRAs of every kind that cannot act x gate x w x branch: pictures that come unsteered without an error": (
        "unfit_cases", "silent_unsteered"),
    "script in prompts, lists, presets, names and files, on both canvases of two front ends and in a sweep's report: "
    "how often it ran": ("injections_tried", "injections_run"),
    "fuzzing, {fuzz_minutes:.0f} minutes: changed LoRAs, imported LoRAs, concepts and prompt lists; runs that found "
    "something": ("fuzz_inputs", "fuzz_crashes"),
    "queued prompts of all kinds, two clients, {cancelled_prompts:.0f} of them cancelled, waiting or running; drifted "
    "results": ("queued_prompts", "drifted_outputs"),
}  # fmt: skip


def measure(bench: Bench) -> dict:
    """The `figures` of all parts: those that ran now, and those of earlier runs. Writes them as each part ends."""
    browser.get()
    path = bench.output / "reliability.json"
    figures = json.loads(path.read_text(encoding="utf-8"))["figures"] if path.is_file() else {}
    for part in bench.options.only:
        figures |= combined(part, recorded(bench, [f"tests/test_{part}.py"])[part])
        save("reliability", bench, {"figures": figures}, text)
    if {name for names in ROWS.values() for name in names} <= figures.keys():
        write_page(PAGE, figures)
    return {"figures": figures}


def combined(part: str, rows: Iterable[dict[str, float]]) -> dict[str, float]:
    """The figures of a part's tests as one of each name."""
    figures: dict[str, float] = defaultdict(int)
    for row in rows:
        for name, value in row.items():
            figures[name] = max(figures[name], value) if name in LARGEST else figures[name] + value
    if part in CASES:
        cases, failures = CASES[part]
        figures[cases] = figures.pop("cases")
        figures[failures] = figures[cases] - figures.pop("passed", 0)
    return dict(figures)


def text(result: dict) -> str:
    """The report as Markdown."""
    lines = ["| figure | value |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {value:g} |" for name, value in result["figures"].items())]) + "\n"


def write_page(page: Path, figures: dict[str, float]) -> None:
    """Puts the table into a page, between its marks."""
    lines = ["| | tried | not as promised |", "|---|---|---|"]
    lines += [f"| {words.format(**figures)} | {figures[tried]:,.0f} | {figures[wrong]:.0f} |"
              for words, (tried, wrong) in ROWS.items()]  # fmt: skip
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n\n{END}{rest.split(END)[1]}", encoding="utf-8")
