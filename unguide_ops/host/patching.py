"""LoRAs of every kind that the host can load, as what becomes of single weights of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import comfy.lora
import comfy.model_management
import torch

from ..strangers import brief
from .layers import PREFIX

ROOM = 16  # times the weight: what a change may take on the way

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
    there = model.model.state_dict()
    for name, tensors in others.items():
        with _in_words(name):
            its = {f"{name}.{end}": it for end, it in tensors.items()}
            found = comfy.lora.load_lora(its, {name: keys[name]}, False)
        if not found:
            raise ValueError(f"The host can do nothing with `{name}` of this LoRA ({brief(', '.join(tensors))}).")
        for key, value in found.items():
            weight, *where = (key,) if isinstance(key, str) else key
            if weight not in there:  # a bias for a layer without one: the host's loader passes over it
                continue
            _check_size(name, tensors, there[weight].numel())
            offset, function = [*where, None, None][:2]
            before = changes.get(weight.removeprefix(PREFIX), lambda it: it)
            changes[weight.removeprefix(PREFIX)] = _after(before, (1.0, value, 1.0, offset, function), weight)
    return changes


def _check_size(name: str, tensors: Mapping[str, torch.Tensor], numbers: int) -> None:
    """Raises ValueError where the host would make far more of the tensors than a weight of so many numbers.

    It multiplies what it finds, whatever the shapes, and sees afterwards whether that fits.
    """
    made = 1
    for factor in ("lokr_w1", "lokr_w2", ""):  # two whose Kronecker product is taken; anything else
        its = [it.flatten(1) if it.ndim > 1 else it[:, None] for end, it in tensors.items()
               if it.ndim and end.startswith(factor) and (factor or not end.startswith("lokr"))]  # fmt: skip
        made *= max((len(it) for it in its), default=1) * max((it.shape[1] for it in its), default=1)
    if made > ROOM * max(numbers, 2**20):
        raise ValueError(
            f"This LoRA does not fit the model: `{name}` would make {made} numbers of a weight of {numbers}. Use it "
            f"with the model family that it was made for."
        )


def _after(before: Change, patch: tuple, key: str) -> Change:
    def change(weight: torch.Tensor) -> torch.Tensor:
        full = before(weight).to(torch.float32, copy=True)
        with _in_words(key):
            return comfy.lora.calculate_weight([patch], full, key).to(weight.dtype)

    return change


@contextmanager
def _in_words(name: str) -> Iterator[None]:
    """What the host raises where parts are missing or do not fit together, as a ValueError."""
    try:
        yield
    except comfy.model_management.OOM_EXCEPTION:
        raise
    except Exception as error:
        raise ValueError(
            f"The host can do nothing with `{name}` of this LoRA ({type(error).__name__}): its parts do not fit "
            f"together, or not this model. Use it with the model family that it was made for."
        ) from error
