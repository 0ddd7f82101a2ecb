"""What faults are put into: the embedded model, a concept and a LoRA, and each job of ours on them as a method."""

import dataclasses
import functools
from pathlib import Path

import comfy_extras.nodes_custom_sampler as custom
import folder_paths
import pytest
import torch
from fault_injection import LAYER
from node_graphs import CAT, DOG
from state_snapshot import StateSnapshot, copy_weights
from unguide.demo_model.loader import load_demo_model
from unguide.nodes.calibrate import UnGuideCalibrate
from unguide.nodes.importing import UnGuideImportLoRA
from unguide.nodes.lora import UnGuideLoadLoRA, UnGuideSaveLoRA
from unguide.nodes.probe import UnGuideStabilityProbe
from unguide.nodes.sampling import UnGuidance, UnGuidanceGuider, UnGuidanceKSampler
from unguide.nodes.training import UnGuideTrainLoRA
from unguide.unguide_ops import host, pipeline
from unguide.unguide_ops.concept import EncodedConcept, concept_from
from unguide.unguide_ops.concept_lora import ConceptLoRA
from unguide.unguide_ops.files.lora_file import load_lora, save_lora
from unguide.unguide_ops.training.config import TrainingConfig
from unguide.unguide_ops.training.trainer import train

from dev.demo_graph import GATE, SAMPLING, SIZE

STEPS = 2
NORM = "input_blocks.1.0.in_layers.0"


