"""Draws a sweep's pictures: the host as a library, its model and LoRAs kept loaded."""

from __future__ import annotations

import io
import json
from functools import cached_property, lru_cache
from pathlib import Path

import comfy.sd
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from unguide.demo_model.loader import load_demo_model
from unguide.unguide_ops import host
from unguide.unguide_ops.concept import EncodedConcept, concept_from, presets
from unguide.unguide_ops.files.lora_file import load_lora, save_lora
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide
from unguide.unguide_ops.pipeline import train_concept
from unguide.unguide_ops.training import config

from dev.bench.sampling_methods import AS_PUBLISHED, paper_weights
from dev.console import DevError
from dev.sweep import BASE, DEMO, HALF, LORA, OURS, PAPER
from dev.sweep.plan import RenderJob, Settings
from dev.sweep.results import RenderedPicture
from dev.sweep.scorers import score, scorers_for


class Renderer:
    """One model on one device."""

    def __init__(self, settings: Settings):
        self.settings = settings
        if settings.device == "cpu":
            torch.set_num_threads(1)  # the same bits, however many renderers share the machine
        self._load_lora = lru_cache(maxsize=1)(load_lora)  # jobs come a LoRA after the other

    @cached_property
    def _checkpoint(self) -> tuple:
        """MODEL, CLIP, VAE."""
        with torch.inference_mode():
            if self.settings.model == DEMO:
                return load_demo_model()
            path = Path(self.settings.model)
            if not path.is_file():
                raise DevError(f"there is no checkpoint {path}: give the path of a file.")
            return comfy.sd.load_checkpoint_guess_config(str(path), output_vae=True, output_clip=True)[:3]

    @cached_property
    def _scorers(self) -> list:
        return scorers_for(self.settings)

    @cached_property
    def _negative(self) -> list:
        return self._encode(self.settings.negative)

    def _encode(self, prompt: str) -> list:
        return host.encode(self._checkpoint[1], prompt)

    def _lora_path(self, name: str) -> Path:
        files = {path.stem: path for path in self.settings.loras}
        return files.get(name) or self.settings.output / "loras" / f"{name}.safetensors"

    def train(self, preset: str) -> None:
        """Train and calibrate a preset's LoRA, unless its file is there. Raises DevError for an unknown preset."""
        path, size = self._lora_path(preset), {"width": self.settings.width, "height": self.settings.height}
        if path.is_file():
            return
        if preset not in presets():
            raise DevError(f"there is no preset {preset!r}: choose from {', '.join(presets())}.")
        with torch.inference_mode():
            concept = EncodedConcept.of(concept_from(preset, "", "", "", ""), self._encode)
            training = config.preset("nudity" if preset == "nudity" else "object", **size)
            save_lora(path, train_concept(self._checkpoint[0], concept, training).lora)

    def draw(self, job: RenderJob) -> RenderedPicture:
        """The job's picture, and its result."""
        settings, (model, _, vae) = self.settings, self._checkpoint
        with torch.inference_mode():
            reports: list = []
            counter = host.EvaluationCounter()
            steered = counter.count_on(self._steered(job, reports))
            latent = {"samples": host.empty_latent(model, settings.width, settings.height)}
            sampled = host.ksample(steered, job.seed, settings.steps, job.guidance, settings.sampler,
                                   settings.scheduler, self._encode(job.prompt), self._negative, latent,
                                   1.0)  # fmt: skip
            picture = vae.decode(sampled["samples"]).clamp(0, 1).movedim(-1, 1)[:, :3].float().cpu()
            result = {
                "number": job.number, "prompt": job.prompt, "seed": job.seed, "guidance": job.guidance,
                "lora": job.lora, "mode": job.mode, "evaluations": counter.count, **job.listed(),
                **(reports[0].report() if reports else {}),
                **score(self._scorers, picture, job),
            }  # fmt: skip
        return RenderedPicture(png_of(picture[0], result), result)

    def _steered(self, job: RenderJob, reports: list):
        """The job's MODEL, which adds its report to `reports` unless it is the base model."""
        model = self._checkpoint[0]
        if job.mode == BASE:
            return model
        lora, steering = self._load_lora(self._lora_path(job.lora)), {}
        if job.mode != OURS:
            steering = {"w": {LORA: 0.0, HALF: 0.5, PAPER: None}[job.mode], **AS_PUBLISHED}
        if job.mode == PAPER:
            weights, _ = paper_weights(
                model, lora, self._encode, [job.prompt], seeds=self.settings.paper_seeds, seed=job.seed,
                cfg=job.guidance, width=self.settings.width, height=self.settings.height,
            )  # fmt: skip
            steering["w"] = weights[job.prompt]
        return unguide(model, lora, SteeringConfig(**steering), reports.append)


def png_of(picture: torch.Tensor, result: dict) -> bytes:
    """A picture [3, H, W] in [0, 1] as PNG, its result in the metadata."""
    metadata, file = PngInfo(), io.BytesIO()
    metadata.add_text("unguide", json.dumps(result, sort_keys=True))
    pixels = (picture.movedim(0, -1) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=metadata)
    return file.getvalue()
