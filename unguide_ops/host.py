"""The one module that knows ComfyUI's internals: prompts, live models, wrappers, progress, interrupt, folders."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import comfy.lora
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import folder_paths
import nodes
import torch
from comfy.patcher_extension import WrappersMP

KEY = "unguide"
Conditioning = list  # the host's CONDITIONING: [[cross-attention tensor [B, tokens, width], {"pooled_output": ...}]]


# --- prompts -------------------------------------------------------------------------------------------------------


def encode(clip, prompt: str) -> Conditioning:
    """A prompt as CONDITIONING, just as the host's CLIPTextEncode makes it."""
    if clip is None:
        raise ValueError("`clip` is missing: connect the CLIP output of the node that loads the checkpoint.")
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def stack(conditionings: list[Conditioning]) -> Conditioning:
    """One CONDITIONING whose rows are the given ones: a prompt for each row of a batch.

    Prompts of different length are repeated to a common one, as the host does in its own batches.
    """
    tensors = [c[0][0] for c in conditionings]
    tokens = math.lcm(*(t.shape[1] for t in tensors))
    rows = torch.cat([t.repeat(1, tokens // t.shape[1], 1) for t in tensors])
    extras = dict(conditionings[0][0][1])
    pooled = [c[0][1].get("pooled_output") for c in conditionings]
    if all(p is not None for p in pooled):
        extras["pooled_output"] = torch.cat(pooled)
    return [[rows, extras]]


def pack_conditioning(conditioning: Conditioning) -> dict[str, torch.Tensor]:
    """The tensors of a prompt, in half precision, for keeping in a file."""
    cross_attn, extras = conditioning[0]
    tensors = {"cross_attn": cross_attn, "pooled_output": extras.get("pooled_output")}
    return {key: value.half().cpu() for key, value in tensors.items() if value is not None}


def unpack_conditioning(tensors: Mapping[str, torch.Tensor]) -> Conditioning:
    """The inverse of `pack_conditioning`."""
    rest = {key: value.float() for key, value in tensors.items() if key != "cross_attn"}
    return [[tensors["cross_attn"].float(), rest]]


# --- a live model --------------------------------------------------------------------------------------------------


class LiveModel:
    """A loaded model and a set of encoded prompts, during one `session`."""

    def __init__(self, guider, model_options: dict, device: torch.device):
        self.device = device
        self.diffusion_model = guider.inner_model.diffusion_model
        self._model = guider.inner_model
        self._prompts = guider.conds
        self._options = model_options

    def denoised(self, x: torch.Tensor, sigma: float, *prompts: str) -> list[torch.Tensor]:
        """The x0 prediction of latents x [B, ...] at noise level sigma, for each prompt, without guidance."""
        conds = [self._prompts[prompt] for prompt in prompts]
        return comfy.samplers.calc_cond_batch(self._model, conds, x, x.new_full((x.shape[0],), sigma), self._options)

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


class _Session(comfy.samplers.Sampler):
    """A 'sampler' that hands the loaded model to a function instead of sampling."""

    def __init__(self, body: Callable[[LiveModel], object], trainable: bool):
        self.body, self.trainable, self.result = body, trainable, None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs):
        options = extra_args["model_options"]
        if self.trainable:
            _make_differentiable(model_wrap.inner_model, options)
        self.result = self.body(LiveModel(model_wrap, options, noise.device))
        return noise


def session(model, prompts: Mapping[str, Conditioning], latent: torch.Tensor, body, *, trainable=False):
    """Load MODEL as for sampling latents [B, ...], with `prompts` by name, and return `body(LiveModel)`.

    The host makes room, patches weights and cleans up just as for a KSampler. `trainable` leaves inference mode and
    makes the model one that gradients may pass through; its own weights stay fixed.
    """
    with torch.inference_mode(torch.is_inference_mode_enabled() and not trainable):
        if trainable:
            prompts = {name: _without_inference_tensors(c) for name, c in prompts.items()}
        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds(prompts)
        run = _Session(body, trainable)
        latent = torch.zeros(latent.shape)
        with torch.no_grad() if not trainable else torch.enable_grad():
            guider.sample(latent, latent, run, torch.tensor([1.0, 0.0]), disable_pbar=True)
        return run.result


def empty_latent(model, width: int, height: int, batch: int = 1) -> torch.Tensor:
    """Zeros of the model's latent shape for a picture of width x height pixels."""
    latent = torch.zeros(batch, 4, height // 8, width // 8)
    return comfy.sample.fix_empty_latent_channels(model, latent)


def rows_that_fit(model, latent: torch.Tensor, most: int = 64) -> int:
    """How many latents of this shape may be predicted at once, cond and uncond, in the memory that is free now."""
    needed = model.model.memory_required([2, *latent.shape[1:]]) * 1.5
    return max(1, min(most, int(comfy.model_management.get_free_memory(model.load_device) / needed)))


def noise_like(latent: torch.Tensor, seed: int) -> torch.Tensor:
    """The noise a KSampler with this seed starts a latent from: the same picture, to the bit."""
    return comfy.sample.prepare_noise(latent, seed)


def _without_inference_tensors(conditioning: Conditioning) -> Conditioning:
    def plain(value):
        return value.clone() if isinstance(value, torch.Tensor) else value

    return [[plain(c), {key: plain(value) for key, value in extras.items()}] for c, extras in conditioning]


def _make_differentiable(model: torch.nn.Module, model_options: dict) -> None:
    """Replace inference tensors (autograd refuses them) by equal plain ones, and attention by torch's own."""
    for name, parameter in list(model.named_parameters()):
        if parameter.is_inference() or parameter.requires_grad:
            comfy.utils.set_attr_param(model, name, parameter.detach().clone())
    for name, buffer in list(model.named_buffers()):
        if buffer.is_inference():
            comfy.utils.set_attr(model, name, buffer.clone())

    def torch_attention(attention, *args, **kwargs):
        return sys.modules[attention.__module__].attention_pytorch(*args, **kwargs)

    model_options["transformer_options"]["optimized_attention_override"] = torch_attention


# --- wrappers on a MODEL -------------------------------------------------------------------------------------------


def with_branch(
    model,
    attached: Callable[[torch.nn.Module], AbstractContextManager],
    predict: Callable[[Callable[[], list[torch.Tensor]]], list[torch.Tensor]],
):
    """A clone of MODEL whose every prediction in a sampling run is `predict(evaluate)`, a list of x0 per cond.

    `attached(diffusion_model)` is entered around each run; `evaluate()` is what the model would have predicted.
    Works with every sampler, and inside the host's own guidance: pre- and post-CFG functions see the result.
    """

    def around_run(executor, *args, **kwargs):
        with attached(executor.class_obj.model_patcher.model.diffusion_model):
            return executor(*args, **kwargs)

    def around_prediction(executor, *args, **kwargs):
        return predict(lambda: executor(*args, **kwargs))

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, around_run)
    clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, around_prediction)
    return clone


class EvaluationCounter:
    """Counts evaluations: forwards of the diffusion model, times the rows of the batch."""

    def __init__(self):
        self.count = 0

    def watch(self, model):
        """A clone of MODEL whose evaluations are counted here."""

        def around_forward(executor, x, *args, **kwargs):
            self.count += x.shape[0]
            return executor(x, *args, **kwargs)

        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, around_forward)
        return clone


