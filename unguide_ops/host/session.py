"""Runs a function on a loaded model, without a sampler: for training and for measurements."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch

from .attachments import detached
from .autograd import differentiable
from .layers import base_model
from .memory import OutOfMemory, empty_cache
from .types import Conditioning, Model

LOGGER = logging.getLogger("unguide")
Result = TypeVar("Result")


class LiveModel:
    """A model that the host has loaded, with encoded prompts by name; valid during one `session`.

    `repeatable`: equal computations give equal results, gradients included.
    """

    def __init__(self, guider: Any, model_options: dict, device: torch.device, repeatable: bool):
        self.device, self.repeatable = device, repeatable
        self.diffusion_model = guider.inner_model.diffusion_model
        self.dtype = guider.inner_model.manual_cast_dtype or guider.inner_model.get_dtype()
        self.latent_format = guider.inner_model.latent_format
        self._model = guider.inner_model
        self._prompts = guider.conds
        self._options = model_options

    def denoised(self, x: torch.Tensor, sigma: float, *prompts: str) -> list[torch.Tensor]:
        """x0 predicted from latents x [B, ...] at noise level sigma under each prompt, without guidance."""
        conds = [self._prompts[prompt] for prompt in prompts]
        return comfy.samplers.calc_cond_batch(self._model, conds, x, x.new_full((x.shape[0],), sigma), self._options)

    def row_predictions(
        self, x: torch.Tensor, sigmas: torch.Tensor, prompts: Sequence[str], max_rows: int = 1 << 30
    ) -> torch.Tensor:
        """`e` (see `predictions`) of each row of x [N, ...] at its own noise level [N] and under its own prompt.

        A row costs one model call. At most `max_rows` rows share a forward, and only if the shapes of their encoded
        prompts are equal.
        """
        groups: dict[tuple, list[int]] = {}
        for row, prompt in enumerate(prompts):
            groups.setdefault(_shapes(self._prompts[prompt][0]), []).append(row)
        denoised: list = [None] * len(prompts)
        for group in groups.values():
            for start in range(0, len(group), max_rows):
                rows = group[start : start + max_rows]
                for row, x0 in zip(rows, self._denoised_rows(x, sigmas, prompts, rows), strict=True):
                    denoised[row] = x0
        return (x - torch.stack(denoised)) / sigmas.view(-1, *[1] * (x.ndim - 1))

    def _denoised_rows(
        self, x: torch.Tensor, sigmas: torch.Tensor, prompts: Sequence[str], rows: list[int]
    ) -> torch.Tensor:
        """x0 of some rows in one forward, or in several if memory runs out and no gradient is needed."""
        cond = self._joined([self._prompts[prompts[row]][0] for row in rows])
        try:
            return comfy.samplers.calc_cond_batch(self._model, [[cond]], x[rows], sigmas[rows], self._options)[0]
        except OutOfMemory:
            if len(rows) == 1 or torch.is_grad_enabled():
                raise
        empty_cache()
        halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        return torch.cat([self._denoised_rows(x, sigmas, prompts, half) for half in halves])

    @staticmethod
    def _joined(entries: list[dict]) -> dict:
        """One cond entry whose rows are the encoded prompts of several."""
        first, *others = (entry["model_conds"] for entry in entries)
        joined = {name: cond._copy_with(cond.concat([it[name] for it in others])) for name, cond in first.items()}
        return {**entries[0], "model_conds": joined}

    def predictions(self, x: torch.Tensor, sigma: float, *prompts: str) -> list[torch.Tensor]:
        """`e = (x - x0) / sigma` under each prompt: the noise for eps and v models, the velocity for flow models."""
        return [(x - denoised) / sigma for denoised in self.denoised(x, sigma, *prompts)]

    def ddim_sigmas(self, steps: int) -> list[float]:
        """The noise levels of a DDIM run of this number of steps: `steps` + 1 values, of which the last is 0."""
        return comfy.samplers.calculate_sigmas(self._model.model_sampling, "ddim_uniform", steps).tolist()

    def first_latents(self, sigma: float, noise: torch.Tensor) -> torch.Tensor:
        """The latents that a run starts from: noise [B, ...] scaled to its first noise level, on the model's device."""
        noise = noise.to(self.device)
        return self._model.model_sampling.noise_scaling(
            torch.tensor([sigma], device=self.device), noise, torch.zeros_like(noise), True
        )


def _shapes(entry: dict) -> tuple:
    """What must be equal in two cond entries for their prompts to share a forward."""
    return tuple(
        (name, tuple(cond.cond.shape) if isinstance(cond.cond, torch.Tensor) else str(cond.cond))
        for name, cond in sorted(entry["model_conds"].items())
    )


