"""Prompts as the host carries them: CONDITIONING."""

from __future__ import annotations

from collections.abc import Mapping

import torch

Conditioning = list  # the host's CONDITIONING: [[cross-attention tensor [B, tokens, width], {"pooled_output": ...}]]


def encode(clip, prompt: str) -> Conditioning:
    """A prompt as CONDITIONING, just as the host's CLIPTextEncode makes it."""
    if clip is None:
        raise ValueError("`clip` is missing: connect the CLIP output of the node that loads the checkpoint.")
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def pack_conditioning(conditioning: Conditioning) -> dict[str, torch.Tensor]:
    """The tensors of a prompt, in half precision, for keeping in a file."""
    cross_attn, extras = conditioning[0]
    tensors = {"cross_attn": cross_attn, "pooled_output": extras.get("pooled_output")}
    return {key: value.half().cpu() for key, value in tensors.items() if value is not None}


def unpack_conditioning(tensors: Mapping[str, torch.Tensor]) -> Conditioning:
    """The inverse of `pack_conditioning`."""
    rest = {key: value.float() for key, value in tensors.items() if key != "cross_attn"}
    return [[tensors["cross_attn"].float(), rest]]
