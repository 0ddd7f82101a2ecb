"""Prompts as the host carries them: CONDITIONING."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..numbers import LARGEST_NUMBER, largest
from ..strangers import brief

WHERE = {"area", "mask", "mask_strength", "set_area_to_bounds", "strength", "default", "start_percent", "end_percent",
         "timestep_start", "timestep_end", "concat_latent_image", "concat_mask", "control", "gligen", "hooks",
         "model_conds", "uuid"}  # fmt: skip
Conditioning = list  # the host's CONDITIONING: [[cross-attention tensor [B, tokens, width], {"pooled_output": ...}]]


def encode(clip, prompt: str) -> Conditioning:
    """A prompt as CONDITIONING, just as the host's CLIPTextEncode makes it."""
    if clip is None:
        raise ValueError(
            "`clip` is missing: connect the CLIP output of the node that loads the checkpoint. If it is connected, "
            "that file holds no text encoder: load one with Load CLIP."
        )
    try:
        return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    except RecursionError:
        raise ValueError(f"The prompt {brief(prompt)!r} has too many brackets in brackets: take some out.") from None


def pack_conditioning(conditioning: Conditioning) -> dict[str, torch.Tensor]:
    """The tensors and numbers of a prompt, in half precision where that holds them, for keeping in a file: what it
    says, not where.
    """
    cross_attn, extras = conditioning[0]
    said = {"cross_attn": cross_attn, **{key: it for key, it in extras.items() if key not in WHERE}}
    tensors = {key: torch.as_tensor(it) for key, it in said.items() if isinstance(it, torch.Tensor | int | float)}
    return {key: _short(it).cpu().contiguous() for key, it in tensors.items()}


def _short(tensor: torch.Tensor) -> torch.Tensor:
    """In half precision, or in single where that does not hold its numbers (some language models' are that large)."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.half() if largest(tensor) <= LARGEST_NUMBER else tensor.float()


def unpack_conditioning(tensors: Mapping[str, torch.Tensor]) -> Conditioning:
    """The inverse of `pack_conditioning`. No `pooled_output` is None, as the host's text encoders have it."""
    full = {key: it.float() if it.is_floating_point() else it for key, it in tensors.items()}
    rest = {key: it if it.ndim else it.item() for key, it in full.items() if key not in {"cross_attn", *WHERE}}
    return [[full["cross_attn"], {"pooled_output": None, **rest}]]
