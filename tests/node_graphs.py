"""Small graphs of all kinds of our nodes and the host's own, whose results can be compared bit for bit."""

import json
from collections.abc import Callable

from safetensors.torch import load

from dev.client import Graph, fetch_image, title_of
from dev.demo_graph import GATE, SAMPLING, SIZE, GraphBuilder

LORA = "loaded.safetensors"  # in the server's loras folder
WS = {name: GATE[name] for name in ("w_erased", "w_unrelated")}
CAT, DOG, HOUSE = "a photo of the cat", "a photo of the dog", "a photo of the house"


class NodeGraph(GraphBuilder):
    """A graph on the embedded model that draws a prompt.

    `run` is another number each time. It makes the graph another one for the host's cache, with the same results: it
    goes into `denoise`, as a hair less than 1, which is 1, and into blank lines.
    """

    def __init__(self, prompt: str, run: int):
        super().__init__()
        self.prompt, self.run = prompt, run
        self.base, self.clip, self.vae = self.model()
        self.latent = self.empty_latent(1)
        self.texts = {"positive": self.encode(self.clip, prompt), "negative": self.encode(self.clip, "")}
        self.sampling = {**SAMPLING, "steps": 3, "denoise": 1.0 - run * 1e-6}

    def link(self, class_type: str, **inputs) -> list:
        """The first output of a new node."""
        return [self.add(class_type, **inputs), 0]

    def lora(self, name: str = LORA) -> list:
        return self.link("UnGuideLoadLoRA", lora_name=name)

    def concept(self) -> list:
        preserve = f"{DOG}\n{HOUSE}" + "\n" * self.run  # few prompts, for speed
        texts = {"target": "", "reference": "", "synonyms": "", "preserve": preserve}
        return self.link("UnGuideConcept", clip=self.clip, preset="cat", **texts)

    def unguidance(self, model: list, lora: list, **gate) -> list:
        return self.link("UnGuidance", model=model, lora=lora, **{**GATE, **gate})

    def sample(self, model: list) -> None:
        """The host's own KSampler, and its latent saved."""
        self.save(self.link("KSampler", model=model, latent_image=self.latent, **self.texts, **self.sampling))

    def save(self, latent: list) -> None:
        self.add("SaveLatent", samples=latent, filename_prefix="load/latent")

    def show(self, text: list) -> None:
        self.add("PreviewAny", "text", source=text)

    def plain(self) -> None:
        """The host's own nodes alone."""
        self.sample(self.base)

    def any_sampler(self) -> None:
        self.sample(self.unguidance(self.base, self.lora()))

    def own_sampler(self) -> None:
        sampler = self.add("UnGuidanceKSampler", model=self.base, lora=self.lora(), latent_image=self.latent,
                           **self.texts, **GATE, **self.sampling)  # fmt: skip
        self.save([sampler, 0])
        self.show([sampler, 1])

    def guider(self) -> None:
        denoise = self.sampling["denoise"]
        self.save(self.link(
            "SamplerCustomAdvanced", noise=self.link("RandomNoise", noise_seed=0),
            guider=self.link("UnGuidanceGuider", model=self.base, lora=self.lora(), cfg=7.5, **self.texts, **GATE),
            sigmas=self.link("BasicScheduler", model=self.base, scheduler="normal", steps=3, denoise=denoise),
            sampler=self.link("KSamplerSelect", sampler_name="euler"), latent_image=self.latent,
        ))  # fmt: skip

    def two_concepts(self) -> None:
        self.sample(self.unguidance(self.unguidance(self.base, self.lora()), self.lora(), w_erased=0.5))

    def probe(self) -> None:
        """The probe's report. In its mode here `steps` is not used."""
        prompts = f"{self.prompt}\n{DOG}"
        probe = self.add("UnGuideStabilityProbe", model=self.base, lora=self.lora(), clip=self.clip, prompts=prompts,
                         seeds=1, seed=0, steps=50 + self.run, probe_steps=10, cfg=7.5, **WS, **SIZE)  # fmt: skip
        self.show([probe, 2])

    def calibrate(self) -> None:
        """A calibration, and a picture whose gate uses it."""
        lora = self.link("UnGuideCalibrate", model=self.base, lora=self.lora(), clip=self.clip, cfg=7.5, captions=3,
                         seed=0, concept=self.concept(), **SIZE)  # fmt: skip
        self.sample(self.unguidance(self.base, lora))

    def train(self) -> None:
        """A training of a second or two, and a picture with its LoRA."""
        lora = self.link("UnGuideTrainLoRA", model=self.base, concept=self.concept(), preset="custom", seed=0, steps=5,
                         iterations=4, rank=2, reuse=2, batch_size=2, grid_steps=0, **SIZE)  # fmt: skip
        self.sample(self.unguidance(self.base, lora, gate="always erase"))

    def save_lora(self) -> None:
        """The LoRA saved under a new name."""
        self.add("UnGuideSaveLoRA", lora=self.lora(), filename_prefix=f"saved/{self.run}")


def graph_of(draw: Callable[[NodeGraph], None], prompt: str = CAT, run: int = 0) -> Graph:
    """The graph that a method of NodeGraph makes."""
    graph = NodeGraph(prompt, run)
    draw(graph)
    return graph.graph


def results(url: str, graph: Graph, outputs: dict) -> list:
    """What is to be compared of a graph's outputs: latents as bytes, and texts."""
    latents = [image for output in outputs.values() for image in output.get("latents", ())]
    texts = [output["text"] for node, output in outputs.items() if title_of(graph, node) == "text"]
    return [*(load(fetch_image(url, file))["latent_tensor"].numpy().tobytes() for file in latents), json.dumps(texts)]
