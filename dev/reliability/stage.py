"""The stage for faults: the embedded model in this process's host, and every phase of the work as a function of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from dev.demo_graph import GATE
from dev.reliability import traps
from dev.reliability.graphs import ALWAYS, CAT, DOG

SIZE, STEPS = 64, 2


class Stage:
    """What the work needs: the embedded model, a concept, a LoRA that has begun to forget it; and how all is now."""

    def __init__(self) -> None:
        import folder_paths
        import torch
        from unguide.demo_model import load_demo_model
        from unguide.unguide_ops import files, host
        from unguide.unguide_ops.calibrate import calibrate
        from unguide.unguide_ops.concept import EncodedConcept, concept_from
        from unguide.unguide_ops.training import train

        from dev.reliability.traces import Traces, bits_of

        self.host = Path(folder_paths.__file__).parent
        self.loras = Path(folder_paths.get_folder_paths("loras")[0])
        with torch.inference_mode():
            self.model, self.clip, self.vae = load_demo_model()
            forest = concept_from(None, CAT, "a photo of the forest", "a photo of the kitten", DOG)
            self.concept = EncodedConcept.of(forest, self.encode)
            lora = train(self.model, self.concept, self.short(iterations=12, reuse=6)).lora
            self.lora, _ = calibrate(self.model, lora, self.concept, SIZE, SIZE, captions=3)
            self.latent = {"samples": host.empty_latent(self.model, SIZE, SIZE)}
            self.file = "faults.safetensors"
            files.save_lora(self.loras / self.file, self.lora)
            self.picture = self.plain()
            self.bits, self.traces = bits_of(self.model), Traces(self.model)
        self._expected: dict[str, object] = {}

    def expected(self, work: Callable[[Stage], object]) -> object:
        """What some work gives where nothing goes wrong."""
        if work.__name__ not in self._expected:
            self._expected[work.__name__] = work(self)
        return self._expected[work.__name__]

    @staticmethod
    def short(**changes):
        """Settings of a training that takes a second."""
        from unguide.unguide_ops.settings import TrainingSettings

        its = {"iterations": 3, "rank": 2, "steps": 5, "reuse": 2, "batch_size": 2, **changes}
        return TrainingSettings(width=SIZE, height=SIZE, **its)

    def encode(self, prompt: str):
        """A prompt as CONDITIONING."""
        from unguide.unguide_ops import host

        return host.encode(self.clip, prompt)

    def draw(self, model, prompt: str = CAT):
        """Latents by the host's own KSampler."""
        from unguide.unguide_ops import host

        prompts = self.encode(prompt), self.encode("")
        return host.ksample(model, 3, STEPS, 7.5, "euler", "normal", *prompts, self.latent, 1.0)["samples"]

    def plain(self):
        """Those of the base model."""
        return self.draw(self.model, DOG)

    def files(self) -> set[Path]:
        """All files in the loras folder."""
        return {path for path in self.loras.rglob("*") if path.is_file()}

    @functools.cached_property
    def guider(self):
        """A GUIDER that is used again and again, as a cached node's is."""
        from unguide.nodes.sampling import UnGuidanceGuider

        prompts = {"positive": self.encode(CAT), "negative": self.encode("")}
        return UnGuidanceGuider.execute(self.model, self.lora, cfg=7.5, **prompts, **GATE).args[0]


@functools.cache
def stage() -> Stage:
    """The one of this process."""
    return Stage()


def training(it: Stage):
    """The trainer's node, with few captions to calibrate on."""
    node = traps.module_named("nodes.training")
    controls = {name: getattr(it.short(), name) for name in ("iterations", "rank", "steps", "reuse", "batch_size")}
    few = functools.partial(node.calibrate, captions=3)
    with traps.replaced(node, "calibrate", few):
        done = node.UnGuideTrainLoRA.execute(
            it.model, it.concept, "custom", preview_every=1, grid_steps=2, vae=it.vae, width=SIZE, height=SIZE, seed=0,
            **controls,
        )  # fmt: skip
    return pairs_of(done.args[0])


def training_in_short(it: Stage):
    """Training alone."""
    from unguide.unguide_ops.training import train

    return pairs_of(train(it.model, it.concept, it.short()).lora)


def pairs_of(lora):
    """A LoRA's pairs as one tensor."""
    import torch

    return torch.cat([t.flatten() for pair in lora.pairs.values() for t in (pair.down, pair.up)])


