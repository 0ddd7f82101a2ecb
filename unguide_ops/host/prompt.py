"""A prompt as the host has it in a prediction: its text, where and when it counts, and its rows of a batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.conds
import comfy.utils
import torch
from comfy.hooks import EnumHookType

AREA_AND_TIME = ("area", "mask", "mask_strength", "set_area_to_bounds", "strength", "default",
                 "timestep_start", "timestep_end")  # fmt: skip
"""Keys of a cond's entry that say where in the picture and when in the run it counts, and how much."""

TEXT = ("c_crossattn", "y")
"""The host's names of an encoded prompt and its pooled vector; the first that a model has tells prompts apart."""

Cond = list[dict]  # as the host has it: entries that share a prediction, by areas or by weight


@dataclass(frozen=True)
class Prompt:
    """One positive prompt of a call, as a cond that counts in the whole picture and the whole run.

    `cond_index` is the index of the call's cond that it comes from. `is_whole_cond`: that cond consists of this prompt
    alone, without area or time, so that its prediction is the prompt's.
    """

    cond: Cond
    cond_index: int
    is_whole_cond: bool

    @property
    def has_hooked_parts(self) -> bool:
        """Whether hooks may replace its text, picture by picture."""
        return has_hooked_text(self.cond[0])

    def text(self, rows: int) -> torch.Tensor | None:
        """The encoded prompt of each picture, [rows, ...], or None if the model reads none."""
        return text_of(self.cond, rows)


def text_of(cond: Cond, rows: int) -> torch.Tensor | None:
    """A cond's encoded prompt for each of a number of pictures, [rows, ...], or None if it has none."""
    candidates = (cond[0]["model_conds"].get(name) for name in TEXT)
    text = next((it.cond for it in candidates if it is not None and isinstance(it.cond, torch.Tensor)), None)
    return None if text is None else comfy.utils.repeat_to_batch_size(text, rows)


def repeated(rows: torch.Tensor, number: int) -> torch.Tensor:
    """A value for each of a number of pictures, [number, ...], as the host repeats those of a smaller batch."""
    return comfy.utils.repeat_to_batch_size(rows, number)


def has_hooked_text(entry: dict) -> bool:
    """Whether hooks on a prompt's entry may replace its text, picture by picture; those that change weights do not."""
    hooks = entry.get("hooks")
    return hooks is not None and any(hook.hook_type != EnumHookType.Weight for hook in hooks.hooks)


def entry_rows(entry: dict, rows: Sequence[int], batch: int) -> dict:
    """A cond's entry for some rows of a batch of the given size."""

    def select(value: Any) -> Any:
        if isinstance(value, list):
            return [select(each) for each in value]
        if isinstance(value, torch.Tensor) and value.ndim and len(value) > 1:
            return comfy.utils.repeat_to_batch_size(value, batch)[list(rows)]
        return value

    def select_cond(cond: comfy.conds.CONDRegular) -> comfy.conds.CONDRegular:
        selected = copy.copy(cond)
        selected.cond = cond.cond if isinstance(cond, comfy.conds.CONDConstant) else select(cond.cond)
        return selected

    return {
        **{key: select(value) if key == "mask" else value for key, value in entry.items()},
        "model_conds": {name: select_cond(cond) for name, cond in entry["model_conds"].items()},
    }
