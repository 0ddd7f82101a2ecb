"""How well a gate can tell: every statistic, by step and by number of seeds, on our LoRAs and the paper's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dev.bench.model import Pictures, mean
from dev.bench.statistics import OURS, PAPER, of_predictions, of_texts
from dev.bench.studio import CFG, SIZE, photo, studio
from dev.judge import Panel

STEPS, SCHEDULE = (0, 1, 2, 5, 10, 15, 20, 25), 50
SEEDS, SEED_STEPS = (1, 3, 10, 30), (0, 10)
PROFILES = {"default": "object", "paper": "object, as in the paper"}
MEANT = ("target", "seen", "paraphrases", "unseen")  # parts of a class's prompts that mean it
PAPER_STEP, PAPER_SEEDS = 10, 30
PAPER_EVALUATIONS = PAPER_SEEDS * 2 * (2 * PAPER_STEP + 2)  # of a decision: the prompt's and the empty prompt's
RATES = (0.05, 0.01, 0.001, 0.0001)
DRAWN = 8  # pictures by which the base says itself what a prompt means


def prompts_of(words: dict, name: str, kept: list[str], captions: list[str]) -> dict[str, tuple[str, str]]:
    """Prompt -> its part and its split, of a class: `kept` are the concept's, `captions` none calibrated on."""
    entry = words["classes"][name]
    found = {p: ("captions", "test") for p in captions} | {p: ("preserved", "test") for p in kept}
    found |= {photo(other): ("others", "test") for other in words["classes"] if other != name}
    for part, key, of in (("compounds", "compounds", photo), ("neighbours", "neighbours", photo),
                          ("paraphrases", "attributes", str), ("unseen", "unseen", photo)):  # fmt: skip
        found |= {of(word): (part, split) for split, them in entry[key].items() for word in them}
    return found | {photo(name): ("target", "test")} | {photo(word): ("seen", "test") for word in entry["seen"][1:]}


def look(folder: Path, words: dict, name: str) -> dict:
    """A task for a worker: train the class's LoRA under both profiles, and score every prompt every way.

    Returns `parts` (prompt -> part, split), and by profile `scores` (statistic -> step -> a score for each prompt),
    `seeds` (statistic -> step -> (prompt, seed) -> score), `texts` (statistic -> scores), and the pack's own
    `decisions` (prompt -> probe report).
    """
    it = studio(folder)
    from unguide.unguide_ops import host, settings
    from unguide.unguide_ops.calibrate import CAPTIONS, calibrate
    from unguide.unguide_ops.concept import EncodedConcept, concept_from, neutral_captions, spread
    from unguide.unguide_ops.probe import ProbeSettings, probe
    from unguide.unguide_ops.training import train

    def encode(prompt: str):
        return host.encode(it.clip, prompt)

    with torch.inference_mode():
        concept = concept_from(name, "", "", "", "")
        encoded = EncodedConcept.of(concept, encode)
        calibrated_on = spread(neutral_captions(), CAPTIONS)
        captions = [caption for caption in neutral_captions() if caption not in calibrated_on]
        parts = prompts_of(words, name, list(concept.kept), captions)
        loras = {}
        for profile, preset in PROFILES.items():
            trained = train(it.model, encoded, settings.preset(preset, width=SIZE, height=SIZE))
            loras[profile] = calibrate(it.model, trained.lora, encoded, SIZE, SIZE)[0]
        prompts = list(parts)
        few = [p for p, (part, split) in parts.items() if split == "test" and part not in ("preserved", "captions")]
        places = host.places(it.model)
        found: dict = {"parts": parts}
        for profile, lora in loras.items():
            linears = {n: it.model.model.diffusion_model.get_submodule(places[n].path) for n in lora.pairs}
            texts = of_texts(
                linears, lora, encode, concept.target, list(concept.erased[1:]), list(concept.kept), prompts
            )
            probed = probe(it.model, lora, encode, prompts, ProbeSettings(width=SIZE, height=SIZE))
            scores = scores_along(it, lora, encode, prompts, 1, STEPS)
            by_seed = scores_along(it, lora, encode, [*few, ""], max(SEEDS), SEED_STEPS)
            found[profile] = {
                "scores": {s: {step: list(them.values()) for step, them in its.items()} for s, its in scores.items()},
                "seeds": {s: by_seed[s] for s in (PAPER, OURS)},
                "texts": {statistic: them.tolist() for statistic, them in texts.items()},
                "decisions": {entry["prompt"]: entry for entry in probed.report([0.0] * len(prompts))["prompts"]},
                "thresholds": {rate: mean(lora.calibration.threshold(level.sigma, rate) for level in
                                          lora.calibration.levels) for rate in RATES},
                "evaluations": probed.evaluations / len(prompts),
            }  # fmt: skip
        return found


