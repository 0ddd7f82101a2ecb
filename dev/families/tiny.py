"""Models of random weights, of the host's own classes, with made-up prompts; a tiny one of every family.

Those of the size that people use are in `full`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

WIDTH = 32  # of the text, unless the family's code has a width of its own
SEED = 0


def unet(depth: int, out: int, context: int, **more) -> dict:
    """A Stable Diffusion UNet of two levels; `depth` transformers in the lower."""
    return {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
        "channel_mult": [1, 2], "transformer_depth": [1, depth], "transformer_depth_output": [1, 1, depth, depth],
        "transformer_depth_middle": out, "context_dim": context, "use_spatial_transformer": True, **more,
    }  # fmt: skip


def sd3(width: int = WIDTH, **more) -> dict:
    """Two blocks of joint attention."""
    embedder = {"target": "torch.nn.Linear", "params": {"in_features": width, "out_features": 128}}
    return {
        "in_channels": 16, "depth": 2, "patch_size": 2, "input_size": None, "adm_in_channels": width,
        "num_patches": 1024, "pos_embed_max_size": 32, "pos_embed_scaling_factor": None,
        "context_embedder_config": embedder, **more,
    }  # fmt: skip


def flux(**more) -> dict:
    """A Flux of two double and one single block."""
    return {
        "in_channels": 16, "out_channels": 16, "vec_in_dim": WIDTH, "context_in_dim": WIDTH, "hidden_size": 64,
        "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 1, "axes_dim": [4, 14, 14],
        "theta": 10000, "patch_size": 2, "qkv_bias": True, **more,
    }  # fmt: skip


LINEAR = {"use_linear_in_transformer": True, "model_channels": 64}  # heads are 64 wide in all but SD 1.x
SDXL = {**LINEAR, "num_classes": "sequential"}


def lumina(**more) -> dict:
    """Two layers of a single stream, a refiner for text and one for the picture."""
    return {
        "patch_size": 2, "in_channels": 16, "dim": 64, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 4,
        "multiple_of": 32, "qk_norm": True, "cap_feat_dim": WIDTH, "axes_lens": [300, 32, 32], **more,
    }  # fmt: skip


Extras = Callable[[Callable[..., torch.Tensor]], dict]


@dataclass(frozen=True)
class RandomModel:
    """One model: a class of the host's `supported_models` and its settings, and what a prompt of it is made of."""

    name: str
    config: str
    settings: dict
    width: int = WIDTH
    tokens: int = 7
    varies: bool = False  # the number of tokens with the text, as with language models for text encoders
    extras: Extras = field(default=lambda normal: {})
    v_prediction: bool = False
    learning_rate: float = 4e-3  # lower for the random models to which all prompts are nearly the same
    size: int = 64  # pixels; PixArt's code fails on less

    def prompt(self, text: str) -> list:
        """CONDITIONING for a text, random but always the same; longer for a longer text where the family allows it."""
        generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        tokens = self.tokens + (len(text) if self.varies else 0)
        return [[normal(1, tokens, self.width), self.extras(normal)]]

    def model(
        self, dtype: torch.dtype = torch.float32, seed: int = SEED, cast: torch.dtype | None = None,
        made_on: torch.device | None = None,
    ):  # fmt: skip
        """The host's MODEL, its weights in `dtype`; it computes in `cast`, if given.

        They are drawn on the CPU unless `made_on` names a quicker device, which draws others; then they lie in main
        memory, as a loader leaves them.
        """
        import comfy.model_management
        import comfy.model_patcher
        import comfy.supported_models

        settings = {**self.settings, **newer_settings(self.settings), "dtype": dtype}
        made = getattr(comfy.supported_models, self.config)(settings)
        made.set_inference_dtype(dtype, cast)
        hint = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.arange(9.0)} if self.v_prediction else {}
        model = made.get_model(hint, "", device=made_on).eval()
        fill(model.diffusion_model, seed)
        model.requires_grad_(False)
        device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
        return comfy.model_patcher.ModelPatcher(model.to(offload), load_device=device, offload_device=offload)


def newer_settings(settings: dict) -> dict:
    """What later hosts want to know of a Flux or a Chroma, and find out by themselves from a real checkpoint."""
    from comfy.ldm.flux.model import FluxParams

    kind = settings.get("image_model")
    if kind not in ("flux", "flux2", "chroma") or "txt_ids_dims" not in FluxParams.__dataclass_fields__:
        return {}
    return {"txt_ids_dims": [3] if kind == "flux2" else [], **({"vec_in_dim": None} if kind == "chroma" else {})}


@torch.no_grad()
def fill(model: torch.nn.Module, seed: int) -> None:
    """Random weights as large as training leaves them: the host's own layers begin with whatever memory held.

    Drawn on the device where they lie; each device draws other ones from a seed.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    for name, it in model.state_dict().items():
        normal = torch.randn(it.shape, generator=generator, device=device)
        if it.ndim > 1:
            it.copy_(normal / it[0].numel() ** 0.5)
        else:
            it.copy_((1.0 if "norm" in name and "bias" not in name else 0.0) + 0.1 * normal)


def pooled(width: int) -> Extras:
    """A prompt's second vector."""
    return lambda normal: {"pooled_output": normal(1, width)}


def no_pooled(normal) -> dict:
    """How the host says that a prompt has none."""
    return {"pooled_output": None}


