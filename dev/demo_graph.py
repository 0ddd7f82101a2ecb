"""The demo's graphs in the API format: forget a concept on the embedded model, then draw a list of prompts."""

from __future__ import annotations

from dev.client import Graph

PRESET = "object"
SIZE = {"width": 64, "height": 64}
SAMPLING = {"seed": 0, "steps": 20, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
GATE = {"gate": "inside sampling", "w_erased": 0.0, "w_unrelated": 1.0}
COLUMNS = {"lora": 0.0, "half": 0.5}  # one w for every prompt: the LoRA alone, and half of it
AS_PUBLISHED = {"lora_branch": "cond and uncond", "eta": 1.0}


class GraphBuilder:
    """Adds nodes to `graph`; a link to a node's output is [id, index]."""

    def __init__(self) -> None:
        self.graph: Graph = {}

    def add(self, class_type: str, title: str = "", **inputs) -> str:
        """Add a node; returns its id."""
        node = str(len(self.graph) + 1)
        self.graph[node] = {"class_type": class_type, "inputs": inputs}
        if title:
            self.graph[node]["_meta"] = {"title": title}
        return node

    def model(self) -> tuple[list, list, list]:
        """Add the embedded model; returns links to its MODEL, CLIP and VAE."""
        node = self.add("UnGuideDemoModel")
        return [node, 0], [node, 1], [node, 2]

    def encode(self, clip: list, text: str | list, title: str = "") -> list:
        """Add a prompt; returns a link to its CONDITIONING."""
        return [self.add("CLIPTextEncode", title, clip=clip, text=text), 0]

    def empty_latent(self, pictures: int) -> list:
        """Add empty latents of SIZE; returns a link to them."""
        return [self.add("EmptyLatentImage", batch_size=pictures, **SIZE), 0]

    def draw(self, column: str, latent: list, vae: list, folder: str) -> None:
        """Decode latents and save them as `folder`/`column`."""
        pictures = self.add("VAEDecode", samples=latent, vae=vae)
        self.add("SaveImage", f"save {column}", images=[pictures, 0], filename_prefix=f"{folder}/{column}")


def base_graph(prompts: list[str], pictures: int, folder: str) -> Graph:
    """The base model draws every prompt with a plain KSampler."""
    build = GraphBuilder()
    model, clip, vae = build.model()
    shared = {
        "model": model, "negative": build.encode(clip, ""), "latent_image": build.empty_latent(pictures), **SAMPLING
    }  # fmt: skip
    for index, prompt in enumerate(prompts):
        positive = build.encode(clip, prompt)
        sampled = build.add("KSampler", prompt or "(empty prompt)", positive=positive, **shared)
        build.draw(f"base-{index:02}", [sampled, 0], vae, folder)
    return build.graph


def untouched_graph(run: int, folder: str) -> Graph:
    """One plain KSampler, its latent saved. A `denoise` a hair below 1 is 1 to the host, but not to its cache."""
    build = GraphBuilder()
    model, clip, _ = build.model()
    prompts = {"positive": build.encode(clip, "a photo of the dog"), "negative": build.encode(clip, "")}
    sampling = {**SAMPLING, "denoise": 1.0 - run * 1e-6, "latent_image": build.empty_latent(2)}
    sampled = build.add("KSampler", f"plain KSampler, run {run}", model=model, **prompts, **sampling)
    build.add("SaveLatent", samples=[sampled, 0], filename_prefix=f"{folder}/plain")
    return build.graph


def forget_graph(concept: str, prompts: list[str], pictures: int, folder: str, **controls) -> Graph:
    """Train, save and probe; then draw every prompt by the LoRA alone, by half of it, and by UnGuidance.

    `controls` are further inputs of the trainer.
    """
    build = GraphBuilder()
    model, clip, vae = build.model()
    lora, loss_curve, training_report = train(build, concept, model, clip, vae, **controls)
    build.add("UnGuideSaveLoRA", lora=lora, filename_prefix=f"unguide/{concept}")
    build.add("SaveImage", "loss curve", images=loss_curve, filename_prefix=f"{folder}/loss")
    build.add("PreviewAny", "training report", source=training_report)
    probed = build.add(
        "UnGuideStabilityProbe", model=model, lora=lora, clip=clip, prompts="\n".join(text or '""' for text in prompts),
        seeds=1, seed=0, steps=50, probe_steps=10, cfg=7.5, w_erased=0.0, w_unrelated=1.0, **SIZE,
    )  # fmt: skip
    build.add("SaveImage", "probe chart", images=[probed, 3], filename_prefix=f"{folder}/probe")
    build.add("PreviewAny", "probe report", source=[probed, 2])
    shared = {
        "positive": build.encode(clip, [probed, 4], "each prompt"),
        "negative": build.encode(clip, "", "empty prompt"),
        "latent_image": build.empty_latent(pictures),
        **SAMPLING,
    }
    for column, w in COLUMNS.items():
        gate = {**GATE, "gate": "always erase", "w_erased": w}
        guided = build.add("UnGuidance", column, model=model, lora=lora, **gate, **AS_PUBLISHED)
        sampled = build.add("KSampler", f"KSampler, w = {w}", model=[guided, 0], **shared)
        build.draw(column, [sampled, 0], vae, folder)
    sampled = build.add("UnGuidanceKSampler", model=model, lora=lora, **GATE, **shared)
    build.draw("unguide", [sampled, 0], vae, folder)
    build.add("PreviewAny", "sampling report", source=[sampled, 1])
    return build.graph


def train(
    build: GraphBuilder, concept: str, model: list, clip: list, vae: list, reference: str = "", **controls
) -> list[list]:
    """Add a preset concept and a trainer that forgets it; returns links to LoRA, loss curve and report."""
    prompts = {"preset": concept, "target": "", "reference": reference, "synonyms": "", "preserve": ""}
    node = build.add("UnGuideConcept", clip=clip, **prompts)
    title = f"train: forget {concept}"
    inputs = {"preset": PRESET, "seed": 0, **SIZE, **controls}
    trained = build.add("UnGuideTrainLoRA", title, model=model, concept=[node, 0], vae=vae, **inputs)
    return [[trained, index] for index in range(3)]