class _BodySampler(comfy.samplers.Sampler):
    """A sampler that calls a function with the loaded model, and returns the noise as it is."""

    def __init__(self, body: Callable[[LiveModel], Any], trainable: bool, repeatable: bool):
        self.body, self.trainable, self.repeatable = body, trainable, repeatable
        self.result: Any = None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs):
        options = extra_args["model_options"]
        options.pop("multigpu_clones", None)  # newer hosts: copies on other devices, which no adapter is attached to
        with differentiable(model_wrap, options, self.repeatable) if self.trainable else nullcontext():
            self.result = self.body(LiveModel(model_wrap, options, noise.device, self.repeatable))
        return noise


def session(
    model: Model,
    prompts: Mapping[str, Conditioning],
    latent: torch.Tensor,
    body: Callable[[LiveModel], Result],
    *,
    trainable: bool = False,
) -> Result:
    """Load MODEL as for sampling latents [B, ...] under these prompts, call `body(LiveModel)`, and return its result.

    As for a KSampler, the host frees memory, patches weights, and cleans up at the end. `trainable`: gradients can pass
    through the model, while its own weights stay fixed. Such a body is called with repeatable kernels (see
    `LiveModel.repeatable`), and from the beginning again without them if torch lacks one that the model needs.
    """
    try:
        return _run_in_host(model, prompts, latent, _BodySampler(body, trainable, repeatable=True))
    except RuntimeError as error:
        if not trainable or "deterministic" not in str(error):
            raise
        LOGGER.warning("%s cannot be trained on repeatably on this device: %s", base_model(model), error)
        return _run_in_host(model, prompts, latent, _BodySampler(body, trainable, repeatable=False))


def _run_in_host(model: Model, prompts: Mapping[str, Conditioning], latent: torch.Tensor, sampler: _BodySampler) -> Any:
    model = detached(model)  # the base model is measured and trained on, even if UnGuidance is attached
    guider = comfy.samplers.CFGGuider(_without_dynamic_vram(model) if sampler.trainable else model)
    guider.inner_set_conds(prompts)
    latent = torch.zeros(latent.shape)
    with torch.no_grad():
        try:
            guider.sample(latent, latent, sampler, torch.tensor([1.0, 0.0]), disable_pbar=True)
        except RuntimeError as error:
            if "autograd formula" not in str(error):
                raise
            raise ValueError(
                f"{base_model(model)} cannot be trained on in this ComfyUI, which computes it with kernels that "
                f"gradients do not pass through ({error}): train in another version (docs/hosts.md). The LoRA will "
                f"work in both."
            ) from error
    return sampler.result


def _without_dynamic_vram(model: Model) -> Model:
    """MODEL, or a copy of it for which newer hosts do not stream the weights (dynamic VRAM): gradients need them all.

    Raises ValueError if the host cannot make such a copy.
    """
    if not getattr(model, "is_dynamic", bool)():
        return model
    try:
        return model.clone(disable_dynamic=True)
    except RuntimeError as error:
        raise ValueError(
            f"This model cannot be trained on while ComfyUI streams its weights ({error}): load it with ComfyUI's own "
            f"loader, or start ComfyUI with --disable-dynamic-vram."
        ) from error


def empty_latent(model: Model, width: int, height: int, batch: int = 1) -> torch.Tensor:
    """Zeros of the model's latent shape for pictures of width x height pixels.

    Raises ValueError if a side is not a multiple of a latent pixel.
    """
    scale = _latent_scale(model)
    for side, length in (("width", width), ("height", height)):
        if length < scale or length % scale:
            raise ValueError(f"`{side}` is {length}: use a multiple of {scale}, best the model's native size.")
    latent = torch.zeros(batch, 4, height // scale, width // scale)
    return comfy.sample.fix_empty_latent_channels(model, latent)


def pixels(model: Model, latents: torch.Tensor) -> tuple[int, int]:
    """Width and height in pixels of the pictures of MODEL's latents [..., H, W]."""
    height, width = latents.shape[-2:]
    scale = _latent_scale(model)
    return scale * width, scale * height


def _latent_scale(model: Model) -> int:
    """The number of picture pixels along a side of a latent pixel. Older hosts do not tell, so that they are listed."""
    latent_format = model.get_model_object("latent_format")
    listed = {"Flux2": 16, "Wan22": 16, "HunyuanImage21": 32, "ChromaRadiance": 1}
    return getattr(latent_format, "spacial_downscale_ratio", listed.get(type(latent_format).__name__, 8))


def noise_like(latent: torch.Tensor, seed: int) -> torch.Tensor:
    """The noise that a KSampler with this seed adds to such a latent, bit for bit."""
    return comfy.sample.prepare_noise(latent, seed)
