"""Tiny models of other families, trained on the embedded model's pictures: to test with, and to measure ways on.

Each is made of the host's own class for its family, so that target layers, prediction type and the axes of its latents
are those of the real thing. Text encoder and autoencoder are the embedded model's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parent
CHANNELS = 24  # of the embedded autoencoder's latents
TEXT_WIDTH = 192  # of the embedded text encoder
END = 49407  # the token that ends a prompt, and fills the rest of its 77
UNUSED = {"norm_final.weight"}  # a norm that older hosts have and do not use
SCALE = ".scale"  # ends the name of the scales of a weight's rows in int8


@dataclass(frozen=True)
class TrainedFamily:
    """One model: a class of the host's `supported_models`, its settings, and what its prompts and latents look like."""

    title: str
    config: str
    settings: dict
    sampling: dict | None = None  # of flow models
    v_prediction: bool = False
    pooled: bool = False  # prompts have a second vector, which is the text's last token
    time_axis: bool = False  # latents are [B, C, 1, H, W]
    own_words: bool = False  # a prompt is as long as its words, each one's token by itself: no end, no padding


UNET = {
    "image_size": 32, "in_channels": CHANNELS, "out_channels": CHANNELS, "model_channels": 64, "num_res_blocks": [1, 1],
    "channel_mult": [1, 2], "num_head_channels": 32, "use_spatial_transformer": True, "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1], "transformer_depth_middle": 1, "use_linear_in_transformer": True,
    "context_dim": TEXT_WIDTH, "use_checkpoint": False, "legacy": False,
}  # fmt: skip
EMBEDDER = {"target": "torch.nn.Linear", "params": {"in_features": TEXT_WIDTH, "out_features": 256}}
FLOW = {"shift": 2.0}

TRAINED = {
    "sd3": TrainedFamily("SD3 type (joint attention, flow)", "SD3", {
        "in_channels": CHANNELS, "out_channels": CHANNELS, "depth": 4, "patch_size": 2, "input_size": None,
        "adm_in_channels": TEXT_WIDTH, "num_patches": 256, "pos_embed_max_size": 16, "pos_embed_scaling_factor": None,
        "context_embedder_config": EMBEDDER, "qk_norm": "rms",
    }, sampling=FLOW, pooled=True),
    "wan": TrainedFamily("Wan type (flow)", "WAN21_T2V", {
        "image_model": "wan2.1", "model_type": "t2v", "dim": 256, "ffn_dim": 768, "freq_dim": 256, "num_heads": 4,
        "num_layers": 5, "text_len": 77, "text_dim": TEXT_WIDTH, "patch_size": (1, 1, 1), "in_dim": CHANNELS,
        "out_dim": CHANNELS,
    }, sampling=FLOW, time_axis=True),
    "lumina2": TrainedFamily("Lumina 2 type (one stream, flow)", "Lumina2", {
        "image_model": "lumina2", "patch_size": 1, "in_channels": CHANNELS, "dim": 256, "n_layers": 6,
        "n_refiner_layers": 1, "n_heads": 8, "n_kv_heads": 8, "qk_norm": True, "cap_feat_dim": TEXT_WIDTH,
        "axes_dims": [8, 12, 12], "axes_lens": [300, 32, 32],
    }, sampling={**FLOW, "multiplier": 1.0}, own_words=True),
    "sd2v": TrainedFamily("SD 2 type (UNet, v)", "SD20", UNET, v_prediction=True),
}  # fmt: skip


def load_trained(name: str, folder: Path = FOLDER):
    """A trained family as the host's (MODEL, CLIP, VAE), fp32, 64 x 64 pixels; `name` is one of TRAINED."""
    from unguide.demo_model import loader

    family = TRAINED[name]
    with torch.inference_mode(False):
        model = new_model(name)
        load_weights(model, name, folder)
        clip = loader.load_text_encoder(loader.FOLDER, loader.load_config()["text"])
        if family.pooled:
            _change_prompts(clip, lambda tokens, rows: (rows, {"pooled_output": rows[:, -1]}))
        if family.own_words:
            _change_prompts(clip, lambda tokens, rows: (rows[:, : own_length(tokens)], {}))
        autoencoder = _autoencoder()
        vae = loader.as_vae(_WithTimeAxis(autoencoder) if family.time_axis else autoencoder)
        return loader.as_model(model), clip, vae