TINY = (
    RandomModel("SD 1.x", "SD15", unet(1, 1, WIDTH)),
    RandomModel("SD 2.x", "SD20", unet(1, 1, WIDTH, **LINEAR)),
    RandomModel("SD 2.x, v", "SD20", unet(1, 1, WIDTH, **LINEAR), v_prediction=True),
    RandomModel("SDXL", "SDXL", unet(2, 2, WIDTH, adm_in_channels=1536 + WIDTH, **SDXL), extras=pooled(WIDTH)),
    RandomModel("SDXL refiner", "SDXLRefiner", unet(2, 2, WIDTH, adm_in_channels=1280 + WIDTH, **SDXL),
                extras=pooled(WIDTH)),
    RandomModel("SSD-1B", "SSD1B", unet(1, 0, WIDTH, adm_in_channels=1536 + WIDTH, **SDXL), extras=pooled(WIDTH)),
    RandomModel("SD3", "SD3", sd3(qkv_bias=True), extras=pooled(WIDTH)),
    RandomModel("SD3.5", "SD3", sd3(qk_norm="rms", x_block_self_attn_layers=[0]), extras=pooled(WIDTH)),
    RandomModel("Flux dev", "Flux", flux(guidance_embed=True, image_model="flux"), extras=pooled(WIDTH)),
    RandomModel("Flux schnell", "FluxSchnell", flux(guidance_embed=False, image_model="flux"), extras=pooled(WIDTH)),
    RandomModel("Flux 2", "Flux2", flux(guidance_embed=True, image_model="flux2", in_channels=128, out_channels=128,
                                 vec_in_dim=None, axes_dim=[8, 8, 8, 8], theta=2000, patch_size=1, qkv_bias=False,
                                 global_modulation=True, mlp_silu_act=True, ops_bias=False),
         extras=no_pooled, learning_rate=1e-4),
    RandomModel("Chroma", "Chroma", {
        **{key: value for key, value in flux(image_model="chroma", in_channels=64, out_channels=64).items()
           if key != "vec_in_dim"}, "in_dim": 64, "out_dim": 64, "hidden_dim": 64, "n_layers": 2,
    }, extras=no_pooled),
    RandomModel("AuraFlow", "AuraFlow", {"dim": 128, "n_layers": 3, "n_double_layers": 2, "n_heads": 2,
                                         "global_conddim": 128, "cond_seq_dim": WIDTH, "max_seq": 256}),
    RandomModel("PixArt alpha", "PixArtAlpha", {
        "image_model": "pixart_alpha", "input_size": 64, "hidden_size": 72, "depth": 2, "num_heads": 2,
        "caption_channels": WIDTH, "model_max_length": 7, "micro_condition": True, "pe_interpolation": 1,
    }, extras=lambda normal: {"width": 64, "height": 64}, size=320),
    RandomModel("PixArt sigma", "PixArtSigma", {
        "image_model": "pixart_sigma", "input_size": 64, "hidden_size": 72, "depth": 2, "num_heads": 2,
        "caption_channels": WIDTH, "model_max_length": 7, "micro_condition": False, "pe_interpolation": 1,
    }, size=320),
    RandomModel("Hunyuan-DiT", "HunyuanDiT", {
        "image_model": "hydit", "depth": 4, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2.0,
        "text_states_dim": WIDTH, "text_states_dim_t5": WIDTH, "text_len": 7, "text_len_t5": 9,
    }, extras=lambda normal: {"conditioning_mt5xl": normal(1, 9, WIDTH), "attention_mask": torch.ones(1, 7),
                              "attention_mask_mt5xl": torch.ones(1, 9)}),
    RandomModel("Lumina 2", "Lumina2", lumina(image_model="lumina2", n_kv_heads=2, axes_dims=[4, 6, 6]), varies=True),
    RandomModel("Z-Image", "ZImage", lumina(image_model="lumina2", dim=256, n_kv_heads=4, axes_dims=[16, 24, 24],
                                     rope_theta=256.0, z_image_modulation=True, time_scale=1000.0,
                                     pad_tokens_multiple=32), varies=True, learning_rate=2e-4),
    RandomModel("Qwen-Image", "QwenImage", {
        "image_model": "qwen_image", "num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2,
        "joint_attention_dim": WIDTH, "axes_dims_rope": (8, 12, 12),
    }, varies=True),
    RandomModel("HiDream", "HiDream", {
        "image_model": "hidream", "attention_head_dim": 32, "axes_dims_rope": [8, 12, 12],
        "caption_channels": [WIDTH, WIDTH], "max_resolution": [32, 32], "in_channels": 16, "llama_layers": [0, 1],
        "num_attention_heads": 2, "num_routed_experts": 2, "num_activated_experts": 1, "num_layers": 1,
        "num_single_layers": 1, "out_channels": 16, "patch_size": 2, "text_emb_dim": WIDTH,
    }, extras=lambda normal: {"pooled_output": normal(1, WIDTH), "conditioning_llama3": normal(1, 2, 7, WIDTH)}),
    RandomModel("Wan 2.1", "WAN21_T2V", {
        "image_model": "wan2.1", "model_type": "t2v", "dim": 64, "ffn_dim": 128, "freq_dim": 64, "text_dim": WIDTH,
        "num_heads": 2, "num_layers": 2, "text_len": 16,
    }),
    RandomModel("Cosmos-Predict2", "CosmosT2IPredict2", {
        "image_model": "cosmos_predict2", "max_img_h": 32, "max_img_w": 32, "max_frames": 4, "in_channels": 16,
        "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 64, "num_blocks": 2,
        "num_heads": 2, "crossattn_emb_channels": WIDTH, "pos_emb_cls": "rope3d", "pos_emb_learnable": True,
        "use_adaln_lora": True, "adaln_lora_dim": 16,
    }),
)  # fmt: skip
"""Of each family the members that differ for us: in where text enters, in prediction, in guidance."""
