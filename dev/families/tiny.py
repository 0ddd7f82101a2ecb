"""TINY: a model of every family, tiny, with random weights, for tests. Models of the size in use are in `full`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dev.families.random_model import WIDTH, RandomModel, pooled


def unet(depth: int, out: int, context: int, **settings) -> dict:
    """Settings of a Stable Diffusion UNet of two levels, with `depth` transformers in the lower one."""
    return {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
        "channel_mult": [1, 2], "transformer_depth": [1, depth], "transformer_depth_output": [1, 1, depth, depth],
        "transformer_depth_middle": out, "context_dim": context, "use_spatial_transformer": True, **settings,
    }  # fmt: skip


def sd3(width: int = WIDTH, **settings) -> dict:
    """Settings of an SD3 of two blocks."""
    embedder = {"target": "torch.nn.Linear", "params": {"in_features": width, "out_features": 128}}
    return {
        "in_channels": 16, "depth": 2, "patch_size": 2, "input_size": None, "adm_in_channels": width,
        "num_patches": 1024, "pos_embed_max_size": 32, "pos_embed_scaling_factor": None,
        "context_embedder_config": embedder, **settings,
    }  # fmt: skip


def flux(**settings) -> dict:
    """Settings of a Flux of two double blocks and a single one."""
    return {
        "in_channels": 16, "out_channels": 16, "vec_in_dim": WIDTH, "context_in_dim": WIDTH, "hidden_size": 64,
        "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 1, "axes_dim": [4, 14, 14],
        "theta": 10000, "patch_size": 2, "qkv_bias": True, **settings,
    }  # fmt: skip


LINEAR = {"use_linear_in_transformer": True, "model_channels": 64}  # heads are 64 wide in all but SD 1.x
SDXL = {**LINEAR, "num_classes": "sequential"}


def lumina(**settings) -> dict:
    """Settings of a Lumina of two layers, a refiner for text and one for the picture."""
    return {
        "patch_size": 2, "in_channels": 16, "dim": 64, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 4,
        "multiple_of": 32, "qk_norm": True, "cap_feat_dim": WIDTH, "axes_lens": [300, 32, 32], **settings,
    }  # fmt: skip


def no_pooled(normal) -> dict:
    """The Extras of a prompt without a pooled vector, as the host has them."""
    return {"pooled_output": None}


@dataclass(frozen=True)
class Tiny(RandomModel):
    """A model that trains in seconds on a CPU."""


TINY = (
    Tiny("SD 1.x", "SD15", unet(1, 1, WIDTH)),
    Tiny("SD 2.x", "SD20", unet(1, 1, WIDTH, **LINEAR)),
    Tiny("SD 2.x, v", "SD20", unet(1, 1, WIDTH, **LINEAR), v_prediction=True),
    Tiny("SDXL", "SDXL", unet(2, 2, WIDTH, adm_in_channels=1536 + WIDTH, **SDXL), extras=pooled(WIDTH)),
    Tiny("SDXL refiner", "SDXLRefiner", unet(2, 2, WIDTH, adm_in_channels=1280 + WIDTH, **SDXL),
                extras=pooled(WIDTH)),
    Tiny("SSD-1B", "SSD1B", unet(1, 0, WIDTH, adm_in_channels=1536 + WIDTH, **SDXL), extras=pooled(WIDTH)),
    Tiny("SD3", "SD3", sd3(qkv_bias=True), extras=pooled(WIDTH)),
    Tiny("SD3.5", "SD3", sd3(qk_norm="rms", x_block_self_attn_layers=[0]), extras=pooled(WIDTH)),
    Tiny("Flux dev", "Flux", flux(guidance_embed=True, image_model="flux"), extras=pooled(WIDTH)),
    Tiny("Flux schnell", "FluxSchnell", flux(guidance_embed=False, image_model="flux"), extras=pooled(WIDTH)),
    Tiny("Flux 2", "Flux2", flux(guidance_embed=True, image_model="flux2", in_channels=128, out_channels=128,
                                 vec_in_dim=None, axes_dim=[8, 8, 8, 8], theta=2000, patch_size=1, qkv_bias=False,
                                 global_modulation=True, mlp_silu_act=True, ops_bias=False),
         extras=no_pooled, learning_rate=1e-4),
    Tiny("Chroma", "Chroma", {
        **{key: value for key, value in flux(image_model="chroma", in_channels=64, out_channels=64).items()
           if key != "vec_in_dim"}, "in_dim": 64, "out_dim": 64, "hidden_dim": 64, "n_layers": 2,
    }, extras=no_pooled),
    Tiny("AuraFlow", "AuraFlow", {"dim": 128, "n_layers": 3, "n_double_layers": 2, "n_heads": 2,
                                         "global_conddim": 128, "cond_seq_dim": WIDTH, "max_seq": 256}),
    Tiny("PixArt alpha", "PixArtAlpha", {
        "image_model": "pixart_alpha", "input_size": 64, "hidden_size": 72, "depth": 2, "num_heads": 2,
        "caption_channels": WIDTH, "model_max_length": 7, "micro_condition": True, "pe_interpolation": 1,
    }, extras=lambda normal: {"width": 64, "height": 64}, size=320),
    Tiny("PixArt sigma", "PixArtSigma", {
        "image_model": "pixart_sigma", "input_size": 64, "hidden_size": 72, "depth": 2, "num_heads": 2,
        "caption_channels": WIDTH, "model_max_length": 7, "micro_condition": False, "pe_interpolation": 1,
    }, size=320),
    Tiny("Hunyuan-DiT", "HunyuanDiT", {
        "image_model": "hydit", "depth": 4, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2.0,
        "text_states_dim": WIDTH, "text_states_dim_t5": WIDTH, "text_len": 7, "text_len_t5": 9,
    }, extras=lambda normal: {"conditioning_mt5xl": normal(1, 9, WIDTH), "attention_mask": torch.ones(1, 7),
                              "attention_mask_mt5xl": torch.ones(1, 9)}),
    Tiny("Lumina 2", "Lumina2", lumina(image_model="lumina2", n_kv_heads=2, axes_dims=[4, 6, 6]), varies=True),
    Tiny("Z-Image", "ZImage", lumina(image_model="lumina2", dim=256, n_kv_heads=4, axes_dims=[16, 24, 24],
                                     rope_theta=256.0, z_image_modulation=True, time_scale=1000.0,
                                     pad_tokens_multiple=32), varies=True, learning_rate=2e-4),
    Tiny("Qwen-Image", "QwenImage", {
        "image_model": "qwen_image", "num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2,
        "joint_attention_dim": WIDTH, "axes_dims_rope": (8, 12, 12),
    }, varies=True),
    Tiny("HiDream", "HiDream", {
        "image_model": "hidream", "attention_head_dim": 32, "axes_dims_rope": [8, 12, 12],
        "caption_channels": [WIDTH, WIDTH], "max_resolution": [32, 32], "in_channels": 16, "llama_layers": [0, 1],
        "num_attention_heads": 2, "num_routed_experts": 2, "num_activated_experts": 1, "num_layers": 1,
        "num_single_layers": 1, "out_channels": 16, "patch_size": 2, "text_emb_dim": WIDTH,
    }, extras=lambda normal: {"pooled_output": normal(1, WIDTH), "conditioning_llama3": normal(1, 2, 7, WIDTH)}),
    Tiny("Wan 2.1", "WAN21_T2V", {
        "image_model": "wan2.1", "model_type": "t2v", "dim": 64, "ffn_dim": 128, "freq_dim": 64, "text_dim": WIDTH,
        "num_heads": 2, "num_layers": 2, "text_len": 16,
    }),
    Tiny("Cosmos-Predict2", "CosmosT2IPredict2", {
        "image_model": "cosmos_predict2", "max_img_h": 32, "max_img_w": 32, "max_frames": 4, "in_channels": 16,
        "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 64, "num_blocks": 2,
        "num_heads": 2, "crossattn_emb_channels": WIDTH, "pos_emb_cls": "rope3d", "pos_emb_learnable": True,
        "use_adaln_lora": True, "adaln_lora_dim": 16,
    }),
)  # fmt: skip
"""The members of each family that differ in where text enters, in prediction, or in guidance."""
