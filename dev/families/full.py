"""Models of random weights in the size in use, to measure time and memory, not pictures."""

from __future__ import annotations

from dev.families.random_model import RandomModel, pooled
from dev.families.tiny import flux

SD15 = RandomModel("SD 1.5", "SD15", {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": 768,
    "use_spatial_transformer": True, "legacy": False,
}, width=768, tokens=77, size=512)  # fmt: skip

SDXL = RandomModel("SDXL", "SDXL", {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048, "adm_in_channels": 2816,
    "num_classes": "sequential", "use_linear_in_transformer": True, "use_spatial_transformer": True, "legacy": False,
}, width=2048, tokens=77, extras=pooled(1280), size=1024)  # fmt: skip

FLUX_DEV = RandomModel("Flux dev", "Flux", flux(
    image_model="flux", guidance_embed=True, vec_in_dim=768, context_in_dim=4096, hidden_size=3072, num_heads=24,
    depth=19, depth_single_blocks=38, axes_dim=[16, 56, 56],
), width=4096, tokens=256, extras=pooled(768), size=1024)  # fmt: skip
