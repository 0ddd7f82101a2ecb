"""Models of random weights as files, in the layout of published ones, by which the host's loaders detect the family."""

from __future__ import annotations

from pathlib import Path

import comfy.sd1_clip
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file

from dev.environment import HOME
from dev.families.full import SD15
from dev.families.random_model import SEED, RandomModel, fill, pooled
from dev.families.tiny import sd3, unet

DEMO_TEXT = 192  # width of the embedded model's prompts
SD1_TEXT, WAN_TEXT = 768, 4096
SD1_VAE = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
           "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
SD1 = {**unet(1, 1, SD1_TEXT), "model_channels": 320, "channel_mult": [1], "num_res_blocks": [1],
       "transformer_depth": [1], "transformer_depth_output": [1, 1]}  # fmt: skip
"""A Stable Diffusion 1 UNet of a single level and the published width, by which it is detected."""

SMALL_FILES = (
    RandomModel("SD 1.x", "SD15", SD1, width=SD1_TEXT),
    RandomModel("SD3", "SD3", sd3(width=DEMO_TEXT, qkv_bias=True), width=DEMO_TEXT, extras=pooled(DEMO_TEXT)),
    RandomModel("Wan 2.1", "WAN21_T2V", {"image_model": "wan2.1", "model_type": "t2v", "dim": 128, "ffn_dim": 128,
                                  "num_heads": 1, "num_layers": 2}, width=WAN_TEXT),
)  # fmt: skip
"""The families that the host detects at any depth, or any width, by the shapes in the file alone."""


def save_diffusion_model(
    random_model: RandomModel, path: Path, dtype: torch.dtype = torch.float32, made_on: torch.device | None = None
) -> None:
    """Write a file for the host's UNETLoader; `made_on`: see RandomModel.model."""
    weights = random_model.model(made_on=made_on).model.diffusion_model.state_dict()
    _write({name: weight.to(dtype) for name, weight in weights.items()}, path)


def save_checkpoint(
    random_model: RandomModel, path: Path, dtype: torch.dtype = torch.float32, text=None, vae=None
) -> None:
    """Write a file for the host's CheckpointLoaderSimple, with the weights of a text encoder and a VAE if given."""
    model = random_model.model(dtype).model
    config = model.model_config
    tensors = config.process_unet_state_dict_for_saving(model.diffusion_model.state_dict())
    if text is not None:
        tensors |= config.process_clip_state_dict_for_saving(text)
    if vae is not None:
        tensors |= config.process_vae_state_dict_for_saving(vae)
    _write(tensors, path)


def save_vae(path: Path, channels: int) -> None:
    """Write a file for the host's VAELoader: a TAESD for latents of so many channels."""
    vae = TAESD(latent_channels=channels)
    fill(vae, SEED)
    _write(vae.state_dict(), path)


def sd15_checkpoint() -> Path:
    """The file of a whole Stable Diffusion 1.5, for CheckpointLoaderSimple: UNet, VAE and CLIP-L in fp16, 2 GB.

    It is made at the first call, in some twenty seconds, and kept in `.dev`.
    """
    path = HOME / "checkpoints" / f"sd15-random-{SEED}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_whole_checkpoint(SD15, path)
    return path


def save_whole_checkpoint(unet: RandomModel, path: Path) -> None:
    """Write a Stable Diffusion 1 in fp16 for the host's CheckpointLoaderSimple: this UNet, CLIP-L and the VAE."""
    parts = comfy.sd1_clip.SD1ClipModel(), AutoencoderKL(ddconfig=SD1_VAE, embed_dim=4)
    for part in parts:
        fill(part, SEED)
    text, vae = (part.half().state_dict() for part in parts)
    save_checkpoint(unet, path, torch.float16, text, vae)


def _write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a whole file or none."""
    part = path.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
    part.replace(path)
