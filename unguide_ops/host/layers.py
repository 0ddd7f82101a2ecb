"""A model's layers: their names in LoRA files, their weights, and modules that other packs have replaced."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import cast

import comfy.lora
import comfy.model_management
import comfy.utils
import torch

from ..lora.low_rank import LayerSlice
from .types import Model

SAMPLED = 32  # tensors, and elements of each, that a fingerprint is made of
PREFIX, SUFFIX = "diffusion_model.", ".weight"  # around a layer's path in the host's names of weights


@contextmanager
def original_modules(model: Model) -> Iterator[torch.nn.Module]:
    """A context in which MODEL's network has its original modules, and so the layer names of its file.

    While MODEL is loaded, its network contains the object patches of the last sampling run, such as compiled or
    replaced blocks.
    """
    network = model.model
    patches = [
        (name, comfy.utils.set_attr(network, name, original))
        for name, original in reversed([*model.object_patches_backup.items()])
    ]
    compiled = [(parent, name, module) for parent in network.modules() for name, module in parent._modules.items()
                if hasattr(module, "_orig_mod")]  # fmt: skip
    try:
        for parent, name, module in compiled:
            parent._modules[name] = module._orig_mod
        yield network.diffusion_model
    finally:
        for parent, name, module in compiled:
            parent._modules[name] = module
        for name, patch in reversed(patches):
            comfy.utils.set_attr(network, name, patch)


@contextmanager
def injections_ejected(model: Model) -> Iterator[None]:
    """A context without the injections of other packs, a mechanism of the host, in MODEL's network.

    The host ejects and injects them by itself, in the middle of runs as well. A change of a layer's `forward` must be
    made below them, or it is lost.
    """
    loaded = (it.model for it in comfy.model_management.current_loaded_models)
    patchers = {id(it): it for it in (model, *loaded) if it is not None and it.model is model.model}
    with ExitStack() as stack:
        for patcher in patchers.values():
            stack.enter_context(patcher.use_ejected())
        yield


def layer_slices(model: Model) -> dict[str, LayerSlice]:
    """The layers of MODEL, or slices of their outputs, by every name that LoRA files use for them."""
    with original_modules(model):
        slices = {name: _slice_of_key(key) for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items()}
    return {name: layer for name, layer in slices.items() if layer}


def layer_names(model: Model) -> list[str]:
    """Every name that LoRA files use for a weight of MODEL, including weights that only full changes can patch."""
    return list(comfy.lora.model_lora_keys_unet(model.model, {}))


def _slice_of_key(key: str | tuple) -> LayerSlice | None:
    """The slice that a key of the host's means: a weight's name, alone or with (dimension, first, number) of its rows.

    None for what is not a slice of a layer's outputs.
    """
    name, *ranges = (key,) if isinstance(key, str) else key
    if not name.startswith(PREFIX) or not name.endswith(SUFFIX) or len(ranges) > 1 or (ranges and ranges[0][0] != 0):
        return None
    return LayerSlice(name[len(PREFIX) : -len(SUFFIX)], *(ranges[0][1:] if ranges else ()))


def names_in_files(model: Model, naming: str) -> dict[LayerSlice, str]:
    """The name in LoRA files of each layer, or slice of a layer's outputs, under a convention.

    `naming` is "kohya" (`lora_unet_`, with diffusers' block names if there are any, as all loaders of Stable Diffusion
    expect), "transformer" (diffusers' names, one each for q, k and v), "parts" (the module path, and one name each for
    q, k and v) or "diffusion_model" (the module path). A layer that the convention does not name gets its module path,
    unless its slices have names. Of several names the first in the alphabet: SDXL's `add_embedding`, as in diffusers,
    and not `class_embedding`. The host has them in no order.
    """
    prefixes = {"kohya": "lora_unet_", "transformer": "transformer.", "parts": PREFIX}
    prefix, slices = prefixes.get(naming), layer_slices(model)
    names: dict[LayerSlice, str] = {}
    for name, layer in slices.items():
        host_name = f"lora_unet_{layer.path.replace('.', '_')}"  # with the host's own block names
        is_unsliced = naming == "parts" and layer.outputs is None
        if prefix and name.startswith(prefix) and not is_unsliced:
            known = names.get(layer, host_name)
            if known == host_name or host_name != name < known:
                names[layer] = name
    named_paths = {layer.path for layer in names}
    for name, layer in slices.items():
        if name == PREFIX + layer.path and layer.path not in named_paths:
            names[layer] = name
    return names


def diffusion_model(model: Model) -> torch.nn.Module:
    """The network of a MODEL, loaded or not."""
    return model.model.diffusion_model


def base_model(model: Model) -> str:
    """The host's name of MODEL's architecture, such as SDXL."""
    return type(model.model.model_config).__name__


def check_trainable(linears: Mapping[str, torch.nn.Module]) -> None:
    """Raises ValueError if a layer's weights are quantised: their gradients are too coarse to train on."""
    for path, linear in linears.items():
        weight = cast(torch.Tensor, linear.weight)
        dtype = getattr(weight, "_qdata", weight).dtype  # newer hosts' tensors report the dtype before quantisation
        if not dtype.is_floating_point or dtype.itemsize < 2:
            raise ValueError(
                f"The model's weights are quantised ({dtype} in `{path}`), and a LoRA cannot be trained on them: load "
                f"an fp16, bf16 or fp32 checkpoint (or set `weight_dtype` to default). The LoRA will fit both; "
                f"for the quantised one, put UnGuide Calibrate after it."
            )


def weight_of(linear: torch.nn.Module) -> torch.Tensor:
    """A loaded Linear's weight [out, in] with its patches, fp32.

    Weights that do not fit on the device stay in main memory, and the host patches them only when the layer is called.
    """
    weight = cast(torch.Tensor, linear.weight).data.to(torch.float32, copy=True)
    for patch in cast(Sequence[Callable], getattr(linear, "weight_function", ())):
        weight = patch(weight)
    return weight


@torch.no_grad()
def layer_outputs(linear: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """The outputs [N, out] of a loaded model's Linear for inputs [N, in], fp32 on the CPU."""
    return linear(inputs.to(cast(torch.Tensor, linear.weight))).float().cpu()


def fingerprint(model: Model) -> str:
    """A short name for a MODEL's unpatched weights: a hash of a few elements of some tensors.

    It is the same for a checkpoint in fp32 and rounded to fp16.
    """
    with original_modules(model) as network:
        state = network.state_dict()
    unpatched = {name.replace("_orig_mod.", ""): weight for name, weight in
                 [*((name, backup.weight) for name, backup in model.backup.items()),
                  *((name, backup[0]) for name, backup in model.hook_backup.items())]}  # fmt: skip
    digest = hashlib.sha256()
    for name in sorted(state)[:: max(1, len(state) // SAMPLED)]:
        # `data`, since a weight that the host has moved outside of inference mode (to unload it, say) cannot be read
        tensor = unpatched.get(PREFIX + name, state[name]).data.flatten()
        elements = tensor[:: max(1, len(tensor) // SAMPLED)].cpu().half()
        digest.update(f"{name} {len(tensor)} {elements.tolist()}".encode())
    return digest.hexdigest()[:16]
