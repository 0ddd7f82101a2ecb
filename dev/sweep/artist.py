"""Draws a sweep's pictures: the host as a library, its model and LoRAs kept warm."""

from __future__ import annotations

import io
import json
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dev.environment import BASE
from dev.inprocess import load_pack, start_host
from dev.stages import DevError
from dev.sweep.eyes import eyes_of, look
from dev.sweep.ledger import Drawn
from dev.sweep.plan import BASE as PLAIN
from dev.sweep.plan import DEMO, HALF, LORA, OURS, PAPER, Job, Settings


class Artist:
    """One model on one device."""

    def __init__(self, settings: Settings):
        start_host(settings.host, BASE, settings.device)
        load_pack()
        self.settings = settings
        if settings.device == "cpu":
            torch.set_num_threads(1)  # the same bits, however many artists share the machine
        self._encoded: tuple[str, list] = ("", [])

    @cached_property
    def _parts(self) -> tuple:
        """MODEL, CLIP, VAE."""
        import comfy.sd
        from unguide.demo_model import load_demo_model

        with torch.inference_mode():
            if self.settings.model == DEMO:
                return load_demo_model()
            path = Path(self.settings.model)
            if not path.is_file():
                raise DevError(f"there is no checkpoint {path}: give the path of a file.")
            return comfy.sd.load_checkpoint_guess_config(str(path), output_vae=True, output_clip=True)[:3]

    @cached_property
    def _eyes(self) -> list:
        return eyes_of(self.settings)

    @cached_property
    def _negative(self):
        return self._encode(self.settings.negative)

    def _encode(self, prompt: str):
        from unguide.unguide_ops import host

        return host.encode(self._parts[1], prompt)

    def train(self, preset: str) -> None:
        """Train and calibrate a preset's LoRA, unless it is there."""
        from unguide.unguide_ops import host, settings
        from unguide.unguide_ops.calibrate import calibrate
        from unguide.unguide_ops.concept import EncodedConcept, concept_from, presets
        from unguide.unguide_ops.files import save_lora
        from unguide.unguide_ops.training import train

        path = self._path(preset)
        if path.is_file():
            return
        if preset not in presets():
            raise DevError(f"there is no preset {preset!r}: choose from {', '.join(presets())}.")
        model, size = self._parts[0], (self.settings.width, self.settings.height)
        with torch.inference_mode():
            concept = EncodedConcept.of(
                concept_from(preset, "", "", "", ""), lambda it: host.encode(self._parts[1], it)
            )
            asked = settings.preset("nudity" if preset == "nudity" else "object", width=size[0], height=size[1])
            save_lora(path, calibrate(model, train(model, concept, asked).lora, concept, *size)[0])

    def _path(self, lora: str) -> Path:
        given = {path.stem: path for path in self.settings.loras}
        return given.get(lora) or self.settings.output / "loras" / f"{lora}.safetensors"

    def _lora(self, name: str):
        """Of the job at hand: jobs come a LoRA after the other."""
        from unguide.unguide_ops.files import load_lora

        if getattr(self, "_held", ("", None))[0] != name:
            self._held = (name, load_lora(self._path(name)))
        return self._held[1]

    def draw(self, job: Job) -> Drawn:
        """The picture, and what is known of it."""
        from unguide.unguide_ops import host

        it = self.settings
        with torch.inference_mode():
            courses: list = []
            counter = host.EvaluationCounter()
            model = counter.watch(self._model(job, courses))
            latent = {"samples": host.empty_latent(self._parts[0], it.width, it.height)}
            sampled = host.ksample(model, job.seed, it.steps, job.guidance, it.sampler, it.scheduler,
                                   self._encode(job.prompt), self._negative, latent, 1.0)  # fmt: skip
            picture = self._parts[2].decode(sampled["samples"]).clamp(0, 1).movedim(-1, 1)[:, :3].float().cpu()
            result = {
                "number": job.number, "prompt": job.prompt, "seed": job.seed, "guidance": job.guidance,
                "lora": job.lora, "mode": job.mode, "evaluations": counter.count, **job.more_named(),
                **(courses[0].report() if courses else {}),
                **look(self._eyes, picture, job),
            }  # fmt: skip
        return Drawn(png_of(picture[0], result), result)

    def _model(self, job: Job, courses: list):
        from unguide.unguide_ops.steering import SteeringSettings
        from unguide.unguide_ops.unguidance import unguide

        from dev.bench.ways import AS_PUBLISHED

        model = self._parts[0]
        if job.mode == PLAIN:
            return model
        lora = self._lora(job.lora)
        asked = {
            OURS: lambda: {},
            LORA: lambda: {"w": 0.0, **AS_PUBLISHED},
            HALF: lambda: {"w": 0.5, **AS_PUBLISHED},
            PAPER: lambda: {"w": self._by_the_papers_rule(job, lora), **AS_PUBLISHED},
        }[job.mode]()
        return unguide(model, lora, SteeringSettings(**asked), courses.append)

    def _by_the_papers_rule(self, job: Job, lora) -> float:
        from unguide.unguide_ops import gate
        from unguide.unguide_ops.probe import ProbeSettings, probe

        it = self.settings
        asked = ProbeSettings(gate.PAPER, it.paper_seeds, job.seed, cfg=job.guidance, width=it.width, height=it.height)
        (reading,) = probe(self._parts[0], lora, self._encode, [job.prompt], asked).readings
        return -1.0 if reading.verdict.erased else 2.0


def png_of(picture: torch.Tensor, result: dict) -> bytes:
    """A picture [3, H, W] in [0, 1] as PNG, its result in the metadata."""
    about = PngInfo()
    about.add_text("unguide", json.dumps(result, sort_keys=True))
    file = io.BytesIO()
    pixels = (picture.movedim(0, -1) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=about)
    return file.getvalue()
