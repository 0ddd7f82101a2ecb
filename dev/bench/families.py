"""Every model family put to the proof on a tiny model: training, UnGuidance, the gate, the file in the stock loader."""

from __future__ import annotations

import tempfile
from pathlib import Path

from dev.families.tiny import TINY
from dev.inprocess import load_pack, start_host

CLOSE = 1e-4


def measure(workers, each) -> dict:
    """`figures`, and what was found for each model, `families`."""
    found = each(workers, "Families", prove, [(number,) for number in range(len(TINY))])
    return {
        "figures": {
            "families_passed": sum(it["passed"] for it in found),
            "families_listed": len(found),
            "stock_loader_unused_keys": sum(it.get("unused_keys", 0) for it in found),
            "max_relative_error": max(it.get("error", 1.0) for it in found),
        },
        "families": found,
    }


def prove(number: int) -> dict:
    """A task for a worker: what came of one of the tiny models; `failed` says why where it is not passed."""
    start_host()
    load_pack()
    import torch

    torch.set_num_threads(1)
    tiny = TINY[number]
    try:
        with torch.inference_mode():
            return {"name": tiny.name, **_proved(tiny)}
    except Exception as error:  # one family's failure is no reason to know nothing of the others
        return {"name": tiny.name, "passed": False, "failed": f"{type(error).__name__}: {error}"}


def _proved(tiny) -> dict:
    from unguide.unguide_ops import host, targets

    from dev.families.proof import Proof

    proof = Proof(tiny)
    before, after = proof.losses()
    with tempfile.TemporaryDirectory() as folder:
        stock, unused = proof.error_against_the_stock_loader(Path(folder, "it.safetensors"))
    error = max(proof.error_against_copies(), stock)
    network = host.diffusion_model(proof.model)
    family = targets.family_of(network)
    score = proof.decisions()[0].verdict.score
    return {
        "family": family.name if family else "",
        "prediction": proof.model.model.model_type.name,
        "key": next(iter(proof.lora.pairs)),
        "loss_before": before, "loss_after": after, "score": score, "error": error, "effect": proof.effect(),
        "unused_keys": unused,
        "passed": after < before and error < CLOSE < proof.effect() and not unused and abs(score - 1) < 0.05
                  and proof.is_untouched(),
    }  # fmt: skip


def text(whole: dict) -> str:
    """The report as Markdown."""
    figures = [f"| `{name}` | {it:.3g} |" for name, it in whole["figures"].items()]
    heads = "| model | family | prediction | a key of its file | loss | error | passed |"
    lines = ["| figure | value |", "|---|---|", *figures, "", heads, "|---" * 7 + "|"]
    for it in whole["families"]:
        if "failed" in it:
            lines.append(f"| {it['name']} | | | | | | {it['failed']} |")
        else:
            loss = f"{it['loss_before']:.3g} → {it['loss_after']:.3g}"
            lines.append(f"| {it['name']} | {it['family']} | {it['prediction']} | `{it['key']}` | {loss} | "
                         f"{it['error']:.1e} | {'yes' if it['passed'] else 'no'} |")  # fmt: skip
    return "\n".join(lines) + "\n"
