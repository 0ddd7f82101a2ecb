"""`bench gate`: how well every score tells the concept's prompts from others, for our LoRAs and the paper's."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from unguide.demo_model.judges import JudgePair
from unguide.unguide_ops import host
from unguide.unguide_ops.concept import concept_from, evenly_picked, everyday_captions
from unguide.unguide_ops.gate.calibrate import CAPTIONS
from unguide.unguide_ops.gate.probe import ProbeConfig, probe
from unguide.unguide_ops.plots import ERASED, UNRELATED

from dev.bench import Bench
from dev.bench.demo_session import SIZE, demo_session
from dev.bench.gate_scores import OURS, PAPER, SCHEDULE, auc, of_texts, scores_along
from dev.bench.report import Pictures, figures_table, sheet, table
from dev.bench.words import other_classes, photo, read_words, word_in

STEPS = (0, 1, 2, 5, 10, 15, 20, 25)
COMBINED_STEP = 5  # of the statistics that are combined
SEEDS, SEED_STEPS = (1, 3, 10, 30), (0, 10)
PROFILES = {"default": "object", "paper": "object, as in the paper"}
ERASED_PARTS = ("target", "seen", "paraphrases", "unseen")
"""The parts of a class's prompts that mean the class."""
OTHER_PARTS = ("compounds", "neighbours", "others", "preserved", "captions")
PAPER_STEP, PAPER_SEEDS = 10, 30
PAPER_EVALUATIONS = PAPER_SEEDS * 2 * (2 * PAPER_STEP + 2)  # per decision: the prompt's and the empty prompt's
RATES = (0.05, 0.01, 0.001, 0.0001)
DRAWN = 8  # pictures that show what a prompt means to the base model


def measure(bench: Bench) -> dict:
    """`figures`, and the tables of AUCs, error rates and disagreements; writes gate.png, gate-doubt.png and
    gate-scores.json.
    """
    results, judges, saved = bench.each_class("Scoring", score_class), JudgePair(), {}
    tested = [it for result in results.values() for it, (_, split) in result["parts"].items() if split == "test"]
    pictures = bench.base_pictures(list(dict.fromkeys(tested)), DRAWN)
    for name, result in results.items():
        drawn = [prompt for prompt in result["parts"] if prompt in pictures]
        result["drawn"] = {prompt: judges.share_recognised(pictures[prompt], name) for prompt in drawn}
        by_profile = {it: {key: result[it][key] for key in ("scores", "texts", "decisions")} for it in PROFILES}
        saved[name] = {"parts": result["parts"], "drawn": result["drawn"], **by_profile}
    (bench.output / "gate-scores.json").write_text(json.dumps(saved), encoding="utf-8")
    chart(results).savefig(bench.output / "gate.png")
    wrong_sheet(results, pictures).save(bench.output / "gate-doubt.png")
    return analyse(results)


