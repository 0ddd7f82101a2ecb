"""Changes of a model's weights by LoRAs of any kind that the host can load, one weight at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import comfy.lora
import comfy.lora_convert
import comfy.model_management
import torch

from ..safe_text import printable
from .layers import PREFIX
from .patch_size import elements_allocated, meta_tensors
from .types import Model

LOGGER = logging.getLogger("unguide")
MAX_GROWTH = 16  # the elements that computing a change may allocate, as a multiple of the weight's

Change = Callable[[torch.Tensor], torch.Tensor]


def host_key_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A LoRA file's tensors under the names that the host's loader gives them: Wan Fun, USO and Flux files are renamed.

    Raises ValueError if the host cannot read them.
    """
    with _host_errors_as_value_error(printable(next(iter(tensors), ""))):
        return comfy.lora_convert.convert_lora(dict(tensors))


def weight_changes(model: Model, layers: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, Change]:
    """The changes that a LoRA of any kind makes to MODEL's weights, by the weights' names in the diffusion model.

    `layers` are a file's tensors by layer and then by suffix. A change is a function from a weight of any shape to the
    patched one, of the same dtype and on the same device. Raises ValueError if MODEL lacks a layer, or if the host
    cannot apply a layer's tensors.
    """
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    if unknown := [name for name in layers if name not in keys]:
        raise ValueError(
            f"This LoRA does not fit the model: {len(unknown)} of its layers are not there, `{printable(unknown[0])}` "
            f"for one. Use it with the model family that it was made for. A file made elsewhere may name them "
            f"otherwise: try UnGuide Import LoRA."
        )
    changes: dict[str, Change] = {}
    state = model.model.state_dict()
    for name, tensors in layers.items():
        with _host_errors_as_value_error(name):
            layer_file = {f"{name}.{suffix}": tensor for suffix, tensor in tensors.items()}
            patches = comfy.lora.load_lora(layer_file, {name: keys[name]}, False)
        if not patches:
            raise ValueError(f"ComfyUI cannot use `{name}` of this LoRA ({printable(', '.join(tensors))}).")
        for key, patch in patches.items():
            weight_name, *slicing = (key,) if isinstance(key, str) else key
            if weight_name not in state:
                LOGGER.warning("The LoRA's bias for `%s` is left out: the layer has none.", name)
                continue
            if not weight_name.endswith(".bias"):
                with _host_errors_as_value_error(name):
                    shape = _sliced_shape(state[weight_name], slicing)
                _check_fit(name, tensors, shape)
            offset, function = [*slicing, None, None][:2]
            path = weight_name.removeprefix(PREFIX)
            earlier = changes.get(path, lambda weight: weight)
            changes[path] = _chained(earlier, (1.0, patch, 1.0, offset, function), weight_name)
    return changes


def _sliced_shape(weight: torch.Tensor, slicing: list) -> torch.Size:
    """The shape of the slice that a key of the host's means: [(dimension, first, number), ...], or the weight's own."""
    return weight.narrow(*slicing[0]).shape if slicing and slicing[0] else weight.shape


def _check_fit(name: str, tensors: Mapping[str, torch.Tensor], shape: torch.Size) -> None:
    """Raises ValueError if the host cannot merge a layer's tensors into a weight of this shape, or allocates too much.

    The host multiplies tensors of any shapes, and only then compares the result with the weight, which it leaves
    unchanged if that does not fit. So this is tried first with tensors that have a shape and no data.
    """
    if "reshape_weight" in tensors and tensors["reshape_weight"].flatten().tolist() != list(shape):
        raise ValueError(
            f"`{name}` of this LoRA gives the model's layer another shape, "
            f"{printable(tensors['reshape_weight'].tolist())} in place of {list(shape)}, as control LoRAs (Canny, "
            f"Depth) do: such a LoRA cannot be a concept LoRA."
        )
    layer_file = {f"{name}.{suffix}": tensor for suffix, tensor in meta_tensors(tensors).items()}
    patch = (1.0, comfy.lora.load_lora(layer_file, {name: name}, False)[name], 1.0, None, None)
    weight = torch.empty(shape, device="meta")
    with _host_errors_as_value_error(name):
        allocated = elements_allocated(lambda: comfy.lora.calculate_weight([patch], weight, name))
    if allocated > MAX_GROWTH * max(shape.numel(), 2**20):
        raise ValueError(
            f"This LoRA does not fit the model: `{name}` would make {allocated} numbers of a weight of "
            f"{shape.numel()}. Use it with the model family that it was made for."
        )
    for suffix in ("diff", "w_norm"):
        if suffix in tensors and tensors[suffix].shape != shape:
            raise ValueError(
                f"This LoRA does not fit the model: `{name}` was made for a weight of "
                f"{printable(list(tensors[suffix].shape))}, the model's is {list(shape)}. Use it "
                f"with the model family that it was made for."
            )


def _chained(earlier: Change, patch: tuple, key: str) -> Change:
    """The earlier change followed by a patch of the host's."""

    def change(weight: torch.Tensor) -> torch.Tensor:
        unpatched = earlier(weight).float()
        with _host_errors_as_value_error(key):
            patched = comfy.lora.calculate_weight([patch], unpatched.clone(), key)
        if torch.equal(patched, unpatched):  # tensors that do not fit are logged by the host, and left out
            LOGGER.warning("The LoRA changes nothing in `%s`: it is zero there, or not made for this layer.", key)
        return patched.to(weight.dtype)

    return change


@contextmanager
def _host_errors_as_value_error(name: str) -> Iterator[None]:
    """A context that raises ValueError for any error of the host's about a layer's tensors, except out of memory."""
    try:
        yield
    except comfy.model_management.OOM_EXCEPTION:
        raise
    except Exception as error:
        raise ValueError(
            f"ComfyUI cannot use `{name}` of this LoRA ({type(error).__name__}): its parts do not fit together, or do "
            f"not fit this model. Use it with the model family that it was made for."
        ) from error