class Fixtures:
    """The embedded model, a concept, a LoRA that has begun to forget it, and the state of all before any fault.

    Each method without arguments is a job, and returns what can be compared with `same`.
    """

    def __init__(self):
        self.loras = Path(folder_paths.get_folder_paths("loras")[0])
        self.model, self.clip, self.vae = load_demo_model()
        forest = concept_from(None, CAT, "a photo of the forest", "a photo of the kitten", DOG)
        self.concept = EncodedConcept.of(forest, self.encode)
        config = self.short(iterations=12, reuse=6)
        self.lora = pipeline.train_concept(self.model, self.concept, config, captions=3).lora
        self.latent = {"samples": host.empty_latent(self.model, *SIZE.values())}
        self.file = self.loras / "faults.safetensors"
        save_lora(self.file, self.lora)
        self.picture = self.plain()
        self.weights, self.state = copy_weights(self.model), StateSnapshot(self.model)

    @staticmethod
    def short(iterations: int = 3, reuse: int = 2) -> TrainingConfig:
        """The settings of a training that takes a second."""
        return TrainingConfig(**SIZE, iterations=iterations, rank=2, steps=5, reuse=reuse, batch_size=2)

    @functools.cached_property
    def prompts(self) -> dict:
        return {"positive": self.encode(CAT), "negative": self.encode("")}

    def encode(self, prompt: str):
        return host.encode(self.clip, prompt)

    def draw(self, model, prompt: str = CAT) -> torch.Tensor:
        """Latents by the host's own KSampler."""
        prompts = self.encode(prompt), self.encode("")
        return host.ksample(model, 3, STEPS, 7.5, "euler", "normal", *prompts, self.latent, 1.0)["samples"]

    def files(self) -> set[Path]:
        return {path for path in self.loras.rglob("*") if path.is_file()}

    @functools.cached_property
    def _guider(self):
        """A GUIDER that is used again and again, as a cached node's is."""
        return UnGuidanceGuider.execute(self.model, self.lora, cfg=7.5, **self.prompts, **GATE).args[0]

    def _unguidance(self, model=None, lora=None, **settings):
        model, lora = model or self.model, lora or self.lora
        return UnGuidance.execute(model, lora, **{**GATE, **settings}).args[0]

    def plain(self):
        return self.draw(self.model, DOG)

    def training(self):
        """The trainer's node, with few captions to calibrate on."""
        config = self.short()
        controls = {name: getattr(config, name) for name in ("iterations", "rank", "steps", "reuse", "batch_size")}
        few = functools.partial(pipeline.calibrate, captions=3)
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(pipeline, "calibrate", lambda *args, captions: few(*args))
            output = UnGuideTrainLoRA.execute(
                self.model, self.concept, "custom", preview_every=1, grid_steps=2, vae=self.vae, seed=0, **SIZE,
                **controls,
            )  # fmt: skip
        return pairs_of(output.args[0])

    def training_alone(self):
        return pairs_of(train(self.model, self.concept, self.short()).lora)

    def probing(self):
        settings = {"seeds": 2, "seed": 0, "steps": 50, "probe_steps": 10, "cfg": 7.5, **SIZE}
        return UnGuideStabilityProbe.execute(self.model, self.lora, self.clip, f"{CAT}\n{DOG}", **settings).args[2]

    def calibrating(self):
        settings = {"cfg": 7.5, "captions": 3, "seed": 0, "concept": self.concept, **SIZE}
        return UnGuideCalibrate.execute(self.model, self.lora, self.clip, **settings).args[0].calibration

    def any_sampler(self):
        """UnGuidance before a KSampler."""
        return self.draw(self._unguidance())

    def own_sampler(self):
        settings = {**self.prompts, **SAMPLING, "seed": 3, "steps": STEPS, **GATE}
        output = UnGuidanceKSampler.execute(self.model, self.lora, latent_image=self.latent, **settings)
        return output.args[0]["samples"]

    def guider(self):
        """UnGuidance Guider in SamplerCustomAdvanced."""
        noise, sampler = custom.RandomNoise.execute(3).args[0], custom.KSamplerSelect.execute("euler").args[0]
        sigmas = custom.BasicScheduler.execute(self.model, "normal", STEPS, 1.0).args[0]
        output = custom.SamplerCustomAdvanced.execute(noise, self._guider, sampler, sigmas, self.latent)
        return output.args[0]["samples"]

    def two_concepts(self):
        """A chain of two UnGuidance nodes."""
        return self.draw(self._unguidance(self._unguidance(), w_erased=0.5))

    def restarting(self):
        """A gate of two steps, after which the run starts again."""
        return self.draw(self._unguidance(gate_steps=2, restart=True))

    def whole_weights(self):
        """A LoRA that is not low-rank: its changed copies of weights are in place while it is on."""
        network, generator = host.diffusion_model(self.model), torch.Generator().manual_seed(3)
        changes = {
            f"diffusion_model.{path}": {
                suffix: 0.1 * torch.randn(network.get_submodule(path).weight.shape, generator=generator)
            }
            for path, suffix in ((LAYER, "diff"), (NORM, "w_norm"))
        }
        return self.draw(self._unguidance(lora=ConceptLoRA({}, other_tensors=changes), gate="always erase"))

    def saving(self):
        """The saver's node; what it has written is read, and removed again."""
        before = self.files()
        pictured = dataclasses.replace(self.lora, preview=self.vae.decode(self.picture)[0].clamp(0, 1))
        UnGuideSaveLoRA.execute(pictured, "faults/it")
        written = self.files() - before
        (path,) = (path for path in written if path.suffix == ".safetensors")
        pairs = pairs_of(load_lora(path))
        for path in written:
            path.unlink()
        return pairs

    def loading(self):
        return pairs_of(UnGuideLoadLoRA.execute(self.file.name).args[0])

    def importing(self):
        return pairs_of(UnGuideImportLoRA.execute(self.model, self.file.name, 8.0).args[0])


def pairs_of(lora: ConceptLoRA) -> torch.Tensor:
    """A LoRA's pairs as one tensor."""
    return torch.cat([half.flatten() for pair in lora.pairs.values() for half in (pair.down, pair.up)])


def same(result, other) -> bool:
    """Whether two results of a job are equal, bit for bit."""
    return torch.equal(result, other) if isinstance(result, torch.Tensor) else result == other