def scores_along(it, lora, encode, prompts: list[str], seeds: int, steps: tuple[int, ...]) -> dict:
    """Statistic -> step -> (prompt, seed) -> score, along the base's own trajectories."""
    from unguide.unguide_ops.concept import NEUTRAL
    from unguide.unguide_ops.probe import TARGET, Walk, measure

    statistics: list[str] = []

    def look(live, branch, x, sigma, asked, base):
        """A Look: every statistic, [B, statistics]."""
        levels = x.new_full((len(x),), sigma)
        others = [TARGET] * len(x), [NEUTRAL] * len(x)
        unchanged = [base, *(live.row_predictions(x, levels, them) for them in others)]
        with branch.on():
            changed = [live.row_predictions(x, levels, them) for them in (asked, *others)]
        found = of_predictions(*unchanged, *changed)
        statistics[:] = found
        return torch.stack(list(found.values()), 1)

    walk = Walk(SCHEDULE, steps, CFG, SIZE, SIZE)
    scores = measure(it.model, lora, encode, prompts, seeds, 0, walk, look).scores
    return {
        statistic: {
            step: {(p, seed): by_stop[j][i] for p, its in scores.items() for seed, by_stop in enumerate(its)}
            for j, step in enumerate(steps)
        }
        for i, statistic in enumerate(statistics)
    }


def tested(results: dict[str, dict]) -> list[str]:
    """Every prompt of a `test` split."""
    parts = (it for result in results.values() for it in result["parts"].items())
    return list(dict.fromkeys(prompt for prompt, (_, split) in parts if split == "test"))


def judge(results: dict[str, dict], pictures: Pictures) -> None:
    """Note in each class's result as `drawn` how often the base draws the class, by tested prompt."""
    panel = Panel()
    for name, result in results.items():
        its = [prompt for prompt in result["parts"] if prompt in pictures]
        result["drawn"] = {prompt: panel.share_recognised(pictures[prompt], name) for prompt in its}


def by_drawing(results: dict[str, dict]) -> dict[str, float]:
    """AUC and error rates when a prompt means the class if the base draws it under it, in most of its pictures."""
    cases = {
        name: [(share > 0.5, it["default"]["decisions"][prompt]) for prompt, share in it["drawn"].items()]
        for name, it in results.items()
    }
    aucs = [auc([it["score"] for _, it in its], [means for means, _ in its]) for its in cases.values()]
    every = [(means, it["erased"]) for its in cases.values() for means, it in its]
    return {
        "drawn_auc_min": min(aucs), "drawn_auc_mean": mean(aucs),
        "drawn_false_positive_rate": mean(erased for means, erased in every if not means),
        "drawn_false_negative_rate": mean(not erased for means, erased in every if means),
    }  # fmt: skip


def wrong_by_words(results: dict[str, dict]) -> list[tuple[str, str]]:
    """(class, prompt) of every tested prompt that our gate decides against the benchmark's words."""
    return [
        (name, prompt)
        for name, it in results.items()
        for prompt in it["drawn"]
        if it["default"]["decisions"][prompt]["erased"] != (it["parts"][prompt][0] in MEANT)
    ]


