"""`bench families`: checks every model family on a tiny model: training, UnGuidance, the gate, other loaders' keys."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from unguide.unguide_ops import host
from unguide.unguide_ops.lora import target_layers

from dev.bench import Bench
from dev.bench.report import figures_table, table
from dev.families.checks import FamilyCheck
from dev.families.tiny import TINY

CLOSE = 1e-4


def measure(bench: Bench) -> dict:
    """`figures`, and what was measured of each model, `families`."""
    rows = bench.each("Families", check, [(number,) for number in range(len(TINY))])
    return {
        "figures": {
            "families_passed": sum(row["passed"] for row in rows),
            "families_listed": len(rows),
            "stock_loader_unused_keys": sum(row.get("unused_keys", 0) for row in rows),
            "max_relative_error": max(row.get("error", 1.0) for row in rows),
        },
        "families": rows,
    }


@torch.inference_mode()
def check(number: int) -> dict:
    """A worker's task: the measurements of one of the tiny models, and whether it `passed`; `failed` is an error."""
    tiny = TINY[number]
    try:
        return {"name": tiny.name, **_check(FamilyCheck(tiny))}
    except Exception as error:  # the other families are still to be measured
        return {"name": tiny.name, "passed": False, "failed": f"{type(error).__name__}: {error}"}


def _check(model_check: FamilyCheck) -> dict:
    before, after = model_check.losses()
    with tempfile.TemporaryDirectory() as folder:
        stock_error, unused = model_check.error_against_the_stock_loader(Path(folder, "it.safetensors"))
    error, effect = max(model_check.error_against_copies(), stock_error), model_check.effect()
    family = target_layers.family_of(host.diffusion_model(model_check.model))
    score = model_check.decisions()[0].decision.score
    return {
        "family": family.name if family else "",
        "prediction": model_check.model.model.model_type.name,
        "key": next(iter(model_check.lora.pairs)),
        "loss_before": before, "loss_after": after, "score": score, "error": error, "effect": effect,
        "unused_keys": unused,
        "passed": after < before and error < CLOSE < effect and not unused and abs(score - 1) < 0.05
                  and model_check.is_untouched(),
    }  # fmt: skip


def text(result: dict) -> str:
    """The report as Markdown."""
    rows = []
    for family in result["families"]:
        row = {"model": family["name"], "passed": family.get("failed") or ("yes" if family["passed"] else "no")}
        if "failed" not in family:
            row |= {"family": family["family"], "prediction": family["prediction"],
                    "a key of its file": f"`{family['key']}`", "error": f"{family['error']:.1e}",
                    "loss": f"{family['loss_before']:.3g} \u2192 {family['loss_after']:.3g}"}  # fmt: skip
        rows.append(row)
    heads = ("model", "family", "prediction", "a key of its file", "loss", "error", "passed")
    return f"{figures_table(result['figures'], '.3g')}\n\n{table({it: row.get(it) for it in heads} for row in rows)}\n"
