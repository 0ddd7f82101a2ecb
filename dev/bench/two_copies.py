"""UnGuidance formulated another way, to check ours against: whole copies of the model, a LoRA merged into each."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
from comfy.patcher_extension import WrappersMP


def merge(copy, lora):
    """Write `W + alpha * up @ down` into the weights of a MODEL, a copy that nothing else uses; its patches as well."""
    from unguide.unguide_ops import host

    comfy.model_management.load_models_gpu([copy])
    places = host.places(copy)
    for name, pair in lora.pairs.items():
        weight = copy.model.diffusion_model.get_submodule(places[name].path).weight
        weight.data[places[name].rows] += (pair.alpha * pair.up @ pair.down).to(weight)
    copy.model.current_patcher = copy
    return copy


def blend(model, *copies: tuple):
    """A MODEL that predicts `e_base + sum (1 - w) * (e_copy - e_base)` over copies (merged MODEL, w)."""

    def around_prediction(executor, of, conds, x, timestep, options):
        base = executor(of, conds, x, timestep, options)
        bare = comfy.model_patcher.create_model_options_clone(options)
        for kind in (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL):
            bare.get("transformer_options", {}).get("wrappers", {}).pop(kind, None)
        found = [it.clone() for it in base]
        for merged, w in copies:
            other = comfy.samplers.calc_cond_batch(merged.model, conds, x, timestep, bare)
            for it, b, e in zip(found, base, other, strict=True):
                it += (1 - w) * (e - b)
        return found

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "two copies", around_prediction)
    return clone


def relative_error(ours, theirs) -> float:
    """The largest difference, in units of the largest value; the two may be on different devices."""
    theirs = theirs.to(ours.device)
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
