"""A model's layers: their names in LoRA files, their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import cast

import comfy.lora
import torch

SAMPLED = 32  # tensors, and elements of each, that a fingerprint looks at


def module_paths(model) -> dict[str, str]:
    """Every name a LoRA file may use for a layer of MODEL -> module path below the diffusion model."""
    prefix, suffix = "diffusion_model.", ".weight"
    return {
        name: key[len(prefix) : -len(suffix)]
        for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items()
        if isinstance(key, str) and key.startswith(prefix) and key.endswith(suffix)
    }


def file_names(model) -> dict[str, str]:
    """Module path -> the name to write: kohya's with diffusers block names, which every loader knows."""
    names = {}
    for name, path in module_paths(model).items():
        if name.startswith("lora_unet_") and (path not in names or name != f"lora_unet_{path.replace('.', '_')}"):
            names[path] = name
    return names


def check_trainable(linears: Mapping[str, torch.nn.Module]) -> None:
    """Raises ValueError when a layer's weights are quantised: no gradient worth having passes through them."""
    for path, linear in linears.items():
        dtype = cast(torch.Tensor, linear.weight).dtype
        if not dtype.is_floating_point or dtype.itemsize < 2:
            raise ValueError(
                f"The model's weights are quantised ({dtype} in `{path}`), and a LoRA cannot be trained on them: load "
                f"an fp16, bf16 or fp32 checkpoint (or set `weight_dtype` to default). The LoRA will fit both."
            )


def weight_of(linear: torch.nn.Module) -> torch.Tensor:
    """A loaded Linear's weight [out, in], fp32."""
    return cast(torch.Tensor, linear.weight).detach().float()


@torch.no_grad()
def layer_outputs(linear: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What a loaded model's Linear makes of inputs [N, in]: [N, out], fp32 on the CPU."""
    return linear(inputs.to(cast(torch.Tensor, linear.weight))).float().cpu()


def fingerprint(model) -> str:
    """A short name for a MODEL's own weights, whatever is patched onto them: a hash of a few elements of some tensors.

    The same for a checkpoint in fp32 and rounded to fp16.
    """
    state = model.model.diffusion_model.state_dict()
    digest = hashlib.sha256()
    for name in sorted(state)[:: max(1, len(state) // SAMPLED)]:
        backup = model.backup.get(f"diffusion_model.{name}")
        tensor = (backup.weight if backup is not None else state[name]).flatten()
        some = tensor[:: max(1, len(tensor) // SAMPLED)].cpu().half()
        digest.update(f"{name} {len(tensor)} {some.tolist()}".encode())
    return digest.hexdigest()[:16]
