"""UnGuidance computed another way, as a reference for tests: whole copies of the model, a LoRA merged into each."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
from comfy.patcher_extension import WrappersMP
from unguide.unguide_ops import host


def merge(copy, lora):
    """Write `W + alpha * up @ down` into the weights of a MODEL that nothing else uses, its patches as well."""
    comfy.model_management.load_models_gpu([copy])
    slices = host.layer_slices(copy)
    for name, pair in lora.pairs.items():
        weight = copy.model.diffusion_model.get_submodule(slices[name].path).weight
        weight.data[slices[name].rows] += (pair.scale * pair.up @ pair.down).to(weight)
    copy.model.current_patcher = copy
    return copy


def blend(model, *copies: tuple):
    """A MODEL that predicts `e_base + sum (1 - w) * (e_copy - e_base)` over copies (merged MODEL, w)."""

    def around_prediction(executor, inner_model, conds, x, timestep, options):
        base = executor(inner_model, conds, x, timestep, options)
        bare = comfy.model_patcher.create_model_options_clone(options)
        for kind in (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL):
            bare.get("transformer_options", {}).get("wrappers", {}).pop(kind, None)
        blended = [prediction.clone() for prediction in base]
        for merged, w in copies:
            changed = comfy.samplers.calc_cond_batch(merged.model, conds, x, timestep, bare)
            for prediction, b, e in zip(blended, base, changed, strict=True):
                prediction += (1 - w) * (e - b)
        return blended

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "two copies", around_prediction)
    return clone


def relative_error(actual, expected) -> float:
    """The largest difference, in units of the largest expected value; the two may be on different devices."""
    expected = expected.to(actual.device)
    return ((actual - expected).abs().max() / expected.abs().max()).item()
