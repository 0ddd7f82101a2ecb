"""The one module that knows ComfyUI's internals: prompts, live models, wrappers, progress, interrupt, folders."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import cast

import comfy.lora
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import folder_paths
import latent_preview
import nodes
import numpy
import torch
from comfy.patcher_extension import WrappersMP
from comfy_execution.utils import get_executing_context

KEY = "unguide"
KEPT, CHECKPOINTED = 12.0, 4.0  # memory of a row with gradients, in units of the host's own estimate without
ROOM = 0.6  # share of the device's memory that training may fill
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

        No more than `at_once` rows share a forward.
        """
        denoised = []
        for start in range(0, len(prompts), at_once):
            rows = slice(start, start + at_once)
            cond = self._joint([self._prompts[prompt][0] for prompt in prompts[rows]])
            denoised += comfy.samplers.calc_cond_batch(self._model, [[cond]], x[rows], sigmas[rows], self._options)
        return (x - torch.cat(denoised)) / sigmas.view(-1, *[1] * (x.ndim - 1))

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
    """Zeros of the model's latent shape for a picture of width x height pixels.

    Raises ValueError for a size that is not made of whole latent pixels.
    """
    for side, pixels in (("width", width), ("height", height)):
        if pixels < 8 or pixels % 8:
            raise ValueError(f"`{side}` is {pixels}: use a multiple of 8, best the model's native size.")
    latent = torch.zeros(batch, 4, height // 8, width // 8)
    return comfy.sample.fix_empty_latent_channels(model, latent)


def rows_that_fit(model, latent: torch.Tensor, most: int = 64) -> int:
    """How many latents of this shape may be predicted at once, cond and uncond, in the memory that is free now."""
    needed = model.model.memory_required([2, *latent.shape[1:]]) * 1.5
    return max(1, min(most, int(comfy.model_management.get_free_memory(model.load_device) / needed)))


def rows_to_train(model, latent: torch.Tensor, checkpointing: bool) -> int:
    """How many rows may be predicted with gradients at once. It depends on the machine and not on what is free now,
    since another number would round differently: the same seed, the same LoRA.
    """
    device = model.load_device
    row = model.model.memory_required([1, *latent.shape[1:]]) * (CHECKPOINTED if checkpointing else KEPT)
    room = comfy.model_management.get_total_memory(device) * ROOM - model.model_size()
    return max(1, int(room / row))


def noise_like(latent: torch.Tensor, seed: int) -> torch.Tensor:
    """The noise a KSampler with this seed starts a latent from: the same picture, to the bit."""
    return comfy.sample.prepare_noise(latent, seed)


def _without_inference_tensors(conditioning: Conditioning) -> Conditioning:
    def plain(value):
        return value.clone() if isinstance(value, torch.Tensor) else value

    return [[plain(c), {key: plain(value) for key, value in extras.items()}] for c, extras in conditioning]


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


def check_trainable(linears: Mapping[str, torch.nn.Module]) -> None:
    """Raises ValueError when a layer's weights are quantised: no gradient worth having passes through them."""
    for path, linear in linears.items():
        dtype = cast(torch.Tensor, linear.weight).dtype
        if not dtype.is_floating_point or dtype.itemsize < 2:
            raise ValueError(
                f"The model's weights are quantised ({dtype} in `{path}`), and a LoRA cannot be trained on them: load "
                f"an fp16, bf16 or fp32 checkpoint (or set `weight_dtype` to default). The LoRA will fit both."
            )


def weight_of(linear: torch.nn.Module) -> torch.Tensor:
    """A loaded Linear's weight [out, in], fp32."""
    return cast(torch.Tensor, linear.weight).detach().float()


@torch.no_grad()
def layer_outputs(linear: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What a loaded model's Linear makes of inputs [N, in]: [N, out], fp32 on the CPU."""
    return linear(inputs.to(cast(torch.Tensor, linear.weight))).float().cpu()


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


Interrupted = comfy.model_management.InterruptProcessingException


class Watch:
    """Shows on the running node how far a long job is: a bar, words below it, a picture. It obeys Cancel."""

    def __init__(self, picture_every: int = 0):
        """A picture at most every so many units of work; 0: none."""
        self._every = picture_every
        self._latent: torch.Tensor | None = None
        self._shown = 0

    def begin(self, live: LiveModel, total: int) -> None:
        """The job is so many units long."""
        self._live, self._total, self._began = live, total, time.monotonic()
        self._bar = comfy.utils.ProgressBar(total)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def picture(self, x0: torch.Tensor) -> None:
        """What the pictures look like now, as latents of the model [N, ...]."""
        self._latent = x0
        comfy.model_management.throw_exception_if_processing_interrupted()

    def done(self, count: int, words: str) -> None:
        """So many units are done."""
        preview = None
        if self._every and self._latent is not None and (not self._shown or count - self._shown >= self._every):
            preview, self._shown, self._latent = preview_of(self._live.latent_format, self._latent), count, None
        left = (time.monotonic() - self._began) / count * (self._total - count)
        self.show(count, f"{count} of {self._total}, {words}, {left:.0f} s left", preview)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def show(self, count: int, words: str, preview) -> None:
        """Hand it to the host; `preview` as its own previews are, or None."""
        self._bar.update_absolute(count, self._total, preview)
        say_on_node(words)


def preview_of(latent_format, x0: torch.Tensor):
    """The first of the latents [N, ...] as the host's sampling previews show it, also when those are switched off."""
    previewer = latent_preview.get_previewer(x0.device, latent_format)
    if previewer is None and latent_format.latent_rgb_factors is not None:
        previewer = latent_preview.Latent2RGBPreviewer(
            latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
        )
    return previewer and previewer.decode_latent_to_preview_image("JPEG", x0)


def decoder(model, vae) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from MODEL's latents [N, ...] to pictures [N, H, W, 3] in [0, 1]; rough ones without a VAE."""

    def decode(latents: torch.Tensor) -> torch.Tensor:
        if vae is not None:
            pictures = vae.decode(model.model.process_latent_out(latents))
            return pictures.reshape(-1, *pictures.shape[-3:])[..., :3]
        rough = (preview_of(model.model.latent_format, latent[None]) for latent in latents)
        return torch.stack([torch.from_numpy(numpy.asarray(it[1].convert("RGB")).copy()) for it in rough]) / 255

    return decode


def say_on_node(text: str) -> None:
    """Show text on the node that is running, in place of what it said before."""
    context = get_executing_context()
    if context is not None and "server" in sys.modules:  # a host without its server has no one to tell
        sys.modules["server"].PromptServer.instance.send_progress_text(text, context.node_id)


def lora_files() -> list[str]:
    """The LoRA files the host's loaders list."""
    return folder_paths.get_filename_list("loras")


def lora_path(name: str) -> Path:
    """The full path of a listed LoRA file."""
    return Path(folder_paths.get_full_path_or_raise("loras", name))


def new_lora_path(filename_prefix: str) -> tuple[Path, str]:
    """Where to save the next LoRA with this prefix (sub/folder/name): full path, and the name the loaders list.

    Raises ValueError for a prefix that leads out of the loras folder.
    """
    loras = folder_paths.get_folder_paths("loras")[0]
    if not Path(loras, filename_prefix).resolve().is_relative_to(Path(loras).resolve()):
        raise ValueError(
            f"`filename_prefix` {filename_prefix!r} leads outside the loras folder: use a name inside it, such as "
            f"'unguide/concept'."
        )
    folder, filename, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, loras)
    path = Path(folder) / f"{filename}_{counter:05}_.safetensors"
    return path, os.path.relpath(path, loras)
