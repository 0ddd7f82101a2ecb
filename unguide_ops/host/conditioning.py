"""Encoded prompts, ComfyUI's CONDITIONING: made from text, and as tensors for a file."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..magnitude import FP16_MAX, max_abs
from ..safe_text import printable
from .types import Clip, Conditioning

NOT_STORED = {"area", "mask", "mask_strength", "set_area_to_bounds", "strength", "default", "start_percent",
              "end_percent", "timestep_start", "timestep_end", "concat_latent_image", "concat_mask", "control",
              "gligen", "hooks", "model_conds", "uuid"}  # fmt: skip
"""Keys that say where and when a prompt counts, or belong to a run: not part of the prompt itself."""


def encode(clip: Clip | None, prompt: str) -> Conditioning:
    """Encode a prompt as the host's CLIPTextEncode does.

    Raises ValueError if there is no text encoder, or if the prompt nests more brackets than the host can parse.
    """
    if clip is None:
        raise ValueError(
            "`clip` is missing: connect the CLIP output of the node that loads the checkpoint. If it is connected, "
            "that file holds no text encoder: load one with Load CLIP."
        )
    try:
        return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    except RecursionError:
        raise ValueError(
            f"The prompt {printable(prompt)!r} has too many brackets in brackets: take some out."
        ) from None


def pack_conditioning(conditioning: Conditioning) -> dict[str, torch.Tensor]:
    """The tensors and numbers of an encoded prompt, to be stored in a file, without area and time.

    They are in half precision unless a value exceeds its range.
    """
    cross_attn, extras = conditioning[0]
    values = {"cross_attn": cross_attn, **{key: value for key, value in extras.items() if key not in NOT_STORED}}
    tensors = {key: torch.as_tensor(it) for key, it in values.items() if isinstance(it, torch.Tensor | int | float)}
    return {key: _reduced_precision(tensor).cpu().contiguous() for key, tensor in tensors.items()}


def _reduced_precision(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in half precision, or in single if its values are too large (some language models' are)."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.half() if max_abs(tensor) <= FP16_MAX else tensor.float()


def unpack_conditioning(tensors: Mapping[str, torch.Tensor]) -> Conditioning:
    """The encoded prompt from what `pack_conditioning` returned. A missing `pooled_output` is None, as in the host."""
    values = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    extras = {key: it if it.ndim else it.item() for key, it in values.items() if key not in {"cross_attn", *NOT_STORED}}
    return [[values["cross_attn"], {"pooled_output": None, **extras}]]
