"""How well five ways forget, on the same LoRAs: under the class's names, and under attack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dev.bench import attacks
from dev.bench.forgetting import RIGHT, TOUCHED, accuracies, prompts_of
from dev.bench.model import Pictures, mean
from dev.bench.sampling import PAPER_SEEDS, train
from dev.bench.studio import SIZE, draw_base, photo, studio
from dev.bench.ways import AS_PUBLISHED
from dev.judge import Panel

NUMBER = 8  # pictures a prompt
BASE, PAPER, OURS = "base", "paper", "ours"
FIXED = {"lora": 0.0, "half": 0.5}  # one w for every prompt
WAYS = (BASE, *FIXED, PAPER, OURS)
NAMES = {BASE: "base model", "lora": "LoRA alone", "half": "w = 0.5 for all", PAPER: "paper: -1 or 2 by its rule",
         OURS: "UnGuidance"}  # fmt: skip
MEASURES = ("acc_e", "acc_s", "acc_g", "acc_u", "h0")
WORKS = 0.5  # an attack of which the base shows the class in more of its pictures than this
ASIDE = (attacks.UNNAMED,)  # asks for nothing: not among the figures
PICTURES_OF_KIND = 4  # in the grid


def measure(workers, each, folder: Path, words: dict, classes: list[str]) -> dict:
    """Everything: `figures`, `classes`, `cost`, `attacks`, and both grids, `grid` and `attack_grid`."""
    parts = [prompts_of(words, name) for name in classes]
    prompts = list(dict.fromkeys(p for its in parts for part in (*TOUCHED, "others") for p in its[part]))
    drawn = each(workers, "Drawing", draw_base, [(folder, prompt, NUMBER) for prompt in prompts])
    base = {p: torch.from_numpy(them).float() / 255 for p, them in zip(prompts, drawn, strict=True)}
    tasks = [(folder, words, name) for name in classes]
    forgot = dict(zip(classes, each(workers, "Forgetting", forget, tasks), strict=True))
    attacked = dict(zip(classes, each(workers, "Attacking", attack, tasks), strict=True))
    (trust,) = each(workers, "Judging", trust_in_judges, [()])
    panel = Panel()
    by_class = {name: of_class(words, name, it, base, panel) for name, it in forgot.items()}
    under_attack = {name: erased(name, it, panel) for name, it in attacked.items()}
    figures = trust | {f"{m}_{way}": mean(it[way][m] for it in by_class.values()) for m in MEASURES for way in WAYS}
    return {
        "figures": figures | attack_figures(under_attack),
        "classes": by_class,
        "cost": cost(words, forgot),
        "attacks": under_attack,
        "grid": grid(words, forgot, base),
        "attack_grid": attack_grid(attacked, under_attack),
    }


def forget(folder: Path, words: dict, name: str) -> dict:
    """A task for a worker: the class's prompts by every way but the base; see `every_way`."""
    it = studio(folder)
    from unguide.unguide_ops import host

    lora, parts = new_lora(it, name), prompts_of(words, name)
    prompts = [prompt for part in (*TOUCHED, "others") for prompt in parts[part]]
    return every_way(
        it, lora, prompts, lambda prompt: host.encode(it.clip, prompt), lambda p, model: it.draw(p, model, NUMBER)
    )


def attack(folder: Path, words: dict, name: str) -> dict:
    """A task for a worker: every attack on the base, those that work on it by every way as well; `kinds` by name."""
    it = studio(folder)
    from unguide.unguide_ops import host

    lora, panel = new_lora(it, name), Panel()
    its = {found.name: found for found in attacks.attacks_on(it, lora, words, name)}
    base = {key: attacks.draw(it, found) for key, found in its.items()}
    working = [key for key, them in base.items() if panel.share_recognised(them.float() / 255, name) > WORKS]
    result = every_way(
        it,
        lora,
        working,
        lambda key: its[key].positive if key in its else host.encode(it.clip, key),
        lambda key, model: attacks.draw(it, its[key], model),
    )
    result["pictures"][BASE] = {key: them.numpy() for key, them in base.items()}
    return {**result, "kinds": {key: found.kind for key, found in its.items()}}


