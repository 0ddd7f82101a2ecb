"""A model of random weights, of the host's own classes, with made-up prompts."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

WIDTH = 32  # of the text, unless the family's code has a width of its own
SEED = 0

Extras = Callable[[Callable[..., torch.Tensor]], dict]
"""(random tensor of a shape) -> what a prompt carries beside its tokens."""


@dataclass(frozen=True)
class RandomModel:
    """A class of the host's `supported_models`, its settings, and what a prompt of it is made of."""

    name: str
    config: str
    settings: dict
    width: int = WIDTH
    tokens: int = 7
    varies: bool = False  # whether the number of tokens depends on the text, as with language models
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

        The weights are drawn on the CPU, or on `made_on`, which may be quicker and draws others; then they lie in main
        memory, as a loader leaves them.
        """
        import comfy.model_management
        import comfy.model_patcher
        import comfy.supported_models

        settings = {**self.settings, **newer_settings(self.settings), "dtype": dtype}
        config = getattr(comfy.supported_models, self.config)(settings)
        config.set_inference_dtype(dtype, cast)
        hint = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.arange(9.0)} if self.v_prediction else {}
        model = config.get_model(hint, "", device=made_on).eval()
        fill(model.diffusion_model, seed)
        model.requires_grad_(False)
        device, offload = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
        return comfy.model_patcher.ModelPatcher(model.to(offload), load_device=device, offload_device=offload)


def newer_settings(settings: dict) -> dict:
    """Settings that newer hosts need for a Flux or a Chroma; from a real checkpoint they detect them."""
    from comfy.ldm.flux.model import FluxParams

    kind = settings.get("image_model")
    if kind not in ("flux", "flux2", "chroma") or "txt_ids_dims" not in FluxParams.__dataclass_fields__:
        return {}
    return {"txt_ids_dims": [3] if kind == "flux2" else [], **({"vec_in_dim": None} if kind == "chroma" else {})}


@torch.no_grad()
def fill(model: torch.nn.Module, seed: int) -> None:
    """Fill the model with random weights as large as training leaves them; the host does not initialise its layers.

    They are drawn on the device where they lie; each device draws others from the same seed.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    for name, weight in model.state_dict().items():
        normal = torch.randn(weight.shape, generator=generator, device=device)
        if weight.ndim > 1:
            weight.copy_(normal / weight[0].numel() ** 0.5)
        else:
            weight.copy_((1.0 if "norm" in name and "bias" not in name else 0.0) + 0.1 * normal)


def pooled(width: int) -> Extras:
    """The Extras of a prompt with a pooled vector of this width."""
    return lambda normal: {"pooled_output": normal(1, width)}
