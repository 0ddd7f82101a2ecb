"""What this pack hangs on a MODEL, under one key; reached through here alone."""

from __future__ import annotations

from collections.abc import Callable

from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

KEY = "unguide"
GUARD = f"{KEY} outside of a run"
GUARDED = (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL)


def attached(patcher) -> tuple:
    """The items that hang on a ModelPatcher, the first one first."""
    return patcher.get_attachment(KEY) or ()


def attach(model, item, around_run: Callable):
    """A clone of MODEL with one more item. `around_run` is its OUTER_SAMPLE wrapper, whatever the number of items.

    Whoever asks the clone for predictions outside of such a run, with its own `model_options`, gets a RuntimeError:
    nothing would be steered there.
    """
    clone = model.clone()
    items = attached(clone)
    clone.set_attachments(KEY, (*items, item))
    if not items:
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, around_run)
        for kind in GUARDED:
            add_wrapper_with_key(kind, GUARD, _refuse, clone.model_options, is_model_options=True)
    return clone


def detached(model):
    """A clone of MODEL without any of them."""
    clone = model.clone()
    if attached(clone):
        clone.remove_attachments(KEY)
        clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
        remove_guard(clone.model_options)
    return clone


def remove_guard(model_options: dict) -> None:
    """For a run, in its own copy of the options."""
    wrappers = model_options.get("transformer_options", {}).get("wrappers", {})
    for kind in GUARDED:
        wrappers.get(kind, {}).pop(GUARD, None)


def _refuse(executor, *args, **kwargs):
    raise RuntimeError(
        "UnGuidance hangs on this MODEL, but the node that samples it goes round ComfyUI's guiders, so that nothing "
        "would be steered. Sample it with KSampler, SamplerCustomAdvanced or UnGuidance KSampler."
    )
