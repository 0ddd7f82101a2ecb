"""A loaded model, asked for predictions outside of any sampler."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch

from .attached import detached
from .autograd import differentiable
from .conditioning import Conditioning
from .layers import base_model
from .memory import OutOfMemory, empty_cache

LOGGER = logging.getLogger("unguide")


class LiveModel:
    """A loaded model and a set of encoded prompts, during one `session`.

    `repeatable`: the same computation gives the same result each time, gradients included.
    """

    def __init__(self, guider, model_options: dict, device: torch.device, repeatable: bool):
        self.device, self.repeatable = device, repeatable
        self.diffusion_model = guider.inner_model.diffusion_model
        self.dtype = guider.inner_model.manual_cast_dtype or guider.inner_model.get_dtype()
        self.latent_format = guider.inner_model.latent_format
        self._model = guider.inner_model
        self._prompts = guider.conds
        self._options = model_options

    def denoised(self, x: torch.Tensor, sigma: float, *prompts: str) -> list[torch.Tensor]:
        """The x0 prediction of latents x [B, ...] at noise level sigma, for each prompt, without guidance."""
        conds = [self._prompts[prompt] for prompt in prompts]
        return comfy.samplers.calc_cond_batch(self._model, conds, x, x.new_full((x.shape[0],), sigma), self._options)

    def row_predictions(
        self, x: torch.Tensor, sigmas: torch.Tensor, prompts: Sequence[str], at_once: int = 1 << 30
    ) -> torch.Tensor:
        """`e` of every row of x [N, ...] at its own noise level [N] and under its own prompt, one evaluation each.

        No more than `at_once` rows share a forward, and only those whose encoded prompts have the same shapes.
        """
        alike: dict[tuple, list[int]] = {}
        for row, prompt in enumerate(prompts):
            alike.setdefault(_shapes(self._prompts[prompt][0]), []).append(row)
        denoised: list = [None] * len(prompts)
        for its in alike.values():
            for start in range(0, len(its), at_once):
                rows = its[start : start + at_once]
                for row, it in zip(rows, self._denoised_rows(x, sigmas, prompts, rows), strict=True):
                    denoised[row] = it
        return (x - torch.stack(denoised)) / sigmas.view(-1, *[1] * (x.ndim - 1))

    def _denoised_rows(self, x: torch.Tensor, sigmas: torch.Tensor, prompts: Sequence[str], rows: list[int]):
        """x0 of these rows in one forward; in more, where that is too much for the memory and no gradient is wanted."""
        cond = self._joint([self._prompts[prompts[row]][0] for row in rows])
        try:
            return comfy.samplers.calc_cond_batch(self._model, [[cond]], x[rows], sigmas[rows], self._options)[0]
        except OutOfMemory:
            if len(rows) == 1 or torch.is_grad_enabled():
                raise
        empty_cache()
        halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        return torch.cat([self._denoised_rows(x, sigmas, prompts, half) for half in halves])

    @staticmethod
    def _joint(conds: list[dict]) -> dict:
        """Encoded prompts as one whose rows they are."""
        first, *others = (cond["model_conds"] for cond in conds)
        joint = {name: it._copy_with(it.concat([other[name] for other in others])) for name, it in first.items()}
        return {**conds[0], "model_conds": joint}

    def predictions(self, x: torch.Tensor, sigma: float, *prompts: str) -> list[torch.Tensor]:
        """`e = (x - x0) / sigma` for each prompt: the noise for eps and v models, the velocity for flow models."""
        return [(x - denoised) / sigma for denoised in self.denoised(x, sigma, *prompts)]

    def ddim_sigmas(self, steps: int) -> list[float]:
        """The noise levels of a DDIM run, `steps` + 1 values, the last one 0."""
        return comfy.samplers.calculate_sigmas(self._model.model_sampling, "ddim_uniform", steps).tolist()

    def first_latents(self, sigma: float, noise: torch.Tensor) -> torch.Tensor:
        """Pure noise [B, ...] scaled to the first noise level of a run, on the model's device."""
        noise = noise.to(self.device)
        return self._model.model_sampling.noise_scaling(
            torch.tensor([sigma], device=self.device), noise, torch.zeros_like(noise), True
        )


def _shapes(cond: dict) -> tuple:
    """Equal for encoded prompts that can be rows of one."""
    return tuple(
        (name, tuple(it.cond.shape) if isinstance(it.cond, torch.Tensor) else str(it.cond))
        for name, it in sorted(cond["model_conds"].items())
    )


