"""Graphs of every kind of our nodes and of the host's own, small ones, whose results can be compared bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable

from dev.client import Graph, fetch_image, title_of
from dev.demo_graph import GATE, SAMPLING, SIZE, GraphBuilder

LORA = "reliability.safetensors"  # in the server's loras folder
CAT, DOG, HOUSE = "a photo of the cat", "a photo of the dog", "a photo of the house"
ALWAYS = {**GATE, "gate": "always erase"}


class Scene(GraphBuilder):
    """A graph on the embedded model that draws a prompt.

    `run` is another number each time, and goes where it changes nothing but what the host's cache holds for the same:
    into `denoise`, as a hair less than 1, which is 1, and into blank lines.
    """

    def __init__(self, prompt: str, run: int):
        super().__init__()
        self.prompt, self.run = prompt, run
        self.base, self.clip, self.vae = self.model()
        self.latent = [self.add("EmptyLatentImage", batch_size=1, **SIZE), 0]
        self.texts = {name: self.text(it) for name, it in (("positive", prompt), ("negative", ""))}
        self.sampling = {**SAMPLING, "steps": 3, "denoise": 1.0 - run * 1e-6}

    def text(self, prompt: str) -> list:
        """A prompt, encoded."""
        return [self.add("CLIPTextEncode", clip=self.clip, text=prompt), 0]

    def lora(self) -> list:
        """The LoRA from its file."""
        return [self.add("UnGuideLoadLoRA", lora_name=LORA), 0]

    def concept(self) -> list:
        """The concept, with few prompts to preserve."""
        preserve = f"{DOG}\n{HOUSE}" + "\n" * self.run
        return [self.add("UnGuideConcept", clip=self.clip, preset="cat", target="", reference="", synonyms="",
                         preserve=preserve), 0]  # fmt: skip

    def unguidance(self, model: list, lora: list, **gate) -> list:
        """UnGuidance on a MODEL."""
        return [self.add("UnGuidance", model=model, lora=lora, **{**GATE, **gate}), 0]

    def sample(self, model: list) -> None:
        """The host's own KSampler, and its latent saved."""
        self.save([self.add("KSampler", model=model, latent_image=self.latent, **self.texts, **self.sampling), 0])

    def save(self, latent: list) -> None:
        """A latent as a file."""
        self.add("SaveLatent", samples=latent, filename_prefix="reliability/it")

    def show(self, text: list) -> None:
        """A text in the history."""
        self.add("PreviewAny", "text", source=text)


def plain(it: Scene) -> None:
    """The host's own nodes alone."""
    it.sample(it.base)


def any_sampler(it: Scene) -> None:
    """UnGuidance before a KSampler."""
    it.sample(it.unguidance(it.base, it.lora()))


def own_sampler(it: Scene) -> None:
    """UnGuidance KSampler, and its report."""
    done = it.add("UnGuidanceKSampler", model=it.base, lora=it.lora(), latent_image=it.latent, **it.texts, **GATE,
                  **it.sampling)  # fmt: skip
    it.save([done, 0])
    it.show([done, 1])


def guider(it: Scene) -> None:
    """UnGuidance Guider in SamplerCustomAdvanced."""
    made = it.add("UnGuidanceGuider", model=it.base, lora=it.lora(), cfg=7.5, **it.texts, **GATE)
    sigmas = it.add("BasicScheduler", model=it.base, scheduler="normal", steps=3, denoise=it.sampling["denoise"])
    done = it.add(
        "SamplerCustomAdvanced", noise=[it.add("RandomNoise", noise_seed=0), 0], guider=[made, 0], sigmas=[sigmas, 0],
        sampler=[it.add("KSamplerSelect", sampler_name="euler"), 0], latent_image=it.latent,
    )  # fmt: skip
    it.save([done, 0])


def two_concepts(it: Scene) -> None:
    """One UnGuidance behind the other."""
    it.sample(it.unguidance(it.unguidance(it.base, it.lora()), it.lora(), w_erased=0.5))


def probe(it: Scene) -> None:
    """The probe's report. In this mode `steps` is not used."""
    done = it.add("UnGuideStabilityProbe", model=it.base, lora=it.lora(), clip=it.clip, prompts=f"{it.prompt}\n{DOG}",
                  seeds=1, seed=0, steps=50 + it.run, probe_steps=10, cfg=7.5, w_erased=-1.0, w_unrelated=1.0,
                  **SIZE)  # fmt: skip
    it.show([done, 2])


def calibrate(it: Scene) -> None:
    """A calibration, and a picture whose gate uses it."""
    made = it.add("UnGuideCalibrate", model=it.base, lora=it.lora(), clip=it.clip, cfg=7.5, captions=3, seed=0,
                  concept=it.concept(), **SIZE)  # fmt: skip
    it.sample(it.unguidance(it.base, [made, 0]))


def train(it: Scene, iterations: int = 4) -> None:
    """A training of a second or two, and a picture by what came of it."""
    made = it.add("UnGuideTrainLoRA", "train", model=it.base, concept=it.concept(), preset="custom", seed=0, steps=5,
                  iterations=iterations, rank=2, reuse=2, batch_size=2, grid_steps=0, **SIZE)  # fmt: skip
    it.sample(it.unguidance(it.base, [made, 0], gate="always erase"))


def save(it: Scene) -> None:
    """The LoRA saved under a new name."""
    it.add("UnGuideSaveLoRA", lora=it.lora(), filename_prefix=f"saved/{it.run}")


def graph(draw: Callable[[Scene], None], prompt: str = CAT, run: int = 0) -> Graph:
    """The graph that `draw` makes of a scene."""
    scene = Scene(prompt, run)
    draw(scene)
    return scene.graph


def results(url: str, asked: Graph, shown: dict) -> list:
    """What a graph has given, to be compared: latents as bytes, and texts."""
    from safetensors.torch import load

    latents = [image for out in shown.values() for image in out.get("latents", ())]
    texts = [out["text"] for node, out in shown.items() if title_of(asked, node) == "text"]
    return [*(load(fetch_image(url, it))["latent_tensor"].numpy().tobytes() for it in latents), json.dumps(texts)]
