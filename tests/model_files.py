"""Small models and LoRAs as files, and the host's own nodes that load them."""

from pathlib import Path

import folder_paths
import nodes
import torch
from safetensors.torch import save_file
from unguide.unguide_ops import host

from dev.families.checkpoints import SMALL_FILES, save_diffusion_model

SD1, SD3, WAN = SMALL_FILES
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}
STRENGTH = 0.5  # of the LoRA


def models(kind):
    """The host's folder for them."""
    folder = Path(folder_paths.get_folder_paths(kind)[0])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def load(tiny, precision="fp32", weight_dtype="default"):
    """A MODEL, a new one each time, from a file in this precision."""
    path = models("diffusion_models") / f"{tiny.name} {precision}.safetensors"
    if not path.exists():
        save_diffusion_model(tiny, path, PRECISIONS[precision])
    return nodes.UNETLoader().load_unet(path.name, weight_dtype)[0]


def lora_changes():
    """What a LoRA, not one of ours, does to SD3's attention, by layer: (down, up)."""
    generator = torch.Generator().manual_seed(2)
    return {
        name: tuple(torch.randn(shape, generator=generator) / shape[1] ** 0.5
                    for shape in ((2, it.in_features), (it.out_features, 2)))
        for name, it in host.diffusion_model(SD3.model()).named_modules()
        if isinstance(it, torch.nn.Linear) and name.endswith("attn.qkv")
    }  # fmt: skip


def save_lora(path):
    """The same as a file."""
    save_file({f"diffusion_model.{name}.lora_{part}.weight": it for name, pair in lora_changes().items()
               for part, it in zip(("down", "up"), pair, strict=True)}, path)  # fmt: skip


def behind_a_lora(model):
    """A SD3's MODEL behind it."""
    path = models("loras") / "not ours.safetensors"
    if not path.exists():
        save_lora(path)
    return nodes.LoraLoaderModelOnly().load_lora_model_only(model, path.name, STRENGTH)[0]
