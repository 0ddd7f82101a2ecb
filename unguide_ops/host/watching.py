"""What the running node shows of a long job, and Cancel."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import comfy.model_management
import comfy.utils
import latent_preview
import numpy
import torch
from comfy_execution.utils import get_executing_context
from PIL import Image

from ..page import for_page

Interrupted = comfy.model_management.InterruptProcessingException


class Watch:
    """Shows on the running node how far a long job is: a bar, words below it, a picture. It obeys Cancel."""

    def __init__(self, picture_every: int = 0):
        """A picture at most every so many units of work; 0: none."""
        self._every = picture_every
        self._latent: torch.Tensor | None = None
        self._shown = 0

    def begin(self, total: int, latent_format=None) -> None:
        """The job is so many units long. Pictures need the model's latent format."""
        self._latent_format, self._total, self._began = latent_format, total, time.monotonic()
        self._bar = comfy.utils.ProgressBar(total)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def picture(self, x0: torch.Tensor) -> None:
        """What the pictures look like now, as latents of the model [N, ...]."""
        self._latent = x0
        comfy.model_management.throw_exception_if_processing_interrupted()

    def done(self, count: int, words: str = "") -> None:
        """So many units are done."""
        preview = None
        if self._every and self._latent is not None and (not self._shown or count - self._shown >= self._every):
            preview, self._shown, self._latent = preview_of(self._latent_format, self._latent), count, None
        seconds = (time.monotonic() - self._began) / count * (self._total - count)
        left = f"{seconds:.0f} s left" if count < self._total else ""
        self.show(count, ", ".join(filter(None, (f"{count} of {self._total}", words, left))), preview)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def last_picture(self, picture: torch.Tensor) -> None:
        """The job's result, IMAGE [1, H, W, 3], in place of the last preview: the page keeps showing that one."""
        if self._shown:
            image = Image.fromarray((picture[0].clamp(0, 1) * 255).byte().cpu().numpy())
            self._bar.update_absolute(self._total, self._total, ("JPEG", image, None))

    def show(self, count: int, words: str, preview) -> None:
        """Hand it to the host; `preview` as its own previews are, or None."""
        self._bar.update_absolute(count, self._total, preview)
        say_on_node(words)


def preview_of(latent_format, x0: torch.Tensor):
    """The first of the latents [N, ...] as the host's sampling previews show it, also when those are switched off."""
    previewer = latent_preview.get_previewer(x0.device, latent_format)
    if previewer is None and latent_format.latent_rgb_factors is not None:
        previewer = latent_preview.Latent2RGBPreviewer(
            latent_format.latent_rgb_factors,
            latent_format.latent_rgb_factors_bias,
            latent_format.latent_rgb_factors_reshape,
        )
    if previewer is None:  # a family that the host has no preview for
        channels = x0[0, :3, 0] if x0.ndim == 5 else x0[0, :3]
        grey = ((channels - channels.amin()) / (channels.amax() - channels.amin()).clamp_min(1e-6) * 255).byte()
        return "JPEG", Image.fromarray(grey.movedim(0, -1).cpu().numpy()), latent_preview.MAX_PREVIEW_RESOLUTION
    return previewer.decode_latent_to_preview_image("JPEG", x0)


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
    voice_of_node()(text)


def voice_of_node() -> Callable[[str], None]:
    """`say_on_node` for the node that is running now, also when others run."""
    context = get_executing_context()

    def say(text: str) -> None:
        if context is not None and "server" in sys.modules:  # a host without its server has no one to tell
            server = sys.modules["server"].PromptServer.instance
            server.send_progress_text(for_page(text), context.node_id)

    return say


def keep_on_node() -> Callable[[str], None]:
    """The same for words that are to stay on the node when the job ends (web/words.js)."""
    context, say = get_executing_context(), voice_of_node()

    def keep(text: str) -> None:
        say(text)
        if context is not None and "server" in sys.modules:
            server = sys.modules["server"].PromptServer.instance
            server.send_sync("unguide.words", {"node": context.node_id, "text": for_page(text)}, server.client_id)

    return keep
