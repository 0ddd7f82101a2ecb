"""What imitations act on: models, LoRAs and images (`Assets`), and one run of a sampler (`Sampling`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import comfy.sample
import comfy.samplers
import torch
from unguide.demo_model.loader import load_demo_model
from unguide.unguide_ops import host

from dev.bench.reference import merge

CAT, DOG, HOUSE = "a photo of the cat", "a photo of the dog", "a photo of the house"
SEED, CFG = 3, 7.5
SIDE = 8  # of a latent; 8 times as many pixels
STYLED_LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def control_net_of(model):
    """A ControlNet for MODEL with small random weights, always the same, as a torch module."""
    config = {key: value for key, value in model.model.model_config.unet_config.items() if key != "out_channels"}
    network = comfy.cldm.cldm.ControlNet(hint_channels=3, operations=comfy.ops.disable_weight_init, **config)
    generator = torch.Generator().manual_seed(2)
    weights = {name: 0.05 * torch.randn(w.shape, generator=generator) for name, w in network.state_dict().items()}
    network.load_state_dict(weights)
    return network.eval()


class Assets:
    """The embedded model, a LoRA that erases the cat, and what nodes take beside them, made when it is first needed."""

    def __init__(self, lora):
        self.lora = lora
        self.model, self.clip, self.vae = load_demo_model()

    @functools.cached_property
    def merged(self):
        """A copy of the MODEL with the LoRA merged into its weights."""
        return merge(load_demo_model()[0], self.lora)

    @functools.cached_property
    def second_model(self):
        """A MODEL with other weights."""
        second = load_demo_model()[0]
        for weight in second.model.diffusion_model.parameters():
            weight.data = weight.data * 0.98
        return second

    @functools.cache  # noqa: B019 - lives as long as its process
    def encode(self, *prompts: str):
        """CONDITIONING for a batch, one prompt a picture."""
        texts = [host.encode(self.clip, prompt)[0] for prompt in prompts]
        return [[torch.cat([text[0] for text in texts]), dict(texts[0][1])]]

    def control_net(self):
        """A new CONTROL_NET, always with the same weights."""
        return comfy.controlnet.ControlNet(control_net_of(self.model), load_device=self.model.load_device)

    @functools.cached_property
    def style_lora(self) -> dict[str, torch.Tensor]:
        """The contents of another LoRA's file, of one layer."""
        generator = torch.Generator().manual_seed(5)
        modules = self.model.model.diffusion_model.named_modules()
        layer = next(module for path, module in modules if path.endswith("attn2.to_k"))
        return {
            f"{STYLED_LAYER}.lora_down.weight": torch.randn(2, layer.in_features, generator=generator),
            f"{STYLED_LAYER}.lora_up.weight": 0.2 * torch.randn(layer.out_features, 2, generator=generator),
        }

    @functools.cached_property
    def image(self) -> torch.Tensor:
        """A random IMAGE."""
        return torch.rand(1, 8 * SIDE, 8 * SIDE, 3, generator=torch.Generator().manual_seed(4))

    @functools.cached_property
    def mask(self) -> torch.Tensor:
        """A MASK of all but a strip at the left edge."""
        mask = torch.ones(1, 8 * SIDE, 8 * SIDE)
        mask[:, :, : 2 * SIDE] = 0.0
        return mask


class Sampling:
    """One run of a sampler, as by SamplerCustomAdvanced; an imitation changes some of its attributes."""

    def __init__(self, assets: Assets, prompts: Sequence[str], steps: int):
        self.assets, self.prompts, self.steps = assets, tuple(prompts), steps
        self.positive, self.negative = assets.encode(*prompts), assets.encode("")
        self.cfg = CFG
        self.latent = torch.zeros(len(prompts), assets.model.model.latent_format.latent_channels, SIDE, SIDE)
        self.denoise_mask: torch.Tensor | None = None
        self.sampler: Any = comfy.samplers.sampler_object("euler")
        self.sigmas: torch.Tensor | None = None  # default: those of the MODEL
        self.guider: Callable[[Any], Any] = self.cfg_guider  # MODEL -> a guider
        self.run: Callable[[Any], torch.Tensor] = self.sample  # MODEL -> latents
        self.around: Callable[[Any], AbstractContextManager] = lambda model: nullcontext()

    def cfg_guider(self, model):
        """ComfyUI's own guider."""
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(self.positive, self.negative)
        guider.set_cfg(self.cfg)
        return guider

    def sigmas_of(self, model) -> torch.Tensor:
        """The noise levels of the run."""
        if self.sigmas is not None:
            return self.sigmas
        return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", self.steps)

    def sample(self, model) -> torch.Tensor:
        """Latents by all noise levels, from fresh noise."""
        noise = comfy.sample.prepare_noise(self.latent, SEED)
        return self.sample_from(model, noise, self.latent, self.sigmas_of(model))

    def sample_from(self, model, noise: torch.Tensor, latent: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        """Latents by these noise levels, from `latent` with `noise` added."""
        return self.guider(model).sample(
            noise, latent, self.sampler, sigmas, denoise_mask=self.denoise_mask, disable_pbar=True, seed=SEED
        )

    def draw(self, model) -> torch.Tensor:
        """Latents [B, C, H, W] of the whole run."""
        torch.manual_seed(SEED)
        with self.around(model):
            return self.run(model)


@contextmanager
def replaced_attributes(replacements: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Sets attributes, (instance, name, value) each, until the context ends."""
    before = [(instance, name, vars(instance).get(name)) for instance, name, _ in replacements]
    for instance, name, value in replacements:
        setattr(instance, name, value)
    try:
        yield
    finally:
        for instance, name, value in before:
            if value is None:
                delattr(instance, name)
            else:
                setattr(instance, name, value)
