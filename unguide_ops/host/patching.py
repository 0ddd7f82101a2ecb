"""LoRAs of every kind that the host can load, as what becomes of single weights of a model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import comfy.lora
import comfy.lora_convert
import comfy.model_management
import torch

from ..strangers import brief
from .layers import PREFIX
from .reckoning import numbers_made, outlines

LOGGER = logging.getLogger("unguide")
ROOM = 16  # times the weight: what a change may take on the way

Change = Callable[[torch.Tensor], torch.Tensor]


def converted(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A LoRA file's tensors, renamed where the host's loader does: those of Wan Fun, USO, Black Forest Labs."""
    with _in_words(brief(next(iter(tensors), ""))):
        return comfy.lora_convert.convert_lora(dict(tensors))


def weight_changes(model, others: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, Change]:
    """What a LoRA of any kind makes of MODEL's weights, by their names below the diffusion model.

    `others` are a file's tensors by layer and then by suffix. A change takes a weight of any shape to the patched one,
    in its dtype and on its device. Raises ValueError when MODEL lacks a layer, or the host can do nothing with what
    the file has for it.
    """
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    if unknown := [name for name in others if name not in keys]:
        raise ValueError(
            f"This LoRA does not fit the model: {len(unknown)} of its layers are not there, `{brief(unknown[0])}` for "
            f"one. Use it with the model family that it was made for. A file made elsewhere may name them otherwise: "
            f"try UnGuide Import LoRA."
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
            if weight not in there:
                LOGGER.warning("The LoRA's bias for `%s` is left out: the layer has none.", name)
                continue
            if not weight.endswith(".bias"):
                with _in_words(name):
                    shape = _shape_of(there[weight], where)
                _check_fit(name, tensors, shape)
            offset, function = [*where, None, None][:2]
            before = changes.get(weight.removeprefix(PREFIX), lambda it: it)
            changes[weight.removeprefix(PREFIX)] = _after(before, (1.0, value, 1.0, offset, function), weight)
    return changes


def _shape_of(weight: torch.Tensor, where: list) -> torch.Size:
    """The shape of the part of a weight that the host's key means: (dimension, first, number), or None for all."""
    return weight.narrow(*where[0]).shape if where and where[0] else weight.shape


def _check_fit(name: str, tensors: Mapping[str, torch.Tensor], shape: torch.Size) -> None:
    """Raises ValueError where the host would not merge the tensors into a weight of this shape, or makes far more.

    It multiplies what it finds, whatever the shapes, sees afterwards whether that fits, and else goes on without. So
    it is first let do so with tensors that have shapes alone.
    """
    if "reshape_weight" in tensors and tensors["reshape_weight"].flatten().tolist() != list(shape):
        raise ValueError(
            f"`{name}` of this LoRA gives the model's layer another shape, {brief(tensors['reshape_weight'].tolist())} "
            f"in place of {list(shape)}, as control LoRAs (Canny, Depth) do: such a LoRA cannot be a concept LoRA."
        )
    its = {f"{name}.{end}": it for end, it in outlines(tensors).items()}
    patch = (1.0, comfy.lora.load_lora(its, {name: name}, False)[name], 1.0, None, None)
    weight = torch.empty(shape, device="meta")
    with _in_words(name):
        made = numbers_made(lambda: comfy.lora.calculate_weight([patch], weight, name))
    if made > ROOM * max(shape.numel(), 2**20):
        raise ValueError(
            f"This LoRA does not fit the model: `{name}` would make {made} numbers of a weight of {shape.numel()}. Use "
            f"it with the model family that it was made for."
        )
    for end in ("diff", "w_norm"):
        if end in tensors and tensors[end].shape != shape:
            raise ValueError(
                f"This LoRA does not fit the model: `{name}` was made for a weight of "
                f"{brief(list(tensors[end].shape))}, the model's is {list(shape)}. Use it "
                f"with the model family that it was made for."
            )


def _after(before: Change, patch: tuple, key: str) -> Change:
    def change(weight: torch.Tensor) -> torch.Tensor:
        plain = before(weight).float()
        with _in_words(key):
            patched = comfy.lora.calculate_weight([patch], plain.clone(), key)
        if torch.equal(patched, plain):  # where tensors do not fit together, the host logs that and goes on
            LOGGER.warning("The LoRA changes nothing in `%s`: it is zero there, or not made for this layer.", key)
        return patched.to(weight.dtype)

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