def new_lora(it, name: str):
    """The class's LoRA, the same each time."""
    with torch.inference_mode():
        return train(it, name)


def every_way(it, lora, cases: list[str], encode: Callable, draw: Callable) -> dict:
    """Each case by every way but the base.

    `encode(case)` is what the paper's rule probes, `draw(case, MODEL)` draws it. Returns `pictures` (way -> case ->
    uint8 array), `evaluations` (way -> case -> a picture's), `probe` (the paper's evaluations a case), `rule` (case ->
    w by the paper's rule), and `decisions` (case -> what our gate found, picture by picture).
    """
    from unguide.unguide_ops import gate
    from unguide.unguide_ops.probe import ProbeSettings, probe
    from unguide.unguide_ops.steering import SteeringSettings
    from unguide.unguide_ops.unguidance import unguide

    with torch.inference_mode():
        asked = ProbeSettings(mode=gate.PAPER, seeds=PAPER_SEEDS, width=SIZE, height=SIZE)
        probed = probe(it.model, lora, encode, cases, asked)
    rule = {reading.prompt: -1.0 if reading.verdict.erased else 2.0 for reading in probed.readings}
    settings: dict[str, Callable] = {
        **{way: lambda _, w=w: SteeringSettings(w=w, **AS_PUBLISHED) for way, w in FIXED.items()},
        PAPER: lambda case: SteeringSettings(w=rule[case], **AS_PUBLISHED),
        OURS: lambda _: SteeringSettings(),
    }
    pictures: dict[str, dict] = {way: {} for way in settings}
    evaluations: dict[str, dict] = {way: {} for way in (BASE, *settings)}
    decisions: dict[str, list] = {}
    for way, of in settings.items():
        for case in cases:
            told: list = []
            pictures[way][case] = draw(case, unguide(it.model, lora, of(case), told.append)).numpy()
            (course,) = told
            evaluations[way][case] = course.evaluations / len(course.decisions)
            evaluations[BASE][case] = course.plain_evaluations / len(course.decisions)
            if way == OURS:
                decisions[case] = [decision.report() for decision in course.decisions]
    return {"pictures": pictures, "evaluations": evaluations, "decisions": decisions, "rule": rule,
            "probe": probed.evaluations / max(1, len(cases))}  # fmt: skip


def trust_in_judges() -> dict[str, float]:
    """A task for a worker: how often the judges are right about the ten classes, in a style new to them."""
    from dev.recipe.judge_report import report

    return {"judge_top1": report(Panel(), None)[0]["figures"]["judge_heldout_top1"]}


def of_class(words: dict, name: str, result: dict, base: Pictures, panel: Panel) -> dict:
    """Way -> accuracies and H0, RIGHT among the ways: ours, had it left all other classes alone.

    Also our gate's `false_alarms` (other class -> share of its pictures that are steered, where there are any) and
    `missed` (word -> share of its pictures that are not).
    """
    pictures = {**result["pictures"], "w_minus_1": result["pictures"][OURS]}
    found: dict = accuracies(words, name, {"pictures": pictures, "erased": {}}, base, panel)
    steered = {prompt: mean(it["erased"] for it in its) for prompt, its in result["decisions"].items()}
    parts = prompts_of(words, name)
    alarms = {p.removeprefix(photo("")): steered[p] for p in parts["others"] if steered[p]}
    missed = {p.removeprefix(photo("")): 1 - steered[p] for part in TOUCHED for p in parts[part] if steered[p] < 1}
    return {**{way: found[way] for way in (*WAYS, RIGHT)}, "false_alarms": alarms, "missed": missed}


def not_above(by_class: dict) -> dict[str, list[str]]:
    """Class -> the other ways whose H0 is as high as ours or higher; only classes with any."""
    found = {
        name: [way for way in WAYS if way != OURS and it[way]["h0"] >= it[OURS]["h0"]] for name, it in by_class.items()
    }
    return {name: ways for name, ways in found.items() if ways}


