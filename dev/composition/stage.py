"""What a combination is tried on: two models of the same weights, the LoRA merged into one of them, and a scene."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import comfy.controlnet
import comfy.sample
import comfy.samplers
import comfy.sd
import torch

from dev.bench.two_copies import merge
from dev.composition.control_nets import control_net_of

CAT, DOG, HOUSE = "a photo of the cat", "a photo of the dog", "a photo of the house"
SEED, CFG, SIDE = 3, 7.5, 8  # of a latent
STYLED = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


class Stage:
    """The embedded model, and a LoRA that forgets the cat, with its gate."""

    def __init__(self, load: Callable[[], tuple], lora):
        """`load()`: MODEL, CLIP, VAE, new ones each time."""
        self._load, self.lora = load, lora
        self.model, self.clip, self.vae = load()

    @functools.cached_property
    def merged(self):
        """The LoRA merged into a copy."""
        return merge(self._load()[0], self.lora)

    def merged_behind(self, patch: Callable):
        """The LoRA merged into a copy that `patch` has changed the weights of."""
        return merge(patch(self._load()[0]), self.lora)

    @functools.cached_property
    def other(self):
        """A model of other weights."""
        other = self._load()[0]
        for weight in other.model.diffusion_model.parameters():
            weight.data = weight.data * 0.98
        return other

    @functools.cache  # noqa: B019 - a stage lives as long as its process
    def encode(self, *prompts: str):
        """CONDITIONING, one prompt a picture."""
        from unguide.unguide_ops import host

        texts = [host.encode(self.clip, it)[0] for it in prompts]
        return [[torch.cat([it[0] for it in texts]), dict(texts[0][1])]]

    def control_net(self):
        """A new ControlNet with weights that are always the same."""
        return comfy.controlnet.ControlNet(control_net_of(self.model), load_device=self.model.load_device)

    @functools.cached_property
    def style(self) -> dict[str, torch.Tensor]:
        """A LoRA of somebody else's, as in a file."""
        generator = torch.Generator().manual_seed(5)
        linear = next(
            it for path, it in self.model.model.diffusion_model.named_modules() if path.endswith("attn2.to_k")
        )
        return {
            f"{STYLED}.lora_down.weight": torch.randn(2, linear.in_features, generator=generator),
            f"{STYLED}.lora_up.weight": 0.2 * torch.randn(linear.out_features, 2, generator=generator),
        }

    @functools.cached_property
    def image(self) -> torch.Tensor:
        """An IMAGE."""
        return torch.rand(1, 8 * SIDE, 8 * SIDE, 3, generator=torch.Generator().manual_seed(4))

    @functools.cached_property
    def mask(self) -> torch.Tensor:
        """A MASK of all but a strip."""
        mask = torch.ones(1, 8 * SIDE, 8 * SIDE)
        mask[:, :, : 2 * SIDE] = 0.0
        return mask


class Scene:
    """Everything that is given to a sampler; a combination changes something of it."""

    def __init__(self, stage: Stage, prompts: Sequence[str], steps: int):
        self.stage, self.prompts, self.steps = stage, tuple(prompts), steps
        self.positive, self.negative = stage.encode(*prompts), stage.encode("")
        self.latent = torch.zeros(len(prompts), stage.model.model.latent_format.latent_channels, SIDE, SIDE)
        self.denoise_mask: torch.Tensor | None = None
        self.sampler: Any = comfy.samplers.sampler_object("euler")
        self.sigmas: torch.Tensor | None = None  # or those of the MODEL
        self.guider: Callable[[Any], Any] = self.cfg_guider
        self.run: Callable[[Any], torch.Tensor] = self.sample
        self.around: Callable[[Any], AbstractContextManager] = lambda model: nullcontext()

    def cfg_guider(self, model):
        """The host's own."""
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(self.positive, self.negative)
        guider.set_cfg(CFG)
        return guider

    def sigmas_of(self, model) -> torch.Tensor:
        """The noise levels of the run."""
        if self.sigmas is not None:
            return self.sigmas
        return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", self.steps)

    def sample(self, model) -> torch.Tensor:
        """A run, from noise."""
        noise = comfy.sample.prepare_noise(self.latent, SEED)
        return self.sample_from(model, noise, self.latent, self.sigmas_of(model))

    def sample_from(self, model, noise: torch.Tensor, latent: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        """A run from here on."""
        return self.guider(model).sample(
            noise, latent, self.sampler, sigmas, denoise_mask=self.denoise_mask, disable_pbar=True, seed=SEED
        )

    def draw(self, model) -> torch.Tensor:
        """Latents [B, C, H, W]."""
        torch.manual_seed(SEED)
        with self.around(model):
            return self.run(model)


@contextmanager
def replaced(its: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Attributes (holder, name, value) set for a while, on instances."""
    before = [(holder, name, vars(holder).get(name)) for holder, name, _ in its]
    for holder, name, value in its:
        setattr(holder, name, value)
    try:
        yield
    finally:
        for holder, name, value in before:
            if value is None:
                delattr(holder, name)
            else:
                setattr(holder, name, value)
