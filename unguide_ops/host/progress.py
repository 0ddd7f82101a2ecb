"""Progress, previews and status text on the running node, and Cancel."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.utils
import latent_preview
import numpy
import torch
from comfy_execution.utils import get_executing_context
from PIL import Image

from ..safe_text import without_markup
from .types import Model, Vae

Interrupted = comfy.model_management.InterruptProcessingException


class ProgressReporter:
    """Shows a progress bar, a status text and previews on the running node; `Interrupted` is raised after Cancel."""

    def __init__(self, picture_every: int = 0):
        """`picture_every`: the least number of units of work between two previews; 0 for none."""
        self._every = picture_every
        self._latent: torch.Tensor | None = None
        self._shown = 0

    def begin(self, total: int, latent_format: Any = None) -> None:
        """Start a job of `total` units of work. `latent_format`, the model's, is needed for previews only."""
        self._latent_format, self._total, self._began = latent_format, total, time.monotonic()
        self._bar = comfy.utils.ProgressBar(total)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def set_preview(self, x0: torch.Tensor) -> None:
        """Set the latents [N, ...] of which `update` may show the first."""
        self._latent = x0
        comfy.model_management.throw_exception_if_processing_interrupted()

    def update(self, count: int, words: str = "") -> None:
        """Report that `count` units are finished, with a few words on them."""
        preview = None
        if self._every and self._latent is not None and (not self._shown or count - self._shown >= self._every):
            preview, self._shown, self._latent = preview_image(self._latent_format, self._latent), count, None
        seconds = (time.monotonic() - self._began) / count * (self._total - count)
        remaining = f"{seconds:.0f} s left" if count < self._total else ""
        self.show(count, ", ".join(filter(None, (f"{count} of {self._total}", words, remaining))), preview)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def show_result(self, picture: torch.Tensor) -> None:
        """Replace the last preview, which the page would keep, by a result, IMAGE [1, H, W, 3]."""
        if self._shown:
            image = Image.fromarray((picture[0].clamp(0, 1) * 255).byte().cpu().numpy())
            self._bar.update_absolute(self._total, self._total, ("JPEG", image, None))

    def show(self, count: int, text: str, preview: tuple | None) -> None:
        """Send progress, status text and a preview (see `preview_image`) to the host."""
        self._bar.update_absolute(count, self._total, preview)
        show_status(text)


def preview_image(latent_format: Any, x0: torch.Tensor) -> tuple:
    """A preview of the first of the latents [N, ...] as the host's bar takes it: ("JPEG", picture, largest side).

    It is the preview that the host shows while sampling, even if the user has switched those off. Latents that the host
    cannot show are drawn from their first three channels.
    """
    previewer = latent_preview.get_previewer(x0.device, latent_format)
    if previewer is None and latent_format.latent_rgb_factors is not None:
        previewer = latent_preview.Latent2RGBPreviewer(
            latent_format.latent_rgb_factors,
            latent_format.latent_rgb_factors_bias,
            latent_format.latent_rgb_factors_reshape,
        )
    if previewer is None:
        channels = x0[0, :3, 0] if x0.ndim == 5 else x0[0, :3]
        scaled = ((channels - channels.amin()) / (channels.amax() - channels.amin()).clamp_min(1e-6) * 255).byte()
        return "JPEG", Image.fromarray(scaled.movedim(0, -1).cpu().numpy()), latent_preview.MAX_PREVIEW_RESOLUTION
    return previewer.decode_latent_to_preview_image("JPEG", x0)


def decoder(model: Model, vae: Vae | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from MODEL's latents [N, ...] to pictures [N, H, W, 3] in [0, 1]; without a VAE, rough previews."""

    def decode(latents: torch.Tensor) -> torch.Tensor:
        if vae is not None:
            pictures = vae.decode(model.model.process_latent_out(latents))
            return pictures.reshape(-1, *pictures.shape[-3:])[..., :3]
        previews = (preview_image(model.model.latent_format, latent[None]) for latent in latents)
        return torch.stack([torch.from_numpy(numpy.asarray(it[1].convert("RGB")).copy()) for it in previews]) / 255

    return decode


def show_status(text: str) -> None:
    """Replace the progress text on the running node. The page removes it when the node ends."""
    status_writer()(text)


def status_writer() -> Callable[[str], None]:
    """`show_status` for the node that is running now, for use while other nodes run."""
    context = get_executing_context()

    def write(text: str) -> None:
        if context is not None and "server" in sys.modules:  # a host may run without its server
            server = sys.modules["server"].PromptServer.instance
            server.send_progress_text(without_markup(text), context.node_id)

    return write


def lasting_status_writer() -> Callable[[str], None]:
    """A `status_writer` whose text stays on the node after its end: web/words.js puts it into a text field."""
    context, write = get_executing_context(), status_writer()

    def write_lasting(text: str) -> None:
        write(text)
        if context is not None and "server" in sys.modules:
            server = sys.modules["server"].PromptServer.instance
            server.send_sync("unguide.words", {"node": context.node_id, "text": without_markup(text)}, server.client_id)

    return write_lasting
