"""Loads the embedded text-to-image model: small, trained, and made of the host's own classes.

Stock nodes (KSampler, CLIPTextEncode, VAEDecode, VAEEncode, LoraLoader) work on it. README.md in this folder says what
it draws, how it was trained, and under which licences its training data are.
"""

import json
import logging
from pathlib import Path

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import torch

from .autoencoder import PatchAutoencoder

FOLDER = Path(__file__).parent


def load_config(folder: Path = FOLDER) -> dict:
    """The model's configuration: `unet`, `text`, `vae`, and `concepts` (name -> the words that it was trained on)."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def load_demo_model(folder: Path = FOLDER):
    """The embedded model as the host's (MODEL, CLIP, VAE), fp32, for 64 x 64 pixels (latents 24 x 8 x 8)."""
    config = load_config(folder)
    with torch.inference_mode(False):
        autoencoder = load_autoencoder(folder, config["vae"])
        model = new_unet(config["unet"], autoencoder)
        model.load_model_weights(_weights(folder, "unet"))
        return as_model(model), load_text_encoder(folder, config["text"]), as_vae(autoencoder)


def _weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    state = comfy.utils.load_torch_file(str(folder / f"{name}.safetensors"), safe_load=True)
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def load_autoencoder(folder: Path, config: dict) -> PatchAutoencoder:
    """The autoencoder with its trained weights, frozen."""
    autoencoder = PatchAutoencoder(**config)
    autoencoder.load_state_dict(_weights(folder, "vae"))
    return autoencoder.eval().requires_grad_(False)


def new_unet(config: dict, autoencoder: PatchAutoencoder):
    """The host's BaseModel with a UNet of this configuration, whose weights are not loaded yet."""

    class PatchLatent(comfy.latent_formats.LatentFormat):
        """Unscaled PCA latents; the linear decoder's patch means colour the sampler's previews."""

        latent_channels = config["in_channels"]
        latent_rgb_factors = autoencoder.dec.weight.mean((2, 3)).tolist()
        latent_rgb_factors_bias = autoencoder.dec.bias.tolist()

    class DemoConfig(comfy.supported_models_base.BASE):
        """Stable Diffusion 1's noise schedule and prediction type, on a UNet of 4.4 million parameters."""

        unet_extra_config = {}
        latent_format = PatchLatent
        memory_usage_factor = 1.0

        def inpaint_model(self) -> bool:
            return False

    return DemoConfig({**config, "dtype": torch.float32}).get_model({}, "")


def as_model(model):
    """A BaseModel of the host as its MODEL, frozen."""
    model.requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def load_text_encoder(folder: Path, config: dict):
    """The text encoder with its trained weights, as the host's CLIP."""

    class TextModel(comfy.sd1_clip.SDClipModel):
        """CLIP's text model, 192 wide and two layers deep."""

        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(
                device=device, dtype=dtype, model_options=model_options or {}, textmodel_json_config=config,
                return_projected_pooled=False,
            )  # fmt: skip

    class ClipModel(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=TextModel)

    class Tokenizer(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {})
            self.clip_l.embedding_size = config["hidden_size"]

    state = _weights(folder, "text_encoder")
    table = torch.zeros(config["vocab_size"], config["hidden_size"])
    table[state.pop("token_ids").long()] = state.pop("token_rows")  # only the rows of words in use are stored
    state["text_model.embeddings.token_embedding.weight"] = table
    state["text_projection.weight"] = torch.eye(config["hidden_size"])  # the pooled output is not used

    clip = comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(Tokenizer, ClipModel), model_options={"dtype": torch.float32}
    )
    clip.cond_stage_model.load_sd(state)
    return clip


def as_vae(autoencoder: PatchAutoencoder):
    """The autoencoder in the host's VAE, which is made empty, since it does not know the architecture."""
    logging.disable(logging.WARNING)  # an empty VAE warns that it has no weights
    try:
        vae = comfy.sd.VAE(sd={}, dtype=torch.float32)
    finally:
        logging.disable(logging.NOTSET)
    vae.first_stage_model = autoencoder
    vae.latent_channels = autoencoder.enc.out_channels
    vae.device = comfy.model_management.vae_device()
    vae.vae_dtype = torch.float32
    vae.output_device = comfy.model_management.intermediate_device()
    vae.patcher = comfy.model_patcher.ModelPatcher(
        autoencoder, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )
    vae.model_size()
    return vae