def gate_prompts(name: str, preserved: Iterable[str], captions: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Prompt -> its part and its split, of a class; `captions` are those that no gate was calibrated on."""
    entry = read_words()["classes"][name]
    prompts = {it: ("captions", "test") for it in captions} | {it: ("preserved", "test") for it in preserved}
    prompts |= {photo(other): ("others", "test") for other in other_classes(name)}
    for part, key, prompt_of in (("compounds", "compounds", photo), ("neighbours", "neighbours", photo),
                                 ("paraphrases", "attributes", str), ("unseen", "unseen", photo)):  # fmt: skip
        prompts |= {prompt_of(word): (part, split) for split, words in entry[key].items() for word in words}
    return prompts | {photo(name): ("target", "test")} | {photo(word): ("seen", "test") for word in entry["seen"][1:]}


def score_class(folder: Path, name: str) -> dict:
    """A worker's task: trains the class's LoRA under both profiles, and scores every prompt by every statistic.

    Returns `parts` (prompt -> part, split), and by profile `scores` (statistic -> step -> a score for each prompt),
    `seeds` (statistic -> step -> (prompt, seed) -> score), `texts` (statistic -> a score for each prompt), the pack's
    own `decisions` (prompt -> its entry in the probe's report), `thresholds` and `evaluations`.
    """
    session = demo_session(folder)
    model, layers, concept = session.model, host.layer_slices(session.model), concept_from(name, "", "", "", "")
    calibrated_on = evenly_picked(everyday_captions(), CAPTIONS)
    captions = [caption for caption in everyday_captions() if caption not in calibrated_on]
    parts = gate_prompts(name, concept.preserved, captions)
    prompts = list(parts)
    few = [it for it, (part, split) in parts.items() if split == "test" and part not in ("preserved", "captions")]
    loras = {profile: session.train(name, preset).lora for profile, preset in PROFILES.items()}
    result: dict = {"parts": parts}
    with torch.inference_mode():
        for profile, lora in loras.items():
            linears = {it: model.model.diffusion_model.get_submodule(layers[it].path) for it in lora.pairs}
            probed = probe(model, lora, session.encode, prompts, ProbeConfig(width=SIZE, height=SIZE))
            scores = scores_along(model, lora, session.encode, prompts, 1, STEPS)
            by_seed = scores_along(model, lora, session.encode, [*few, ""], max(SEEDS), SEED_STEPS)
            threshold, sigmas = lora.calibration.threshold, [level.sigma for level in lora.calibration.levels]
            result[profile] = {
                "scores": {name: {step: list(by_prompt.values()) for step, by_prompt in by_step.items()}
                           for name, by_step in scores.items()},
                "seeds": {name: by_seed[name] for name in (PAPER, OURS)},
                "texts": of_texts(linears, lora, session.encode, concept, prompts),
                "decisions": {entry["prompt"]: entry for entry in probed.report([0.0] * len(prompts))["prompts"]},
                "thresholds": {rate: fmean(threshold(sigma, rate) for sigma in sigmas) for rate in RATES},
                "evaluations": probed.evaluations / len(prompts),
            }  # fmt: skip
    return result


Results = dict[str, dict]
"""Class -> the result of `score_class`."""


def labels(result: dict, prompts: Iterable[str] | None = None) -> np.ndarray:
    """For each prompt (default: all, in order) whether it means the class."""
    return np.array([result["parts"][it][0] in ERASED_PARTS for it in prompts or result["parts"]])


def entries(result: dict) -> list[dict]:
    """Our decision on each prompt, as it stands in the probe's report."""
    return [result["default"]["decisions"][prompt] for prompt in result["parts"]]


def our_decision(result: dict, prompt: str, profile: str = "default") -> bool:
    """Whether our gate erases the prompt."""
    return result[profile]["decisions"][prompt]["erased"]


def paper_decision(result: dict, prompt: str, profile: str = "default") -> bool:
    """Whether the published rule erases the prompt: by 30 seeds, or by one if it was scored for one only."""
    scores = result[profile]["seeds"][PAPER][PAPER_STEP]
    empty = fmean(scores["", seed] for seed in range(PAPER_SEEDS))
    if (prompt, 0) in scores:
        return fmean(scores[prompt, seed] for seed in range(PAPER_SEEDS)) > empty
    return result[profile]["scores"][PAPER][PAPER_STEP][list(result["parts"]).index(prompt)] > empty


def decision_at(rate: float, result: dict, prompt: str, profile: str) -> bool:
    """Whether our gate with this rate of false positives erases the prompt."""
    return result[profile]["decisions"][prompt]["score"] > result[profile]["thresholds"][rate]


def analyse(results: Results) -> dict:
    """The figures, and the tables of AUCs, error rates and disagreements."""
    tables: dict = {"auc": {}, "seeds": {}, "errors": {}}
    for profile in PROFILES:
        tables["auc"][profile] = auc_by_step(results, profile)
        tables["seeds"][profile] = {
            name: {step: {n: fmean(seed_auc(it, profile, name, step, n) for it in results.values()) for n in SEEDS}
                   for step in SEED_STEPS} for name in (PAPER, OURS)
        }  # fmt: skip
        tables["errors"][profile] = {"paper's rule": rates(results, profile, paper_decision)} | {
            f"calibrated, {rate:g}": rates(results, profile, functools.partial(decision_at, rate)) for rate in RATES
        }
    tables["by_class"] = {name: auc([entry["score"] for entry in entries(it)], labels(it))
                          for name, it in results.items()}  # fmt: skip
    tables["differences"] = differences(results)
    tables["doubts"] = [(name, prompt, results[name]["drawn"][prompt]) for name, prompt in wrong_by_words(results)]
    aucs, wrong = tables["by_class"].values(), rates(results, "default", our_decision)
    figures = {
        "auc_min": min(aucs), "auc_mean": fmean(aucs),
        "false_positive_rate": wrong["false positives"], "false_negative_rate": wrong["false negatives"],
        "evaluations_per_decision": fmean(it["default"]["evaluations"] for it in results.values()),
        "paper_auc_mean": tables["seeds"]["default"][PAPER][PAPER_STEP][PAPER_SEEDS],
        "paper_auc_mean_paper_lora": tables["seeds"]["paper"][PAPER][PAPER_STEP][PAPER_SEEDS],
        "paper_evaluations_per_decision": PAPER_EVALUATIONS,
        "agreement_with_paper": fmean(
            our_decision(it, prompt) == paper_decision(it, prompt)
            for it in results.values() for prompt in it["parts"] if (prompt, 0) in it["default"]["seeds"][PAPER][0]
        ),
        **by_drawing(results),
    }  # fmt: skip
    return {"figures": figures, **tables}


def auc_by_step(results: Results, profile: str) -> dict[str, dict[int, float]]:
    """Statistic -> step -> mean AUC over the classes; scores of texts stand at step 0."""

    def mean_auc(scores_of: Callable[[dict], list[float]]) -> float:
        return fmean(auc(scores_of(it[profile]), labels(it)) for it in results.values())

    first = next(iter(results.values()))[profile]
    return {
        **{name: {step: mean_auc(lambda it, name=name, step=step: it["scores"][name][step]) for step in STEPS}
           for name in first["scores"]},
        **{name: {0: mean_auc(lambda it, name=name: it["texts"][name])} for name in first["texts"]},
        "all combined (logistic regression)": {COMBINED_STEP: fmean(combined_aucs(results, profile))},
    }  # fmt: skip


def combined_aucs(results: Results, profile: str) -> list[float]:
    """Each class's AUC of a logistic regression of several statistics, fitted to the other nine classes."""
    from sklearn.linear_model import LogisticRegression  # of the section `recipe`, which the tests do not install
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = {}
    for name, result in results.items():
        scores = [result[profile]["scores"][it][COMBINED_STEP] for it in (OURS, "change cosine", "guidance cosine")]
        data[name] = (np.array([*scores, *result[profile]["texts"].values()]).T, labels(result))
    aucs = []
    for name, (features, expected) in data.items():
        others = [rows for other, rows in data.items() if other != name] or [(features, expected)]
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        model.fit(*(np.concatenate(column) for column in zip(*others, strict=True)))
        aucs.append(auc(model.decision_function(features), expected))
    return aucs


def seed_auc(result: dict, profile: str, statistic: str, step: int, number: int) -> float:
    """AUC of the mean over the first `number` seeds, on the prompts that were scored for many seeds."""
    scores = result[profile]["seeds"][statistic][step]
    prompts = [it for it in dict.fromkeys(prompt for prompt, _ in scores) if it]
    means = [fmean(scores[prompt, seed] for seed in range(number)) for prompt in prompts]
    return auc(means, labels(result, prompts))


def rates(results: Results, profile: str, decide: Callable[[dict, str, str], bool]) -> dict[str, float]:
    """Over the `test` split, the share of each part's prompts that a gate erases, and both error rates.

    `decide(result, prompt, profile)` is the gate.
    """
    erased: dict[str, list[bool]] = {}
    for result in results.values():
        for prompt, (part, split) in result["parts"].items():
            if split == "test":
                erased.setdefault(part, []).append(bool(decide(result, prompt, profile)))
    wrong = [it for part, decisions in erased.items() if part not in ERASED_PARTS for it in decisions]
    missed = [not it for part, decisions in erased.items() if part in ERASED_PARTS for it in decisions]
    by_part = {part: fmean(decisions) for part, decisions in erased.items()}
    return {**by_part, "false positives": fmean(wrong), "false negatives": fmean(missed)}


def differences(results: Results) -> list[dict]:
    """Every test prompt that our gate and the paper's rule decide differently, and which is right by the words."""
    rows = []
    for name, result in results.items():
        for prompt, (part, split) in result["parts"].items():
            ours = our_decision(result, prompt)
            if split == "test" and ours != paper_decision(result, prompt):
                right = "ours" if ours == (part in ERASED_PARTS) else "paper"
                rows.append({"class": name, "prompt": prompt, "part": part, "ours": ours, "right": right})
    return rows


def by_drawing(results: Results) -> dict[str, float]:
    """AUC and error rates if a prompt means the class when the base draws the class in most of its pictures."""
    aucs, decisions = [], []
    for result in results.values():
        drawn = [(share > 0.5, result["default"]["decisions"][prompt]) for prompt, share in result["drawn"].items()]
        aucs.append(auc([entry["score"] for _, entry in drawn], [label for label, _ in drawn]))
        decisions += [(label, entry["erased"]) for label, entry in drawn]
    return {
        "drawn_auc_min": min(aucs), "drawn_auc_mean": fmean(aucs),
        "drawn_false_positive_rate": fmean(erased for label, erased in decisions if not label),
        "drawn_false_negative_rate": fmean(not erased for label, erased in decisions if label),
    }  # fmt: skip


def wrong_by_words(results: Results) -> list[tuple[str, str]]:
    """(class, prompt) of every tested prompt that our gate decides against the benchmark's words."""
    return [
        (name, prompt)
        for name, it in results.items()
        for prompt in it["drawn"]
        if our_decision(it, prompt) != (it["parts"][prompt][0] in ERASED_PARTS)
    ]


def wrong_sheet(results: Results, pictures: Pictures) -> Image.Image:
    """What the base model draws under the prompts that our gate decides against the benchmark's words."""

    def label(name: str, prompt: str) -> str:
        decision = results[name]["default"]["decisions"][prompt]
        return f"{'' if decision['erased'] else 'not '}{name}, {decision['score']:.0%}: {word_in(prompt)}"

    return sheet([(label(name, prompt), pictures[prompt]) for name, prompt in wrong_by_words(results)])


def chart(results: Results) -> Figure:
    """ROC curves of our decision's score and the paper's score, and our scores of every part."""
    from sklearn.metrics import roc_curve

    figure = Figure(figsize=(11, 4.6), dpi=100, layout="constrained")
    axes, rate_grid = figure.subplots(1, 2), np.linspace(0, 1, 201)
    for label, scores_of in (
        ("response, calibrated (ours)", lambda result: [entry["score"] for entry in entries(result)]),
        ("L2, one seed (paper), our LoRA", lambda result: result["default"]["scores"][PAPER][PAPER_STEP]),
        ("L2, one seed (paper), paper's LoRA", lambda result: result["paper"]["scores"][PAPER][PAPER_STEP]),
    ):
        curves = (roc_curve(labels(result), scores_of(result))[:2] for result in results.values())
        axes[0].plot(rate_grid, np.mean([np.interp(rate_grid, *curve) for curve in curves], 0), label=label)
    axes[0].set(xlabel="false positives", ylabel="found")
    axes[0].legend(loc="lower right", frameon=False)
    parts = [*ERASED_PARTS, *OTHER_PARTS][::-1]
    for row, part in enumerate(parts):
        scores = [100 * entry["score"] for result in results.values() for entry in entries(result)
                  if result["parts"][entry["prompt"]][0] == part]  # fmt: skip
        colour = ERASED if part in ERASED_PARTS else UNRELATED
        axes[1].scatter(scores, [row] * len(scores), marker="|", s=110, alpha=0.5, color=colour)
    threshold = fmean(entry["threshold"] for result in results.values() for entry in entries(result))
    axes[1].axvline(100 * threshold, color="#333333", linestyle="--")
    axes[1].set_yticks(range(len(parts)), parts)
    axes[1].set_xlabel("change by the LoRA, % of the target's")
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def text(result: dict) -> str:
    """The report as Markdown."""
    paragraphs = [figures_table(result["figures"])]
    for profile, by_statistic in result["auc"].items():
        rows = [{"statistic": name, **{str(step): by_step.get(step) for step in STEPS}}
                for name, by_step in by_statistic.items()]  # fmt: skip
        paragraphs += [f"AUC by step of {SCHEDULE}, one seed, LoRA of the profile `{profile}`:", table(rows)]
    rows = [
        {"LoRA": profile, "statistic": name, "step": step, **{str(n): value for n, value in by_number.items()}}
        for profile, by_statistic in result["seeds"].items()
        for name, by_step in by_statistic.items()
        for step, by_number in by_step.items()
    ]
    paragraphs += ["AUC by number of seeds, test words and other classes only:", table(rows)]
    rows = [{"LoRA": profile, "gate": gate, **by_part}
            for profile, by_gate in result["errors"].items() for gate, by_part in by_gate.items()]  # fmt: skip
    paragraphs += ["Share of test prompts taken for the concept:", table(rows)]
    by_class = ", ".join(f"{name} {value:.3f}" for name, value in result["by_class"].items())
    right = [it["right"] for it in result["differences"]]
    missed = "; ".join(f"{it['class']}: {it['prompt']}" for it in result["differences"] if it["right"] == "paper")
    doubts = "; ".join(f"{name}: {prompt} {share:.2f}" for name, prompt, share in result["doubts"])
    paragraphs += [
        f"AUC of the decision's score by class: {by_class}",
        f"Ours and the paper's rule differ on {len(right)} prompts; ours is right on {right.count('ours')}: {missed} "
        "are the ones where the paper's rule is right.",
        f"Decided against the words, and the share of the base's pictures that show the class: {doubts}",
    ]
    return "\n\n".join(paragraphs) + "\n"
