"""UnGuidance with everything else: how many combinations are right, which are refused, what they cost."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from pathlib import Path

import torch

from dev.bench import sampling
from dev.bench.studio import studio
from dev.composition.verdicts import REFUSED, RIGHT, WRONG

COST_STEPS = 20
WORKS_DEARER = "works, at the cost of whole questions"
BEGIN, END = "<!-- the matrix -->\n", "<!-- end of the matrix -->\n"


def measure(workers, each, folder: Path, output: Path) -> dict:
    """`figures`, `outcomes`, and `parts`: what each is, and what it costs."""
    path = output / "composition.safetensors"
    (names,) = each(workers, "Learning", prepare, [(folder, path)])
    found = each(workers, "Combining", try_part, [(folder, path, name) for name in names])
    path.unlink()
    outcomes = [outcome for it in found for outcome in it["outcomes"]]
    counted = Counter(it["verdict"] for it in outcomes if not it["untried"])
    figures = {
        "combinations": sum(counted.values()),
        "right": counted[RIGHT],
        "refused_with_words": counted[REFUSED],
        "wrong": counted[WRONG],
        "another_picture": sum(bool(it["another_picture"]) for it in outcomes),
        "untried": sum(it["untried"] for it in outcomes),
    }
    for what in ("unrelated", "erased"):
        costs = [it["costs"][what] for it in found if it.get("costs", {}).get("plain") == 2 * COST_STEPS]
        figures |= {f"of_40_evaluations_{what}_least": min(costs), f"of_40_evaluations_{what}_most": max(costs)}
    return {"figures": figures, "parts": [{k: v for k, v in it.items() if k != "outcomes"} for it in found],
            "outcomes": outcomes}  # fmt: skip


def prepare(folder: Path, path: Path) -> list[str]:
    """A task for a worker: a LoRA that forgets the cat, in a file; the names of all parts."""
    it = studio(folder)
    from unguide.unguide_ops.files import save_lora

    with torch.inference_mode():
        save_lora(path, sampling.train(it, "cat"))
    return list(_parts())


def try_part(folder: Path, path: Path, name: str) -> dict:
    """A task for a worker: all combinations of one part, and what it costs by the gate."""
    studio(folder)
    part, stage = _parts()[name], _stage(folder, path)
    from dev.composition import host_nodes, matrix

    found: dict = {"name": name, "group": part.group, "refusal": part.expected.refusal, "outcomes": []}
    untried = part.group == host_nodes.UNTRIED
    with torch.inference_mode():
        try:
            outcomes = matrix.try_part(stage, part)
        except Exception as error:  # noqa: BLE001 - a newer host's node may fit nothing here
            if not untried:
                raise
            return found | {"does_not_apply": f"{type(error).__name__}: {error}"}
        found["outcomes"] = [dataclasses.asdict(it) | {"untried": untried} for it in outcomes]
        found["costs_more"] = matrix.costs_more(stage, part)
        if part.is_a_patch and part.in_haste and not part.expected.refusal:
            found["costs"] = _costs(stage, part)
    return found


def _costs(stage, part) -> dict[str, int]:
    """Evaluations for one picture by the gate, unrelated and erased, at 20 steps; plain sampling without it."""
    from unguide.unguide_ops import host
    from unguide.unguide_ops.steering import SteeringSettings
    from unguide.unguide_ops.unguidance import unguide

    from dev.composition import matrix
    from dev.composition.stage import CAT, DOG

    def cost(prompt: str, ours) -> int:
        counter = host.EvaluationCounter()
        matrix.draw(stage, part, (prompt,), lambda model: counter.watch(ours(model)), COST_STEPS)
        return counter.count

    def guided(model):
        return unguide(model, stage.lora, SteeringSettings())

    return {"plain": cost(DOG, lambda model: model), "unrelated": cost(DOG, guided), "erased": cost(CAT, guided)}


_kept: dict = {}  # of this worker


def _stage(folder: Path, path: Path):
    from unguide.demo_model import load_demo_model
    from unguide.unguide_ops.files import load_lora

    from dev.composition.stage import Stage

    if "stage" not in _kept:
        with torch.inference_mode():
            _kept["stage"] = Stage(lambda: load_demo_model(folder), load_lora(path))
    return _kept["stage"]


def _parts() -> dict:
    if "parts" not in _kept:
        logging.disable(logging.WARNING)  # of the host's nodes
        from dev.composition import every

        _kept["parts"] = {it.name: it for it in every.parts()}
    return _kept["parts"]


def text(whole: dict) -> str:
    """The report as Markdown."""
    lines = [
        "| figure | value |",
        "|---|---|",
        *(f"| `{name}` | {value} |" for name, value in whole["figures"].items()),
    ]
    wrong = [it for it in whole["outcomes"] if it["verdict"] == WRONG]
    lines += ["", *(f"- {it['part']}, {it['way']}, {' | '.join(it['prompts'])}: {it['words']}" for it in wrong)]
    return "\n".join(lines) + "\n\n" + table(whole)


def table(whole: dict) -> str:
    """What it works with, as a table in Markdown: a row for each group of parts that fare alike."""
    rows: dict[tuple[str, str], list[str]] = {}
    for part in whole["parts"]:
        its = [it for it in whole["outcomes"] if it["part"] == part["name"]]
        rows.setdefault((part["group"], _fare(part, its)), []).append(f"{part['name']}")
    lines = ["| | with | what comes of it |", "|---|---|---|"]
    lines += [f"| {group} | {'; '.join(names)} | {fare} |" for (group, fare), names in rows.items()]
    return "\n".join(lines) + "\n"


def _fare(part: dict, outcomes: list[dict]) -> str:
    """In words."""
    verdicts = {it["verdict"] for it in outcomes}
    if "does_not_apply" in part or not outcomes:
        return "does not apply"
    if WRONG in verdicts:
        return "wrong"
    refused = {it["way"] for it in outcomes if it["verdict"] == REFUSED}
    another = next((it["another_picture"] for it in outcomes if it["another_picture"]), "")
    said = " or ".join(f'"{it}"' for it in part["refusal"].split("|"))
    if verdicts == {REFUSED}:
        return f"refused: {said}"
    works = WORKS_DEARER if part["costs_more"] else "works"
    works = works if not another else f"{works}; an unrelated picture may be another: {another}"
    return works if not refused else f"with a fixed w it works; the gate is in doubt: {said}"


def write_page(page: Path, whole: dict) -> None:
    """Put the table into a page, between its marks."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{table(whole)}\n{END}{after}", encoding="utf-8")
