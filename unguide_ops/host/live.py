"""A loaded model, asked for predictions outside of any sampler."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch

from ..forwards import wrapped
from .conditioning import Conditioning
from .layers import base_model


class LiveModel:
    """A loaded model and a set of encoded prompts, during one `session`."""

    def __init__(self, guider, model_options: dict, device: torch.device):
        self.device = device
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
                cond = self._joint([self._prompts[prompts[row]][0] for row in rows])
                found = comfy.samplers.calc_cond_batch(self._model, [[cond]], x[rows], sigmas[rows], self._options)
                for row, it in zip(rows, found[0], strict=True):
                    denoised[row] = it
        return (x - torch.stack(denoised)) / sigmas.view(-1, *[1] * (x.ndim - 1))

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

    def __init__(self, body: Callable[[LiveModel], object], trainable: bool):
        self.body, self.trainable, self.result = body, trainable, None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs):
        options = extra_args["model_options"]
        options.pop("multigpu_clones", None)  # newer hosts: the copies on other devices are not ours to change
        live = LiveModel(model_wrap, options, noise.device)
        if self.trainable:
            _make_differentiable(model_wrap.inner_model, options)
            with _norms_that_keep_their_input(live.diffusion_model), _kernels_with_gradients():
                self.result = self.body(live)
        else:
            self.result = self.body(live)
        return noise


def session(model, prompts: Mapping[str, Conditioning], latent: torch.Tensor, body, *, trainable=False):
    """Load MODEL as for sampling latents [B, ...], with `prompts` by name, and return `body(LiveModel)`.

    The host makes room, patches weights and cleans up just as for a KSampler. `trainable` leaves inference mode and
    makes the model one that gradients may pass through; its own weights stay fixed.
    """
    with torch.inference_mode(torch.is_inference_mode_enabled() and not trainable):
        if trainable:
            prompts = {name: _without_inference_tensors(c) for name, c in prompts.items()}
        guider = comfy.samplers.CFGGuider(_as_a_whole(model) if trainable else model)
        guider.inner_set_conds(prompts)
        run = _Session(body, trainable)
        latent = torch.zeros(latent.shape)
        with torch.no_grad() if not trainable else torch.enable_grad():
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


@contextmanager
def _kernels_with_gradients() -> Iterator[None]:
    """Newer hosts have kernels that gradients cannot pass through, and leave them out while this is set."""
    before = getattr(comfy.model_management, "in_training", None)
    if before is None:  # none to leave out
        yield
        return
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


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


def _without_inference_tensors(conditioning: Conditioning) -> Conditioning:
    def plain(value):
        return value.clone() if isinstance(value, torch.Tensor) else value

    return [[plain(c), {key: plain(value) for key, value in extras.items()}] for c, extras in conditioning]


@contextmanager
def _norms_that_keep_their_input(diffusion_model: torch.nn.Module) -> Iterator[None]:
    """Flux and its kin add in place to what a norm has read, and its gradient needs: the norm gets a copy."""

    def copying(forward):
        return lambda x, *args, **kwargs: forward(x.clone() if torch.is_grad_enabled() else x, *args, **kwargs)

    modules = diffusion_model.modules() if hasattr(diffusion_model, "double_blocks") else ()
    with wrapped((it, copying) for it in modules if type(it).__name__.endswith("Norm")):
        yield


def _make_differentiable(model: torch.nn.Module, model_options: dict) -> None:
    """Replace inference tensors (autograd refuses them) by equal plain ones, and attention by torch's own."""
    for name in [name for name, _ in model.named_parameters()]:  # one after the other: never two copies of the model
        parameter = comfy.utils.get_attr(model, name)
        if parameter.is_inference() or parameter.requires_grad:
            comfy.utils.set_attr_param(model, name, parameter.detach().clone())
    for name in [name for name, _ in model.named_buffers()]:
        buffer = comfy.utils.get_attr(model, name)
        if buffer.is_inference():
            comfy.utils.set_attr(model, name, buffer.clone())

    def torch_attention(attention, *args, **kwargs):
        return sys.modules[attention.__module__].attention_pytorch(*args, **kwargs)

    model_options["transformer_options"]["optimized_attention_override"] = torch_attention