class _Session(comfy.samplers.Sampler):
    """A 'sampler' that hands the loaded model to a function instead of sampling."""

    def __init__(self, body: Callable[[LiveModel], object], trainable: bool, repeatable: bool):
        self.body, self.trainable, self.repeatable, self.result = body, trainable, repeatable, None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs):
        options = extra_args["model_options"]
        options.pop("multigpu_clones", None)  # newer hosts: the copies on other devices are not ours to change
        with differentiable(model_wrap, options, self.repeatable) if self.trainable else nullcontext():
            self.result = self.body(LiveModel(model_wrap, options, noise.device, self.repeatable))
        return noise


def session(model, prompts: Mapping[str, Conditioning], latent: torch.Tensor, body, *, trainable=False):
    """Load MODEL as for sampling latents [B, ...], with `prompts` by name, and return `body(LiveModel)`.

    The host makes room, patches weights and cleans up just as for a KSampler. `trainable` makes the model, for the
    body, one that gradients may pass through, with the same result each time: where torch has no such kernels for the
    model, the body is begun a second time without that (see `LiveModel.repeatable`). Its own weights stay fixed.
    """
    try:
        return _in_the_host(model, prompts, latent, _Session(body, trainable, repeatable=True))
    except RuntimeError as error:
        if not trainable or "deterministic" not in str(error):
            raise
        LOGGER.warning("%s cannot be trained on repeatably on this device: %s", base_model(model), error)
        return _in_the_host(model, prompts, latent, _Session(body, trainable, repeatable=False))


def _in_the_host(model, prompts: Mapping[str, Conditioning], latent: torch.Tensor, run: _Session):
    model = detached(model)  # the base is looked at and trained on, whatever UnGuidance hangs on it
    guider = comfy.samplers.CFGGuider(_as_a_whole(model) if run.trainable else model)
    guider.inner_set_conds(prompts)
    latent = torch.zeros(latent.shape)
    with torch.no_grad():
        try:
            guider.sample(latent, latent, run, torch.tensor([1.0, 0.0]), disable_pbar=True)
        except RuntimeError as error:
            if "autograd formula" not in str(error):
                raise
            raise ValueError(
                f"{base_model(model)} cannot be trained on in this ComfyUI, which computes it with kernels that "
                f"gradients do not pass through ({error}): train in another version (docs/hosts.md). The LoRA will "
                f"work in both."
            ) from error
    return run.result


def _as_a_whole(model):
    """MODEL, or a copy without what newer hosts call dynamic VRAM: weights that come and go as gradients need them."""
    if not getattr(model, "is_dynamic", bool)():
        return model
    try:
        return model.clone(disable_dynamic=True)
    except RuntimeError as error:
        raise ValueError(
            f"This model cannot be trained on while ComfyUI streams its weights ({error}): load it with ComfyUI's own "
            f"loader, or start ComfyUI with --disable-dynamic-vram."
        ) from error


def empty_latent(model, width: int, height: int, batch: int = 1) -> torch.Tensor:
    """Zeros of the model's latent shape for a picture of width x height pixels.

    Raises ValueError for a size that is not made of whole latent pixels.
    """
    by = _pixels_a_side(model)
    for side, pixels in (("width", width), ("height", height)):
        if pixels < by or pixels % by:
            raise ValueError(f"`{side}` is {pixels}: use a multiple of {by}, best the model's native size.")
    latent = torch.zeros(batch, 4, height // by, width // by)
    return comfy.sample.fix_empty_latent_channels(model, latent)


def pixels(model, latents: torch.Tensor) -> tuple[int, int]:
    """Width and height of the pictures of MODEL's latents [..., H, W]."""
    height, width = latents.shape[-2:]
    by = _pixels_a_side(model)
    return by * width, by * height


def _pixels_a_side(model) -> int:
    """How many pixels wide a latent one is. Newer hosts say it themselves."""
    latent_format = model.get_model_object("latent_format")
    known = {"Flux2": 16, "Wan22": 16, "HunyuanImage21": 32, "ChromaRadiance": 1}
    return getattr(latent_format, "spacial_downscale_ratio", known.get(type(latent_format).__name__, 8))


def noise_like(latent: torch.Tensor, seed: int) -> torch.Tensor:
    """The noise a KSampler with this seed starts a latent from: the same picture, to the bit."""
    return comfy.sample.prepare_noise(latent, seed)
