"""`bench quality`: how well five sampling methods forget with the same LoRAs, by the class's names and by attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean

import torch
from PIL import Image
from unguide.demo_model.judges import JudgePair
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide

from dev.bench import Bench, attacks
from dev.bench.demo_session import SIZE, DemoSession, demo_session
from dev.bench.forgetting import MEASURES, PAPER_SEEDS, RIGHT, accuracies_by_method
from dev.bench.report import Pictures, as_floats, grid, table
from dev.bench.sampling_methods import AS_PUBLISHED, paper_weights
from dev.bench.words import drawn_prompts, erased_prompts, grid_prompts, prompts_of, word_in

NUMBER = 8  # pictures per prompt
BASE, PAPER, OURS = "base", "paper", "ours"
FIXED_W = {"lora": 0.0, "half": 0.5}  # for every prompt
LABELS = {BASE: "base model", "lora": "LoRA alone", "half": "w = 0.5 for all", PAPER: "paper: -1 or 2 by its rule",
          OURS: "UnGuidance"}  # fmt: skip
METHODS = tuple(LABELS)
WORKS = 0.5  # an attack works if the base model shows the class in more of its pictures than this
ASIDE = (attacks.PICTURE_ALONE,)  # asks for nothing: not among the figures
PICTURES_OF_KIND = 4  # in the grid
GATE_COLUMNS = {"gate's score": "score", "threshold": "threshold", "steered": "steered",
                "paper's rule steers": "paper_steers"}  # fmt: skip


def measure(bench: Bench) -> dict:
    """`figures`, `classes`, `cost` and `attacks`; writes quality.png and attacks.png."""
    base = bench.base_pictures(drawn_prompts(bench.classes), NUMBER)
    forgotten, attacked = bench.each_class("Forgetting", forget), bench.each_class("Attacking", attack)
    (trust,) = bench.each("Judging", trust_in_judges, [()])
    judges = JudgePair()
    by_class = {name: of_class(name, it, base, judges) for name, it in forgotten.items()}
    by_attack = {name: of_attacks(name, it, judges) for name, it in attacked.items()}
    figures = {f"{m}_{it}": fmean(row[it][m] for row in by_class.values()) for m in MEASURES for it in METHODS}
    methods_grid(forgotten, base).save(bench.output / "quality.png")
    if picture := attack_grid(attacked, by_attack):
        picture.save(bench.output / "attacks.png")
    return {
        "figures": trust | figures | attack_figures(by_attack),
        "classes": by_class,
        "cost": costs(forgotten),
        "attacks": by_attack,
    }


def forget(folder: Path, name: str) -> dict:
    """A worker's task: the class's prompts by every method but the base model; see `by_every_method`."""
    session = demo_session(folder)
    lora = session.train(name).lora
    return by_every_method(
        session, lora, drawn_prompts([name]), session.encode, lambda prompt, model: session.draw(prompt, model, NUMBER)
    )


def attack(folder: Path, name: str) -> dict:
    """A worker's task: every attack on the base model, and those that work on it by every method as well.

    Returns the result of `by_every_method`, and `kinds` (attack -> its kind).
    """
    session, judges = demo_session(folder), JudgePair()
    lora = session.train(name).lora
    by_name = {it.name: it for it in attacks.attacks_on(session, lora, name)}
    base = {key: it.draw(session) for key, it in by_name.items()}
    working = [key for key, drawn in base.items() if judges.share_recognised(as_floats(drawn), name) > WORKS]
    result = by_every_method(
        session, lora, working, lambda key: by_name[key].positive if key in by_name else session.encode(key),
        lambda key, model: by_name[key].draw(session, model),
    )  # fmt: skip
    result["pictures"][BASE] = base
    return {**result, "kinds": {key: it.kind for key, it in by_name.items()}}


def by_every_method(session: DemoSession, lora, cases: list[str], encode: Callable, draw: Callable) -> dict:
    """Each case by every method but the base model.

    `encode(case)` is what the paper's rule probes, `draw(case, MODEL)` draws it. Returns `pictures` (method -> case ->
    uint8 array), `evaluations` (method -> case -> model calls per picture), `probe` (the paper's model calls per case),
    `rule` (case -> w by the paper's rule), and `decisions` (case -> our gate's decision on each picture).
    """
    rule, probe_evaluations = paper_weights(
        session.model, lora, encode, cases, seeds=PAPER_SEEDS, width=SIZE, height=SIZE
    )
    configs: dict[str, Callable[[str], SteeringConfig]] = {
        **{method: lambda _, w=w: SteeringConfig(w=w, **AS_PUBLISHED) for method, w in FIXED_W.items()},
        PAPER: lambda case: SteeringConfig(w=rule[case], **AS_PUBLISHED),
        OURS: lambda _: SteeringConfig(),
    }
    pictures: dict[str, dict] = {method: {} for method in configs}
    evaluations: dict[str, dict] = {method: {} for method in METHODS}
    decisions: dict[str, list] = {}
    for method, config_of in configs.items():
        for case in cases:
            reports: list = []
            pictures[method][case] = draw(case, unguide(session.model, lora, config_of(case), reports.append))
            (report,) = reports
            number = len(report.decisions)
            evaluations[method][case] = report.evaluations / number
            evaluations[BASE][case] = report.plain_evaluations / number
            if method == OURS:
                decisions[case] = [it.decision.report() for it in report.decisions]
    return {"pictures": pictures, "evaluations": evaluations, "decisions": decisions, "rule": rule,
            "probe": probe_evaluations / max(1, len(cases))}  # fmt: skip


def trust_in_judges() -> dict[str, float]:
    """A worker's task: how often the judges are right about the ten classes, in a style new to them."""
    from dev.recipe.judge_report import report  # with the recipe's packages, which tests do not need

    return {"judge_top1": report(JudgePair(), None)[0]["figures"]["judge_heldout_top1"]}


def of_class(name: str, result: dict, base: Pictures, judges: JudgePair) -> dict:
    """Method -> its accuracies and H0; RIGHT among the methods is ours, if it left all other classes alone.

    Also our gate's `false_alarms` (other class -> share of its pictures that are steered, if not 0) and `missed` (word
    -> share of its pictures that are not steered, if not 0).
    """
    pictures = {**result["pictures"], "w_minus_1": result["pictures"][OURS]}
    methods = accuracies_by_method(name, {"pictures": pictures, "erased": {}}, base, judges)
    steered = {prompt: fmean(it["erased"] for it in decisions) for prompt, decisions in result["decisions"].items()}
    others = prompts_of(name)["others"]
    return {
        **{method: methods[method] for method in (*METHODS, RIGHT)},
        "false_alarms": {word_in(prompt): steered[prompt] for prompt in others if steered[prompt]},
        "missed": {word_in(it): 1 - steered[it] for it in erased_prompts(name) if steered[it] < 1},
    }


def not_above(by_class: dict) -> dict[str, list[str]]:
    """Class -> the other methods whose H0 is as high as ours or higher; only classes with any."""
    higher = {
        name: [method for method in METHODS if method != OURS and row[method]["h0"] >= row[OURS]["h0"]]
        for name, row in by_class.items()
    }
    return {name: methods for name, methods in higher.items() if methods}


def of_attacks(name: str, result: dict, judges: JudgePair) -> dict[str, dict]:
    """Attack -> its kind, the share of its pictures in which the base model shows the class, whether it works on that.

    If it does, also `erased` (method -> share of pictures without the class), our gate's mean score and threshold, the
    share of pictures that it steers, and whether the paper's rule steers.
    """

    def share(method: str, key: str) -> float:
        return judges.share_recognised(as_floats(result["pictures"][method][key]), name)

    rows = {}
    for key, kind in result["kinds"].items():
        base_share = share(BASE, key)
        rows[key] = {"kind": kind, "base_share": base_share, "works": base_share > WORKS}
        if rows[key]["works"]:
            decisions = result["decisions"][key]
            rows[key] |= {"erased": {method: 1 - share(method, key) for method in METHODS}}
            rows[key] |= {measure: fmean(it[measure] for it in decisions) for measure in ("score", "threshold")}
            rows[key] |= {"steered": fmean(it["erased"] for it in decisions)}
            rows[key] |= {"paper_steers": float(result["rule"][key] < 1)}
    return rows


def attack_figures(by_attack: dict[str, dict]) -> dict[str, float]:
    """The headline figures, over all kinds but those ASIDE."""
    rows = [row for attacks_of in by_attack.values() for row in attacks_of.values() if row["kind"] not in ASIDE]
    working = [row for row in rows if row["works"]]
    figures = {"attacks": len(rows), "attacks_working": len(working)}
    figures["attack_base_share"] = fmean(row["base_share"] for row in rows)
    return figures | {f"attack_erased_{it}": fmean(row["erased"][it] for row in working) for it in METHODS if working}


def costs(forgotten: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Method -> model calls per picture under prompts that mean the class (`erased`) and others (`unrelated`)."""

    def mean_cost(method: str, prompts: Callable[[str], Iterable[str]]) -> float:
        return fmean(it["evaluations"][method][prompt] for name, it in forgotten.items() for prompt in prompts(name))

    costs = {
        method: {
            "erased": mean_cost(method, erased_prompts),
            "unrelated": mean_cost(method, lambda name: prompts_of(name)["others"]),
        }
        for method in METHODS
    }
    costs[PAPER]["probe"] = fmean(result["probe"] for result in forgotten.values())
    return costs


def methods_grid(forgotten: dict[str, dict], base: Pictures) -> Image.Image:
    """Rows: the classes, see `grid_prompts`. Columns: the methods."""

    def cell(name: str, method: str) -> list[torch.Tensor]:
        if method == BASE:
            return [base[prompt][index] for prompt, index in grid_prompts(name)]
        pictures = forgotten[name]["pictures"][method]
        return [as_floats(pictures[prompt][index]) for prompt, index in grid_prompts(name)]

    return grid(list(forgotten), list(LABELS.values()), [[cell(name, it) for it in METHODS] for name in forgotten])


def attack_grid(attacked: dict[str, dict], by_attack: dict[str, dict]) -> Image.Image | None:
    """Rows: kinds of attack, one working attack each on several classes. Columns: the methods."""
    rows: dict[str, list[tuple[str, str]]] = {}
    for kind in attacks.KINDS:
        working = [
            [(name, key) for key, row in attacks_of.items() if row["kind"] == kind and row["works"]]
            for name, attacks_of in by_attack.items()
        ]
        if cases := [of_name[0] for of_name in working if of_name][:PICTURES_OF_KIND]:
            rows[kind] = cases

    def cell(cases: list[tuple[str, str]], method: str) -> list[torch.Tensor]:
        drawn = [as_floats(attacked[name]["pictures"][method][key][0]) for name, key in cases]
        return drawn + [torch.ones(3, SIZE, SIZE)] * (PICTURES_OF_KIND - len(drawn))

    cells = [[cell(cases, method) for method in METHODS] for cases in rows.values()]
    return grid(list(rows), list(LABELS.values()), cells) if rows else None


def text(result: dict) -> str:
    """The report as Markdown."""
    figures, by_class, cost = result["figures"], result["classes"], result["cost"]
    heads = dict(zip(MEASURES, ("Acc_e", "Acc_s", "Acc_g", "unseen words", "H0"), strict=True))
    methods = [
        {"sampling": label, **{head: figures[f"{measure}_{method}"] for measure, head in heads.items()},
         "model calls per picture: erased": f"{cost[method]['erased']:.1f}",
         "unrelated": f"{cost[method]['unrelated']:.1f}"}
        for method, label in LABELS.items()
    ]  # fmt: skip
    classes = [
        {"class": name, **{label: row[method]["h0"] for method, label in LABELS.items()},
         "UnGuidance less its false alarms": row[RIGHT]["h0"],
         **{key.replace("_", " "): ", ".join(f"{word} {share:.0%}" for word, share in row[key].items())
            for key in ("false_alarms", "missed")}}
        for name, row in by_class.items()
    ]  # fmt: skip
    return "\n\n".join([
        f"Means over {', '.join(by_class)}; {NUMBER} pictures per prompt. The judges are correct on "
        f"{100 * figures['judge_top1']:.1f} % of pictures in a style that they were not trained on (`judge_top1`).",
        table(methods),
        f"The paper's rule takes {cost[PAPER]['probe']:.0f} more model calls per prompt, with {PAPER_SEEDS} seeds; the "
        "paper uses 30.",
        "H0 by class:",
        table(classes),
        "\n".join(comparison(name, others, by_class[name]) for name, others in not_above(by_class).items()),
        f"Attacks, {attacks.NUMBER} pictures each. An attack works if more than half of the base model's pictures show "
        "the class. For each method: the share of pictures without the class, over the attacks that work; for the base "
        "model this is before erasure. A picture that is sampled from another picture without a prompt asks for "
        "nothing, so no gate should steer it.",
        table(attack_rows(result["attacks"], figures)),
    ]) + "\n"  # fmt: skip


def comparison(name: str, methods: list[str], row: dict) -> str:
    """A line on a class in which ours is not above these other methods: the terms of each."""

    def terms(method: str) -> str:
        return f"{row[method]['h0']:.3f} ({' / '.join(f'{row[method][measure]:.3f}' for measure in MEASURES[:3])})"

    others = ", ".join(f"{LABELS[method]} {terms(method)}" for method in methods)
    return f"- {name}: UnGuidance {terms(OURS)} is not above {others} (Acc_e / Acc_s / Acc_g)."


def attack_rows(by_attack: dict[str, dict], figures: dict) -> list[dict]:
    """The table of the attacks by kind, and of all that the figures count."""
    table_rows = []
    for kind in attacks.KINDS:
        rows = [row for attacks_of in by_attack.values() for row in attacks_of.values() if row["kind"] == kind]
        working = [row for row in rows if row["works"]]
        cells: dict = {"attack": kind, "tried": len(rows), "work": len(working)}
        cells |= {"base shows it": fmean(row["base_share"] for row in rows)}
        for method, label in LABELS.items():
            cells[label] = fmean(row["erased"][method] for row in working) if working else None
        for head, key in GATE_COLUMNS.items():
            cells[head] = fmean(row[key] for row in working) if working else None
        table_rows.append(cells)
    total = {"attack": "all but the last", "tried": figures["attacks"], "work": figures["attacks_working"]}
    total |= {"base shows it": figures["attack_base_share"]}
    return [*table_rows, total | {label: figures.get(f"attack_erased_{it}") for it, label in LABELS.items()}]
