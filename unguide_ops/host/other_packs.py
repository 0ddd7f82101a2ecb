"""Finds the objects of other node packs that take part in the predictions of a sampling run.

A step cache keeps what the last prediction changed, a token merger draws random numbers, another pack counts calls as
steps. UnGuidance makes more predictions than plain sampling. So each series of predictions (the base's, each LoRA's,
the gate's) has its own copy of the state of these objects (see `pack_state`), as if it ran on a copy of the MODEL: the
base's predictions are those of plain sampling.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

import torch
from comfy.hooks import HookGroup
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

from .attachments import KEY
from .pack_state import ModuleAttributes
from .prompt import has_hooked_text
from .types import Model

PREDICTION_WRAPPERS = (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
NOT_IN_PREDICTIONS = {"sampler_cfg_function", "sampler_post_cfg_function", "sampler_pre_cfg_function",
                      "denoise_mask_function", "disable_cfg1_optimization", "context_handler", "transformer_options",
                      "to_load_options", "multigpu_clones"}  # fmt: skip
"""Options of a MODEL that act on finished predictions, or only contain other options."""


BESIDE_WORDS = ("unclip_conditioning", "clip_vision_output", "reference_latents", "reference_video_latents",
                "image_embeds", "gligen")  # fmt: skip
"""Keys of a prompt's entry that show the model a picture, or give it further words."""

WITHOUT_TEXT = ("attn1", "input_block", "middle", "output_block", "emb")
"""How the host's names of patches begin that act on what a model makes of pictures, and never on text."""


def replaced_forwards(network: torch.nn.Module) -> list[Any]:
    """The forwards that other packs have put on a network's modules, and these modules' attributes.

    Left out are compiled modules, which compute what the originals do, and modules that were given their class's own
    forward as an attribute: a pack that has removed its own forward leaves that behind.
    """
    objects: list[Any] = []
    for module in network.modules():
        forward = vars(module).get("forward")
        is_own = getattr(forward, "__func__", None) is type(module).forward
        if forward is not None and not is_own and not hasattr(module, "_orig_mod"):
            objects += [forward, ModuleAttributes(module)]
    return objects


def other_pack_objects(patcher: Model, model_options: dict, conds: Iterable, forwards: list[Any]) -> list[Any]:
    """All objects of other packs in a run's predictions: patches, wrappers, hooks, caches, layers.

    `forwards` are those on the network before UnGuide's adapters were attached (see `replaced_forwards`). If other
    packs take part, the options and the network's own attributes are included, where they may keep state as well.
    """
    objects = _acting_on_model(patcher, model_options, forwards)
    entries = (entry for cond in conds for entry in cond or ())
    objects += [entry[key] for entry in entries for key in ("hooks", "control", "gligen") if entry.get(key) is not None]
    return [*objects, model_options, ModuleAttributes(patcher.model.diffusion_model)] if objects else []


def _acting_on_model(patcher: Model, model_options: dict, forwards: list[Any]) -> list[Any]:
    """The objects of other packs that act on the model, whatever the prompts."""
    options = model_options.get("transformer_options", {})
    objects = [option for name, option in model_options.items() if name not in NOT_IN_PREDICTIONS and _has_code(option)]
    objects += [option for name, option in options.items() if name not in ("wrappers", "callbacks")
                and _has_code(option)]  # fmt: skip
    for kind in PREDICTION_WRAPPERS:
        for key, wrappers in options.get("wrappers", {}).get(kind, {}).items():
            objects += [] if str(key).startswith(KEY) or key == COMPILE_KEY else wrappers
    objects += [patch for name, patch in patcher.object_patches.items()
                if name.startswith("diffusion_model") and not hasattr(patch, "_orig_mod")]  # fmt: skip
    return [*objects, *forwards, *patcher.injections.values()]


def may_tell_more_than_words(patcher: Model, model_options: dict, conds: Iterable, forwards: list[Any]) -> bool:
    """Whether a model may be told more than the words of its prompts: by pictures beside them, or by other packs.

    Image prompts and regional prompts come in through the attention to text, or through wrappers that may do anything.
    """
    options = model_options.get("transformer_options", {})
    patches = {name for kind in ("patches", "patches_replace") for name, it in options.get(kind, {}).items() if it}
    unpatched = {name: it for name, it in options.items() if name not in ("patches", "patches_replace")}
    acting = _acting_on_model(patcher, {**model_options, "transformer_options": unpatched}, forwards)
    entries = [entry for cond in conds for entry in cond or ()]
    return (
        any(not isinstance(it, HookGroup) for it in acting)
        or any(not name.startswith(WITHOUT_TEXT) for name in patches)
        or any(entry.get(key) is not None for entry in entries for key in BESIDE_WORDS)
        or any(map(has_hooked_text, entries))
    )


def _has_code(option: Any) -> bool:
    """Whether an option holds a function or an object that may act, rather than plain settings."""
    if isinstance(option, dict):
        return any(map(_has_code, option.values()))
    if isinstance(option, list | tuple | set):
        return any(map(_has_code, option))
    return callable(option) or hasattr(option, "__dict__") and not isinstance(option, torch.Tensor | Enum)
