"""Names for ComfyUI's own objects, for annotations only: importing this module imports nothing of ComfyUI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import comfy.model_patcher
    import comfy.sd

Model: TypeAlias = "comfy.model_patcher.ModelPatcher"  # MODEL: a diffusion model and the patches of one clone of it
Clip: TypeAlias = "comfy.sd.CLIP"  # CLIP: text encoders with their tokenizers
Vae: TypeAlias = "comfy.sd.VAE"  # VAE: from pictures to latents and back
Conditioning: TypeAlias = list[list[Any]]  # CONDITIONING: [[cross-attention [B, tokens, width], {"pooled_output": ..}]]
Latent: TypeAlias = dict[str, Any]  # LATENT: {"samples": [B, C, H, W] or [B, C, T, H, W], ...}