def erased(name: str, result: dict, panel: Panel) -> dict[str, dict]:
    """Each attack: its kind, in what share of its pictures the base shows the class, whether it works on the base.

    If it does, also `erased` (way -> share of pictures without the class), our gate's mean score and threshold, and the
    share of pictures that it steers, and whether the paper's rule does.
    """

    def seen(way: str, key: str) -> float:
        return panel.share_recognised(torch.from_numpy(result["pictures"][way][key]).float() / 255, name)

    found = {}
    for key, kind in result["kinds"].items():
        share = seen(BASE, key)
        found[key] = {"kind": kind, "base_share": share, "works": share > WORKS}
        if share > WORKS:
            its = result["decisions"][key]
            found[key] |= {"erased": {way: 1 - seen(way, key) for way in WAYS}}
            found[key] |= {measure: mean(it[measure] for it in its) for measure in ("score", "threshold")}
            found[key]["steered"] = mean(it["erased"] for it in its)
            found[key]["paper_steers"] = float(result["rule"][key] < 1)
    return found


def attack_figures(under_attack: dict[str, dict]) -> dict[str, float]:
    """The headline figures, over all kinds but those ASIDE."""
    every = [it for its in under_attack.values() for it in its.values() if it["kind"] not in ASIDE]
    working = [it for it in every if it["works"]]
    figures = {"attacks": len(every), "attacks_working": len(working)}
    figures["attack_base_share"] = mean(it["base_share"] for it in every)
    return figures | {f"attack_erased_{way}": mean(it["erased"][way] for it in working) for way in WAYS if working}


