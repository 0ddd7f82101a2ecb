"""UnGuidance on a MODEL (paper section 3.3): any sampler, one model in memory."""

from __future__ import annotations

from contextlib import contextmanager

import torch

from . import host
from .branch import Branch
from .guidance import blend
from .lora import ConceptLoRA


def branch_of(model, lora: ConceptLoRA) -> Branch:
    """The LoRA as a branch of this MODEL. Raises ValueError when the model lacks a layer that the LoRA was made for."""
    paths = host.module_paths(model)
    unknown = [name for name in lora.pairs if name not in paths]
    if unknown:
        raise ValueError(
            f"This LoRA does not fit the model: {len(unknown)} of its {len(lora.pairs)} layers are not there, "
            f"`{unknown[0]}` for one. Use it with the model family that it was trained on."
        )
    return Branch({paths[name]: pair for name, pair in lora.pairs.items()})


def unguide(model, lora: ConceptLoRA, w: float):
    """A clone of MODEL that predicts `w * e_base + (1 - w) * e_lora` wherever it is sampled.

    w = 1 needs no LoRA at all and gives the plain base picture bit for bit; w = 0 evaluates the LoRA alone; any other
    w evaluates both, one after the other, so that memory stays that of plain sampling.
    """
    if w == 1.0:
        return model.clone()
    branch = branch_of(model, lora)
    checked = False

    @contextmanager
    def attached(diffusion_model: torch.nn.Module):
        nonlocal checked
        checked = lora.is_zero  # a LoRA of zeros rightly changes nothing
        with branch.attached(diffusion_model):
            yield

    def predict(call: host.Call) -> list[torch.Tensor]:
        nonlocal checked
        base = call.evaluate() if w != 0.0 else None
        with branch.on():
            changed = call.evaluate()
        if not checked:
            _check_effect(branch, base, changed)
            checked = True
        return changed if base is None else [blend(b, c, w) for b, c in zip(base, changed, strict=True)]

    return host.with_branch(model, attached, predict)


def _check_effect(branch: Branch, base: list[torch.Tensor] | None, changed: list[torch.Tensor]) -> None:
    same = base is not None and all(torch.equal(b, c) for b, c in zip(base, changed, strict=True))
    if same or not branch.calls:
        raise RuntimeError(
            f"The concept LoRA had no effect on its layers ({', '.join(list(branch.pairs)[:2])}, ...): something else "
            f"on this MODEL replaces or fuses them. Connect UnGuidance to the model before such a patch, or leave "
            f"that patch out."
        )