def doubtful(results: dict[str, dict], pictures: Pictures) -> Image.Image:
    """What the base draws under the prompts that our gate decides against the benchmark's words."""
    from dev.bench.report import labelled

    def label(name: str, prompt: str) -> str:
        it = results[name]["default"]["decisions"][prompt]
        return f"{'' if it['erased'] else 'not '}{name}, {it['score']:.0%}: {prompt.removeprefix(photo(''))}"

    return labelled([(label(*case), pictures[case[1]]) for case in wrong_by_words(results)])


def auc(scores, means) -> float:
    """Area under the ROC curve: how often a prompt that means it scores higher than one that does not."""
    from scipy.stats import mannwhitneyu

    scores, means = np.asarray(scores), np.asarray(means, dtype=bool)
    return float(mannwhitneyu(scores[means], scores[~means]).statistic / (means.sum() * (~means).sum()))


def means_it(parts: dict, prompts) -> np.ndarray:
    """For each prompt: does it mean the class?"""
    return np.array([parts[prompt][0] in MEANT for prompt in prompts])


def measure(results: dict[str, dict]) -> dict:
    """From each class's `look`: the figures, and the tables of AUCs and error rates."""
    tables: dict = {"auc": {}, "seeds": {}, "errors": {}}
    classes = list(results)
    for profile in PROFILES:

        def mean_auc(of, profile=profile):
            return mean(
                auc(of(results[n][profile]), means_it(results[n]["parts"], results[n]["parts"])) for n in classes
            )

        some = results[classes[0]][profile]
        tables["auc"][profile] = {
            **{
                s: {step: mean_auc(lambda r, s=s, step=step: r["scores"][s][step]) for step in STEPS}
                for s in some["scores"]
            },
            **{s: {0: mean_auc(lambda r, s=s: r["texts"][s])} for s in some["texts"]},
            "all combined (logistic regression)": {FEATURES: mean(combination(results, profile).values())},
        }
        tables["seeds"][profile] = {
            s: {step: {number: mean(seed_auc(results[n], profile, s, step, number) for n in classes)
                       for number in SEEDS} for step in SEED_STEPS} for s in (PAPER, OURS)
        }  # fmt: skip
        tables["errors"][profile] = {"paper's rule": rates(results, profile, paper_decision)} | {
            f"calibrated, {rate:g}": rates(results, profile, lambda r, p, prof, rate=rate:
                                           r[prof]["decisions"][p]["score"] > r[prof]["thresholds"][rate])
            for rate in RATES
        }  # fmt: skip
    ours = {n: auc([results[n]["default"]["decisions"][p]["score"] for p in results[n]["parts"]],
                   means_it(results[n]["parts"], results[n]["parts"])) for n in classes}  # fmt: skip
    tables["by_class"] = ours
    wrong = rates(results, "default", lambda r, p, prof: r[prof]["decisions"][p]["erased"])
    tables["differences"] = differences(results)
    tables["doubts"] = [(name, p, results[name]["drawn"][p]) for name, p in wrong_by_words(results)]
    tested = [
        (n, p) for n in classes for p in results[n]["parts"] if (p, 0) in results[n]["default"]["seeds"][PAPER][0]
    ]
    agree = mean(
        results[n]["default"]["decisions"][p]["erased"] == paper_decision(results[n], p, "default") for n, p in tested
    )
    figures = {
        "auc_min": min(ours.values()), "auc_mean": mean(ours.values()),
        "false_positive_rate": wrong["false positives"], "false_negative_rate": wrong["false negatives"],
        "evaluations_per_decision": mean(results[n]["default"]["evaluations"] for n in classes),
        "paper_auc_mean": tables["seeds"]["default"][PAPER][PAPER_STEP][PAPER_SEEDS],
        "paper_auc_mean_paper_lora": tables["seeds"]["paper"][PAPER][PAPER_STEP][PAPER_SEEDS],
        "paper_evaluations_per_decision": PAPER_EVALUATIONS, "agreement_with_paper": agree,
        **by_drawing(results),
    }  # fmt: skip
    return {"figures": figures, **tables}