def cost(words: dict, forgot: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Way -> evaluations a picture under prompts that mean the class (`erased`) and others (`unrelated`)."""
    found: dict[str, dict[str, float]] = {}
    for way in WAYS:
        for group, its in (("erased", TOUCHED), ("unrelated", ("others",))):
            costs = [
                result["evaluations"][way][prompt]
                for name, result in forgot.items()
                for part in its
                for prompt in prompts_of(words, name)[part]
            ]
            found.setdefault(way, {})[group] = mean(costs)
    found[PAPER]["probe"] = mean(result["probe"] for result in forgot.values())
    return found


def grid(words: dict, forgot: dict[str, dict], base: Pictures) -> Image.Image:
    """Rows: classes, each its target twice, a synonym, and two other classes. Columns: the ways."""

    def cell(name: str, way: str) -> torch.Tensor:
        others = [other for other in words["classes"] if other != name][:2]
        shown = [(photo(name), 0), (photo(name), 1), (photo(words["classes"][name]["seen"][1]), 0)]
        shown += [(photo(other), 0) for other in others]
        if way == BASE:
            return torch.stack([base[prompt][index] for prompt, index in shown])
        its = forgot[name]["pictures"][way]
        return torch.stack([torch.from_numpy(its[prompt][index]).float() / 255 for prompt, index in shown])

    return table(list(forgot), [[cell(name, way) for way in WAYS] for name in forgot])


def attack_grid(attacked: dict[str, dict], under_attack: dict[str, dict]) -> Image.Image | None:
    """Rows: kinds of attack, a picture each of different classes on whose base it works. Columns: the ways."""
    rows: dict[str, list[tuple[str, str]]] = {}
    for kind in attacks.KINDS:
        per_class = [
            [(name, key) for key, it in its.items() if it["kind"] == kind and it["works"]]
            for name, its in under_attack.items()
        ]
        if shown := [its[0] for its in per_class if its][:PICTURES_OF_KIND]:
            rows[kind] = shown

    def cell(cases: list[tuple[str, str]], way: str) -> torch.Tensor:
        them = [torch.from_numpy(attacked[name]["pictures"][way][key][0]).float() / 255 for name, key in cases]
        blank = [torch.ones(3, SIZE, SIZE)] * (PICTURES_OF_KIND - len(cases))
        return torch.stack([*them, *blank])

    return table(list(rows), [[cell(cases, way) for way in WAYS] for cases in rows.values()]) if rows else None


def table(rows: list[str], cells: list[list[torch.Tensor]]) -> Image.Image:
    """Pictures [N, 3, H, W] in each cell, one column a way."""
    from unguide_ops.figures import comparison_grid

    pictures = torch.stack([torch.stack(row) for row in cells]).movedim(3, -1)
    picture = comparison_grid(rows, [NAMES[way] for way in WAYS], pictures, "")[0]
    return Image.fromarray(np.asarray((picture * 255).round().byte()))


def text(whole: dict) -> str:
    """The report as Markdown."""
    figures, by_class, costs = whole["figures"], whole["classes"], whole["cost"]
    lines = [
        f"Means over {', '.join(by_class)}; {NUMBER} pictures a prompt. The judges are right about "
        f"{figures['judge_top1']:.3f} of pictures in a style that they have never seen (`judge_top1`).", "",
        "| sampling | Acc_e | Acc_s | Acc_g | unseen words | H0 | evaluations a picture: erased | unrelated |",
        "|---" * 8 + "|",
    ]  # fmt: skip
    for way in WAYS:
        cells = [f"{figures[f'{m}_{way}']:.3f}" for m in MEASURES]
        cells += [f"{costs[way][group]:.1f}" for group in ("erased", "unrelated")]
        lines.append(f"| {NAMES[way]} | {' | '.join(cells)} |")
    lines += ["", f"The paper's rule takes {costs[PAPER]['probe']:.0f} evaluations a prompt on top, with {PAPER_SEEDS} "
              "seeds; the paper takes 30.", "", "H0 by class:", "",
              f"| class | {' | '.join(NAMES[way] for way in WAYS)} | UnGuidance less its false alarms | false alarms | "
              "missed |", "|---" * (len(WAYS) + 4) + "|"]  # fmt: skip
    for name, it in by_class.items():
        cells = [f"{it[way]['h0']:.3f}" for way in (*WAYS, RIGHT)]
        cells += [", ".join(f"{word} {share:.0%}" for word, share in it[k].items()) for k in ("false_alarms", "missed")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", *(why(name, ways, by_class[name]) for name, ways in not_above(by_class).items())]
    return "\n".join([*lines, "", *attack_lines(whole["attacks"], figures)]) + "\n"


def why(name: str, ways: list[str], it: dict) -> str:
    """A line on a class in which ours is not above some other ways: the terms of each."""

    def terms(way: str) -> str:
        return f"{it[way]['h0']:.3f} ({' / '.join(f'{it[way][m]:.3f}' for m in MEASURES[:3])})"

    others = ", ".join(f"{NAMES[way]} {terms(way)}" for way in ways)
    return f"- {name}: UnGuidance {terms(OURS)} is not above {others} (Acc_e / Acc_s / Acc_g)."


def attack_lines(under_attack: dict[str, dict], figures: dict) -> list[str]:
    """The attacks by kind, as Markdown."""
    every = [it for its in under_attack.values() for it in its.values()]
    lines = [f"Attacks, {attacks.NUMBER} pictures each. One works if more than half of the base's pictures show the "
             "class. By way: the share of pictures without it, over the attacks that work; the base's is before "
             "erasure. A picture sampled on without words asks for nothing, and no gate should steer it.", "",
             f"| attack | tried | work | base shows it | {' | '.join(NAMES[way] for way in WAYS)} | "
             "gate's score | threshold | steered | paper's rule steers |", "|---" * (len(WAYS) + 8) + "|"]  # fmt: skip
    said = ("score", "threshold", "steered", "paper_steers")
    for kind in attacks.KINDS:
        its = [it for it in every if it["kind"] == kind]
        working = [it for it in its if it["works"]]
        cells = [kind, str(len(its)), str(len(working)), f"{mean(it['base_share'] for it in its):.3f}"]
        if working:
            cells += [f"{mean(it['erased'][way] for it in working):.3f}" for way in WAYS]
            cells += [f"{mean(it[what] for it in working):.3f}" for what in said]
        lines.append(f"| {' | '.join(cells + [''] * (len(WAYS) + 8 - len(cells)))} |")
    cells = ["all but the last", str(figures["attacks"]), str(figures["attacks_working"]),
             f"{figures['attack_base_share']:.3f}"]  # fmt: skip
    cells += [f"{figures[f'attack_erased_{way}']:.3f}" if figures["attacks_working"] else "" for way in WAYS]
    return [*lines, f"| {' | '.join(cells)} | | | | |"]