def probing(it: Stage):
    """The probe's node."""
    from unguide.nodes.probe import UnGuideStabilityProbe

    its = {"seeds": 2, "seed": 0, "steps": 50, "probe_steps": 10, "cfg": 7.5, "width": SIZE, "height": SIZE}
    return UnGuideStabilityProbe.execute(it.model, it.lora, it.clip, f"{CAT}\n{DOG}", **its).args[2]


def calibrating(it: Stage):
    """The calibration's node."""
    from unguide.nodes.calibrate import UnGuideCalibrate

    its = {"width": SIZE, "height": SIZE, "cfg": 7.5, "captions": 3, "seed": 0, "concept": it.concept}
    return UnGuideCalibrate.execute(it.model, it.lora, it.clip, **its).args[0].calibration


def unguidance(it: Stage, model=None, lora=None, **settings):
    """The MODEL of UnGuidance's node."""
    from unguide.nodes.sampling import UnGuidance

    return UnGuidance.execute(model or it.model, lora or it.lora, **{**GATE, **settings}).args[0]


def any_sampler(it: Stage):
    """UnGuidance before a KSampler."""
    return it.draw(unguidance(it))


def own_sampler(it: Stage):
    """UnGuidance KSampler."""
    from unguide.nodes.sampling import UnGuidanceKSampler

    how = {"seed": 3, "steps": STEPS, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    prompts = {"positive": it.encode(CAT), "negative": it.encode("")}
    return UnGuidanceKSampler.execute(it.model, it.lora, latent_image=it.latent, **prompts, **how, **GATE).args[0][
        "samples"
    ]


def guider(it: Stage):
    """UnGuidance Guider in SamplerCustomAdvanced."""
    from comfy_extras import nodes_custom_sampler as custom

    noise, sampler = custom.RandomNoise.execute(3).args[0], custom.KSamplerSelect.execute("euler").args[0]
    sigmas = custom.BasicScheduler.execute(it.model, "normal", STEPS, 1.0).args[0]
    return custom.SamplerCustomAdvanced.execute(noise, it.guider, sampler, sigmas, it.latent).args[0]["samples"]


def two_concepts(it: Stage):
    """One UnGuidance behind the other."""
    return it.draw(unguidance(it, unguidance(it), w_erased=0.5))


def beginning_again(it: Stage):
    """A gate of two steps, after which the run begins anew."""
    return it.draw(unguidance(it, gate_steps=2, restart=True))


def whole_weights(it: Stage):
    """A LoRA that no low-rank branch can carry: changed copies of weights, in place while it is asked."""
    import torch
    from unguide.unguide_ops import host
    from unguide.unguide_ops.lora import ConceptLoRA

    network, generator = host.diffusion_model(it.model), torch.Generator().manual_seed(3)
    norm = "input_blocks.1.0.in_layers.0"
    others = {
        f"diffusion_model.{path}": {
            suffix: 0.1 * torch.randn(network.get_submodule(path).weight.shape, generator=generator)
        }
        for path, suffix in ((traps.LAYER, "diff"), (norm, "w_norm"))
    }
    return it.draw(unguidance(it, lora=ConceptLoRA({}, others=others), **ALWAYS))


def saving(it: Stage):
    """The saver's node; the file, and what it is worth, is looked at and goes again."""
    import dataclasses

    from unguide.nodes.lora import UnGuideSaveLoRA
    from unguide.unguide_ops import files

    before = it.files()
    pictured = dataclasses.replace(it.lora, preview=it.vae.decode(it.picture)[0].clamp(0, 1))
    UnGuideSaveLoRA.execute(pictured, "faults/it")
    made = it.files() - before
    (path,) = (path for path in made if path.suffix == ".safetensors")
    saved = pairs_of(files.load_lora(path))
    for path in made:
        path.unlink()
    return saved


def loading(it: Stage):
    """The loader's node, on a file that is there."""
    from unguide.nodes.lora import UnGuideLoadLoRA

    return pairs_of(UnGuideLoadLoRA.execute(it.file).args[0])


def importing(it: Stage):
    """The importer's node, on the same file."""
    from unguide.nodes.importing import UnGuideImportLoRA

    return pairs_of(UnGuideImportLoRA.execute(it.model, it.file, 8.0).args[0])