FEATURES = 5  # step of the statistics that are combined


def features(result: dict, profile: str) -> np.ndarray:
    """Of each prompt the statistics that say something of their own, [prompts, features]."""
    it = result[profile]
    scores = [it["scores"][statistic][FEATURES] for statistic in (OURS, "change cosine", "guidance cosine")]
    return np.array([*scores, *it["texts"].values()]).T


def combination(results: dict[str, dict], profile: str) -> dict[str, float]:
    """Class -> AUC of a logistic regression of all features, made from the other nine classes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = {n: (features(it, profile), means_it(it["parts"], it["parts"])) for n, it in results.items()}
    found = {}
    for name, (rows, means) in data.items():
        others = [them for other, them in data.items() if other != name] or [(rows, means)]
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        model.fit(np.concatenate([r for r, _ in others]), np.concatenate([m for _, m in others]))
        found[name] = auc(model.decision_function(rows), means)
    return found


def seed_auc(result: dict, profile: str, statistic: str, step: int, number: int) -> float:
    """AUC of the mean over the first `number` seeds, on the prompts that many seeds were looked at for."""
    scores = result[profile]["seeds"][statistic][step]
    prompts = [p for p in dict.fromkeys(prompt for prompt, _ in scores) if p]
    return auc([mean(scores[p, seed] for seed in range(number)) for p in prompts], means_it(result["parts"], prompts))


def paper_decision(result: dict, prompt: str, profile: str) -> bool:
    """The published rule at 30 seeds; where only one was looked at, at one."""
    scores = result[profile]["seeds"][PAPER][PAPER_STEP]
    empty = mean(scores["", seed] for seed in range(PAPER_SEEDS))
    if (prompt, 0) in scores:
        return mean(scores[prompt, seed] for seed in range(PAPER_SEEDS)) > empty
    return result[profile]["scores"][PAPER][PAPER_STEP][list(result["parts"]).index(prompt)] > empty


def rates(results: dict[str, dict], profile: str, decide) -> dict[str, float]:
    """Share of prompts of each part that a gate takes for the concept, and both error rates, over the `test` split."""
    taken: dict[str, list[bool]] = {}
    for result in results.values():
        for prompt, (part, split) in result["parts"].items():
            if split == "test":
                taken.setdefault(part, []).append(bool(decide(result, prompt, profile)))
    wrong = [it for part, them in taken.items() if part not in MEANT for it in them]
    missed = [not it for part, them in taken.items() if part in MEANT for it in them]
    return {part: mean(them) for part, them in taken.items()} | {
        "false positives": mean(wrong), "false negatives": mean(missed)
    }  # fmt: skip


def differences(results: dict[str, dict]) -> list[dict]:
    """Every test prompt on which we and the paper's rule differ, and who is right by the benchmark's words."""
    found = []
    for name, result in results.items():
        for prompt, (part, split) in result["parts"].items():
            ours, theirs = result["default"]["decisions"][prompt]["erased"], paper_decision(result, prompt, "default")
            if split == "test" and ours != theirs:
                right = "ours" if ours == (part in MEANT) else "paper"
                found.append({"class": name, "prompt": prompt, "part": part, "ours": ours, "right": right})
    return found


def chart(results: dict[str, dict], path: Path) -> None:
    """ROC curves of the decision's score and the paper's, and the scores of every part; a picture."""
    from matplotlib.figure import Figure
    from sklearn.metrics import roc_curve

    figure = Figure(figsize=(11, 4.6), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    parts = [*MEANT, "compounds", "neighbours", "others", "preserved", "captions"]
    for label, of in (
        ("response, calibrated (ours)", lambda r, p, i: r["default"]["decisions"][p]["score"]),
        ("L2, one seed (paper), our LoRA", lambda r, p, i: r["default"]["scores"][PAPER][PAPER_STEP][i]),
        ("L2, one seed (paper), paper's LoRA", lambda r, p, i: r["paper"]["scores"][PAPER][PAPER_STEP][i]),
    ):  # fmt: skip
        grid = np.linspace(0, 1, 201)
        curves = []
        for result in results.values():
            wrong, found, _ = roc_curve(
                means_it(result["parts"], result["parts"]), [of(result, p, i) for i, p in enumerate(result["parts"])]
            )
            curves.append(np.interp(grid, wrong, found))
        left.plot(grid, np.mean(curves, 0), label=label)
    left.set_xlabel("false positives")
    left.set_ylabel("found")
    left.legend(loc="lower right", frameon=False)
    for row, part in enumerate(reversed(parts)):
        them = [
            r["default"]["decisions"][p]["score"] * 100
            for r in results.values()
            for p, (of, _) in r["parts"].items()
            if of == part
        ]
        right.scatter(
            them, [row] * len(them), marker="|", s=110, alpha=0.5, color="#d1495b" if part in MEANT else "#2a7f9e"
        )
    right.axvline(
        100 * mean(r["default"]["decisions"][p]["threshold"] for r in results.values() for p in r["parts"]),
        color="#333333",
        linestyle="--",
    )
    right.set_yticks(range(len(parts)), reversed(parts))
    right.set_xlabel("change by the LoRA, % of the target's")
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def text(whole: dict) -> str:
    """The report as Markdown."""
    lines = ["| figure | value |", "|---|---|"]
    lines += [f"| `{name}` | {value:.3f} |" for name, value in whole["figures"].items()]
    for profile, table in whole["auc"].items():
        lines += ["", f"AUC by step of {SCHEDULE}, one seed, LoRA of the profile `{profile}`:", "",
                  "| statistic | " + " | ".join(map(str, STEPS)) + " |", "|---" * (len(STEPS) + 1) + "|"]  # fmt: skip
        for statistic, by_step in table.items():
            cells = [f"{by_step[step]:.3f}" if step in by_step else "" for step in STEPS]
            lines.append(f"| {statistic} | " + " | ".join(cells) + " |")
    lines += ["", "AUC by number of seeds, test words and other classes only:", "",
              f"| LoRA | statistic | step | {' | '.join(map(str, SEEDS))} |",
              "|---" * (len(SEEDS) + 3) + "|"]  # fmt: skip
    for profile, table in whole["seeds"].items():
        for statistic, by_step in table.items():
            for step, by_number in by_step.items():
                cells = [f"{value:.3f}" for value in by_number.values()]
                lines.append(f"| {profile} | {statistic} | {step} | " + " | ".join(cells) + " |")
    columns = list(next(iter(whole["errors"]["default"].values())))
    lines += ["", "Share of test prompts taken for the concept:", "",
              "| LoRA | gate | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]  # fmt: skip
    for profile, table in whole["errors"].items():
        for label, by_part in table.items():
            lines.append(f"| {profile} | {label} | " + " | ".join(f"{by_part[c]:.3f}" for c in columns) + " |")
    lines += ["", "AUC of the decision's score by class: "
              + ", ".join(f"{name} {value:.3f}" for name, value in whole["by_class"].items())]  # fmt: skip
    right = [it["right"] for it in whole["differences"]]
    lines += ["", f"Ours and the paper's rule differ on {len(right)} prompts; ours is right on {right.count('ours')}: "
              + "; ".join(f"{it['class']}: {it['prompt']}" for it in whole["differences"] if it["right"] == "paper")
              + " are the ones where the paper's rule is right."]  # fmt: skip
    lines += ["", "Decided against the words, and the share of the base's pictures that show the class: "
              + "; ".join(f"{name}: {prompt} {share:.2f}" for name, prompt, share in whole["doubts"])]  # fmt: skip
    return "\n".join(lines) + "\n"