def load_weights(model, name: str, folder: Path = FOLDER) -> None:
    """Load a family's stored weights into the host's BaseModel of it."""
    weights = dequantised(load_file(folder / f"{name}.safetensors"))
    network = model.diffusion_model
    for key in UNUSED & network.state_dict().keys():
        weights[key] = torch.ones_like(network.state_dict()[key])
    network.load_state_dict({key: weights[key] for key in network.state_dict()})


def own_length(tokens: dict[str, list]) -> int:
    """How many tokens of the embedded text encoder a prompt has before its end token, the start token among them."""
    return sum(token != END for token, *_ in tokens["l"][0])


def dequantised(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Stored weights in fp32: those in int8 times the scales of their rows. The inverse of `quantised`."""
    stored = dict(stored)
    scales = {key.removesuffix(SCALE): stored.pop(key) for key in list(stored) if key.endswith(SCALE)}
    return {key: _times_rows(weight.float(), scales.get(key)) for key, weight in stored.items()}


def _times_rows(weight: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    return weight if scale is None else weight * scale.float().view(-1, *[1] * (weight.ndim - 1))


def quantised(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights as stored: matrices and kernels in int8 with a scale (fp16) for each row, the rest in fp16."""
    stored = {}
    for key, weight in weights.items():
        if weight.ndim < 2 or len(weight) < 8:
            stored[key] = weight.half()
            continue
        rows = weight.float().flatten(1)
        scale = (rows.abs().amax(1) / 127).clamp_min(1e-7).half()
        stored[key] = (rows / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8).view(weight.shape)
        stored[key + SCALE] = scale
    return stored


def _autoencoder():
    from unguide.demo_model import loader

    return loader.load_autoencoder(loader.FOLDER, loader.load_config()["vae"])


def new_model(name: str):
    """The host's BaseModel of a family with the embedded autoencoder's latents; its weights are still to come."""
    import comfy.latent_formats
    import comfy.supported_models

    family, autoencoder = TRAINED[name], _autoencoder()

    class Latent(comfy.latent_formats.LatentFormat):
        """The embedded autoencoder's, with a time axis if the family has one."""

        latent_channels = CHANNELS
        latent_dimensions = 3 if family.time_axis else 2
        latent_rgb_factors = autoencoder.dec.weight.mean((2, 3)).tolist()
        latent_rgb_factors_bias = autoencoder.dec.bias.tolist()

    class Config(getattr(comfy.supported_models, family.config)):
        """The family's own, for these latents."""

        latent_format = Latent
        sampling_settings = family.sampling or {}
        memory_usage_factor = 1.0

        def inpaint_model(self) -> bool:
            return False

    hint = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.arange(9.0)} if family.v_prediction else {}
    return Config({**family.settings, "dtype": torch.float32}).get_model(hint, "").eval()


def _change_prompts(clip, change: Callable[[dict, torch.Tensor], tuple[torch.Tensor, dict]]) -> None:
    """Prompts become `change(tokens, encoded)`: what is encoded, and further entries beside it."""
    encode = clip.encode_from_tokens_scheduled

    def changed(tokens, *args, **kwargs):
        entries = [(change(tokens, rows), extras) for rows, extras in encode(tokens, *args, **kwargs)]
        return [[rows, {**extras, **more}] for (rows, more), extras in entries]

    clip.encode_from_tokens_scheduled = changed


class _WithTimeAxis(torch.nn.Module):
    """The autoencoder for latents [B, C, 1, H, W] and pictures [B, 3, 1, H, W]."""

    def __init__(self, autoencoder: torch.nn.Module):
        super().__init__()
        self.autoencoder, self.enc, self.dec = autoencoder, autoencoder.enc, autoencoder.dec

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels -> latent."""
        return self.autoencoder.encode(pixels.squeeze(2) if pixels.ndim == 5 else pixels).unsqueeze(2)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Latent -> pixels."""
        return self.autoencoder.decode(latent.squeeze(2)).unsqueeze(2)
