"""`bench card`: the erasure card of models, how well each way forgets and what else it changes, on every axis.

It goes on where it was stopped: each cell (see `cells`) is a file in the folder `card` below the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2
from unguide.unguide_ops.files.atomic import write_whole

from dev.bench import Bench, chosen_models
from dev.bench.attacks import ADAPTIVE, PICTURE_ALONE
from dev.bench.card import checkpoint, plan, tables
from dev.bench.card.axes import Card, attack_shares, of_many
from dev.bench.card.cells import TASKS, Cell
from dev.bench.card.ways import LOOK, OURS
from dev.bench.report import figures_table, table
from dev.console import say


def measure(bench: Bench) -> dict:
    """`figures`, and the tables of every axis by model and way; writes card.html and its pictures."""
    if bench.options.checkpoint:
        return checkpoint.measure(bench)
    folder = bench.output / "card"
    models = chosen_models(bench.options)
    seconds = dict(zip(models, bench.each("Timing", plan.seconds_of_a_picture, [(it,) for it in models]), strict=True))
    cells = plan.cells_within(bench.options.budget, bench.options.workers, seconds, models, bench.classes)
    make(bench, folder, cells, plan.minutes(cells, seconds, bench.options.workers))
    results = plan.found(folder, models, bench.classes)  # what earlier runs had time for counts as well
    (trust,) = bench.each("Judging", trust_in_judges, [()])
    result = analyse(results, trust)
    write_page(bench.output, result)
    return result


def analyse(results: dict[Cell, dict], trust: dict[str, float]) -> dict:
    """The figures and tables of all cells; `trust` are figures on the judges themselves."""
    models = list(dict.fromkeys(cell.model for cell in results if cell.part == "prompts"))

    def of(model: str, part: str) -> dict[str, dict]:
        return {cell.concept: it for cell, it in results.items() if (cell.model, cell.part) == (model, part)}

    cards = {model: Card(of(model, "prompts")) for model in models}
    figures, shown = {**trust}, []
    for model, card in cards.items():
        attacked, wordless, many = of(model, "attacks"), of(model, "no words"), of(model, "many")
        figures |= card.figures(model) | further_figures(model, attacked, wordless, many)
        by_number = {int(number): it for number, it in many.items()}
        shown.append({
            "name": model, "title": tables.TITLES[model], "classes": list(card.cells), "training": card.training(),
            "tables": {
                **tables.of_model(card),
                "Statistics for a gate: AUC, misses at 1 % false alarms": tables.of_statistics(of(model, "gate")),
                "Attacks by gradient descent: the class is still seen": tables.of_attacks(attacked.values()),
                "Without words: the class is still seen": tables.of_attacks(wordless.values()),
                "Many concepts at once, by UnGuidance in a row": tables.of_numbers(by_number),
            },
            "pictures": [f"card/{cell.stem}.png" for cell in results if (cell.model, cell.part) == (model, "prompts")],
        })  # fmt: skip
    return {"figures": figures, "headline": tables.headline(cards), "models": shown}


def further_figures(model: str, attacked: dict, wordless: dict, many: dict) -> dict[str, float]:
    """The figures of what there is besides prompts."""
    figures = {}
    if attacked:
        adaptive = attack_shares(row for it in attacked.values() for row in it["rows"])[ADAPTIVE]
        for name, way in (("erased", OURS), ("erased_second_look", LOOK)):
            left = adaptive[way]
            figures[f"{model}_adaptive_attack_{name}"] = 1 - left.mean if left else None
    if wordless:
        rows = [row for it in wordless.values() for row in it["rows"] if row["kind"] == PICTURE_ALONE]
        left = attack_shares(rows)[PICTURE_ALONE][OURS]
        figures[f"{model}_img2img_no_words_erased"] = 1 - left.mean if left else None
    if ten := many.get("10"):
        measured = of_many(ten)
        figures |= {f"{model}_ten_concepts_calls": measured["calls"], f"{model}_ten_concepts_right": measured["right"],
                    f"{model}_ten_concepts_calls_erased": measured["calls, erased"],
                    f"{model}_ten_concepts_calls_unrelated": measured["calls, others"]}  # fmt: skip
    return {name: value for name, value in figures.items() if value is not None}


def trust_in_judges() -> dict[str, float]:
    """A worker's task: how often the judges are right about the ten classes, in a style new to them."""
    from unguide.demo_model.judges import JudgePair

    from dev.recipe.judge_report import report  # with the recipe's packages, which tests do not need

    return {"judge_top1": report(JudgePair(), None)[0]["figures"]["judge_heldout_top1"]}


def make(bench: Bench, folder: Path, cells: Sequence[Cell], minutes: float) -> None:
    """Have all cells made that are not there yet."""
    missing = [cell for cell in cells if plan.read_cell(folder, cell) is None]
    classes = list(dict.fromkeys(cell.concept for cell in cells if cell.part == "prompts"))
    before = len(cells) - len(missing)
    say(f"{len(cells)} cells ({', '.join(classes)}), about {minutes:.0f} min in all; {before} are there from before.")
    bench.each("Cells", make_cell, [(folder, cell) for cell in missing])


def make_cell(folder: Path, cell: Cell) -> None:
    """A worker's task: a cell's result as its file."""
    (folder / cell.model).mkdir(parents=True, exist_ok=True)
    plan.write_cell(folder, cell, TASKS[cell.part](folder, cell))


def about(result: dict) -> str:
    """How far the figures can be trusted, in words."""
    return (
        f"The judges are right on {100 * result['figures']['judge_top1']:.1f} % of pictures in a style that they were "
        "not trained on; each way's error is beside the base model's own."
    )


def write_page(output: Path, result: dict) -> None:
    """Write card.html: all tables, and a sheet of pictures for each class."""
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    page = templates.get_template("page.html.j2").render(
        about=about(result), headline=result["headline"], models=result["models"], notes=tables.NOTES
    )
    write_whole(output / "card.html", page.encode())


def text(result: dict) -> str:
    """The report as Markdown."""
    if "checkpoint" in result:
        return checkpoint.text(result)
    paragraphs = [about(result), table(result["headline"]), tables.NOTES, figures_table(result["figures"], ".3f")]
    for model in result["models"]:
        training = ", ".join(f"{key} {value:.3g}" for key, value in model["training"].items())
        paragraphs += [f"### {model['title']}", f"Classes: {', '.join(model['classes'])}. A LoRA: {training}."]
        for title, rows in model["tables"].items():
            paragraphs += [f"{title}:", table(rows)] if rows else []
    return "\n\n".join(paragraphs) + "\n"