def ksample(model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise) -> dict:
    """What the host's KSampler node does, with its progress bar and previews. Returns a LATENT."""
    return nodes.common_ksampler(  # type: ignore[attr-defined] # the host's nodes, which mypy takes for ours
        model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise=denoise
    )[0]


SAMPLERS = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS = comfy.samplers.KSampler.SCHEDULERS


# --- layer names ---------------------------------------------------------------------------------------------------


def module_paths(model) -> dict[str, str]:
    """Every name a LoRA file may use for a layer of MODEL -> module path below the diffusion model."""
    prefix, suffix = "diffusion_model.", ".weight"
    return {
        name: key[len(prefix) : -len(suffix)]
        for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items()
        if isinstance(key, str) and key.startswith(prefix) and key.endswith(suffix)
    }


def file_names(model) -> dict[str, str]:
    """Module path -> the name to write: kohya's with diffusers block names, which every loader knows."""
    names = {}
    for name, path in module_paths(model).items():
        if name.startswith("lora_unet_") and (path not in names or name != f"lora_unet_{path.replace('.', '_')}"):
            names[path] = name
    return names


# --- progress, interrupt, folders ----------------------------------------------------------------------------------


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """The running node's progress bar: call the yielded function with the number done; it also obeys Cancel."""
    bar = comfy.utils.ProgressBar(total)

    def done(count: int) -> None:
        bar.update_absolute(count)
        comfy.model_management.throw_exception_if_processing_interrupted()

    comfy.model_management.throw_exception_if_processing_interrupted()
    yield done


def lora_files() -> list[str]:
    """The LoRA files the host's loaders list."""
    return folder_paths.get_filename_list("loras")


def lora_path(name: str) -> Path:
    """The full path of a listed LoRA file."""
    return Path(folder_paths.get_full_path_or_raise("loras", name))


def new_lora_path(filename_prefix: str) -> tuple[Path, str]:
    """Where to save the next LoRA with this prefix (sub/folder/name): full path, and the name the loaders list."""
    loras = folder_paths.get_folder_paths("loras")[0]
    folder, filename, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, loras)
    path = Path(folder) / f"{filename}_{counter:05}_.safetensors"
    return path, os.path.relpath(path, loras)
