"""A model's layers: their names in LoRA files, their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import cast

import comfy.lora
import comfy.model_management
import comfy.utils
import torch

from ..lora import Place

SAMPLED = 32  # tensors, and elements of each, that a fingerprint looks at


PREFIX, SUFFIX = "diffusion_model.", ".weight"


@contextmanager
def as_in_its_file(model) -> Iterator[torch.nn.Module]:
    """MODEL's network with the modules, and so the names, that its file has.

    While MODEL is loaded, the object patches of whatever was sampled last are in the network: blocks that are compiled,
    or replaced by others.
    """
    network = model.model
    now = [
        (name, comfy.utils.set_attr(network, name, its)) for name, its in [*model.object_patches_backup.items()][::-1]
    ]
    compiled = [(parent, name, it) for parent in network.modules() for name, it in parent._modules.items()
                if hasattr(it, "_orig_mod")]  # fmt: skip
    try:
        for parent, name, it in compiled:
            parent._modules[name] = it._orig_mod
        yield network.diffusion_model
    finally:
        for parent, name, it in compiled:
            parent._modules[name] = it
        for name, its in now[::-1]:
            comfy.utils.set_attr(network, name, its)


@contextmanager
def ejected(model) -> Iterator[None]:
    """While what other packs inject into MODEL's network, in the host's way, is taken out of it.

    The host takes it out and puts it in again itself, in the middle of runs too: what hangs on a layer's `forward` has
    to be below it, or it is lost.
    """
    loaded = (it.model for it in comfy.model_management.current_loaded_models)
    patchers = {id(it): it for it in (model, *loaded) if it is not None and it.model is model.model}
    with ExitStack() as stack:
        for it in patchers.values():
            stack.enter_context(it.use_ejected())
        yield


def places(model) -> dict[str, Place]:
    """Every name a LoRA file may use for a layer of MODEL, or for some of its outputs -> where that is."""
    with as_in_its_file(model):
        found = {name: _place(key) for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items()}
    return {name: place for name, place in found.items() if place}


def layer_names(model) -> list[str]:
    """Every name that a LoRA file may use for a weight of MODEL, in any way that the host can patch it."""
    return list(comfy.lora.model_lora_keys_unet(model.model, {}))


def _place(key: str | tuple) -> Place | None:
    """The place of a key of the host's: a name, or one with (dimension, first, number) of the rows that are meant."""
    name, *where = (key,) if isinstance(key, str) else key
    if not name.startswith(PREFIX) or not name.endswith(SUFFIX) or len(where) > 1 or (where and where[0][0] != 0):
        return None
    return Place(name[len(PREFIX) : -len(SUFFIX)], *(where[0][1:] if where else ()))


def file_names(model, naming: str) -> dict[Place, str]:
    """Each place of MODEL that has a name of its own in LoRA files -> that name.

    By `naming`: "kohya" (`lora_unet_` and diffusers block names where there are any, which every loader of Stable
    Diffusion knows), "transformer" (diffusers' names, a name for each of q, k and v), "parts" (the module path, and a
    name for each of q, k and v) or "diffusion_model" (the module path). What has no name there gets its module path, or
    nothing where its parts have names.
    """
    starts = {"kohya": "lora_unet_", "transformer": "transformer.", "parts": PREFIX}
    start, every, named = starts.get(naming), places(model), {}
    for name, place in every.items():
        plain = f"lora_unet_{place.path.replace('.', '_')}"  # with the host's own block names
        whole = naming == "parts" and place.outputs is None
        if start and name.startswith(start) and not whole and (place not in named or name != plain):
            named[place] = name
    known = {place.path for place in named}
    for name, place in every.items():
        if name == PREFIX + place.path and place.path not in known:
            named[place] = name
    return named


def diffusion_model(model) -> torch.nn.Module:
    """The network of a MODEL, loaded or not."""
    return model.model.diffusion_model


def base_model(model) -> str:
    """The host's name for what MODEL is, as SDXL."""
    return type(model.model.model_config).__name__


def check_trainable(linears: Mapping[str, torch.nn.Module]) -> None:
    """Raises ValueError when a layer's weights are quantised: no gradient worth having passes through them."""
    for path, linear in linears.items():
        weight = cast(torch.Tensor, linear.weight)
        dtype = getattr(weight, "_qdata", weight).dtype  # newer hosts' own tensors pass for their source
        if not dtype.is_floating_point or dtype.itemsize < 2:
            raise ValueError(
                f"The model's weights are quantised ({dtype} in `{path}`), and a LoRA cannot be trained on them: load "
                f"an fp16, bf16 or fp32 checkpoint (or set `weight_dtype` to default). The LoRA will fit both, "
                f"its gate behind UnGuide Calibrate."
            )


def weight_of(linear: torch.nn.Module) -> torch.Tensor:
    """A loaded Linear's weight [out, in] as it computes with it, fp32.

    The host leaves what does not fit in main memory, and patches it only when the layer is asked.
    """
    weight = cast(torch.Tensor, linear.weight).data.to(torch.float32, copy=True)
    for patched in cast(Sequence[Callable], getattr(linear, "weight_function", ())):
        weight = patched(weight)
    return weight


@torch.no_grad()
def layer_outputs(linear: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What a loaded model's Linear makes of inputs [N, in]: [N, out], fp32 on the CPU."""
    return linear(inputs.to(cast(torch.Tensor, linear.weight))).float().cpu()


def fingerprint(model) -> str:
    """A short name for a MODEL's own weights, whatever is patched onto it: a hash of a few elements of some tensors.

    The same for a checkpoint in fp32 and rounded to fp16.
    """
    with as_in_its_file(model) as network:
        state = network.state_dict()
    own = {name.replace("_orig_mod.", ""): it for name, it in
           [*((name, it.weight) for name, it in model.backup.items()),
            *((name, it[0]) for name, it in model.hook_backup.items())]}  # fmt: skip
    digest = hashlib.sha256()
    for name in sorted(state)[:: max(1, len(state) // SAMPLED)]:
        # `data`, as a weight that the host has moved outside of inference mode (unloaded, say) lets nobody look at it
        tensor = own.get(PREFIX + name, state[name]).data.flatten()
        some = tensor[:: max(1, len(tensor) // SAMPLED)].cpu().half()
        digest.update(f"{name} {len(tensor)} {some.tolist()}".encode())
    return digest.hexdigest()[:16]
