"""LoRAs of every kind that the host can load, as what becomes of single weights of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import comfy.lora
import torch

from .layers import PREFIX

Change = Callable[[torch.Tensor], torch.Tensor]


def weight_changes(model, others: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, Change]:
    """What a LoRA of any kind makes of MODEL's weights, by their names below the diffusion model.

    `others` are a file's tensors by layer and then by suffix. A change takes a weight of any shape to the patched one,
    in its dtype and on its device. Raises ValueError when MODEL lacks a layer, or the host can do nothing with what
    the file has for it.
    """
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    if unknown := [name for name in others if name not in keys]:
        raise ValueError(
            f"This LoRA does not fit the model: {len(unknown)} of its layers are not there, `{unknown[0]}` for one. "
            f"Use it with the model family that it was made for."
        )
    changes: dict[str, Change] = {}
    there = model.model.state_dict().keys()
    for name, tensors in others.items():
        found = comfy.lora.load_lora({f"{name}.{end}": it for end, it in tensors.items()}, {name: keys[name]}, False)
        if not found:
            raise ValueError(f"The host can do nothing with `{name}` of this LoRA ({', '.join(tensors)}).")
        for key, value in found.items():
            weight, *where = (key,) if isinstance(key, str) else key
            if weight not in there:  # a bias for a layer without one: the host's loader passes over it
                continue
            offset, function = [*where, None, None][:2]
            before = changes.get(weight.removeprefix(PREFIX), lambda it: it)
            changes[weight.removeprefix(PREFIX)] = _after(before, (1.0, value, 1.0, offset, function), weight)
    return changes


def _after(before: Change, patch: tuple, key: str) -> Change:
    def change(weight: torch.Tensor) -> torch.Tensor:
        full = before(weight).to(torch.float32, copy=True)
        return comfy.lora.calculate_weight([patch], full, key).to(weight.dtype)

    return change
