"""The concept LoRAs attached to a MODEL: all under one key of the host's ModelPatcher, which no other file touches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from .types import Model

KEY = "unguide"
GUARD = f"{KEY} outside of a run"
GUARDED = (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL)


def attached(patcher: Model) -> tuple:
    """The items attached to a MODEL, in the order of their attachment."""
    return patcher.get_attachment(KEY) or ()


def attach(model: Model, item: Any, around_run: Callable) -> Model:
    """A clone of MODEL with one more item. `around_run` becomes its OUTER_SAMPLE wrapper with the first item.

    Predictions outside of a sampling run, with the clone's own `model_options`, raise RuntimeError: they would not be
    steered.
    """
    clone = model.clone()
    items = attached(clone)
    clone.set_attachments(KEY, (*items, item))
    if not items:
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, around_run)
        for kind in GUARDED:
            add_wrapper_with_key(kind, GUARD, _refuse, clone.model_options, is_model_options=True)
    return clone


def detached(model: Model) -> Model:
    """A clone of MODEL without attached items."""
    clone = model.clone()
    if attached(clone):
        clone.remove_attachments(KEY)
        clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
        remove_guard(clone.model_options)
    return clone


def remove_guard(model_options: dict) -> None:
    """Allow predictions with these options, a sampling run's own copy."""
    wrappers = model_options.get("transformer_options", {}).get("wrappers", {})
    for kind in GUARDED:
        wrappers.get(kind, {}).pop(GUARD, None)


def _refuse(executor, *args, **kwargs):
    raise RuntimeError(
        "UnGuidance is attached to this MODEL, but the node that samples it bypasses ComfyUI's guiders, so nothing "
        "would be steered. Sample it with KSampler, SamplerCustomAdvanced or UnGuidance KSampler."
    )
