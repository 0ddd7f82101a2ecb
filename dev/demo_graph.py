"""The demo's graph in the API format: forget a concept on the embedded model, then draw a list of prompts."""

from __future__ import annotations

from dev.client import Graph

PRESET = "object"
SIZE = {"width": 64, "height": 64}
SAMPLING = {
    "seed": 0,
    "steps": 20,
    "cfg": 7.5,
    "sampler_name": "euler",
    "scheduler": "normal",
    "denoise": 1.0,
}
GATE = {"gate": "inside sampling", "w_erased": -1.0, "w_unrelated": 1.0}
COLUMNS = {"lora": 0.0, "half": 0.5}  # one w for every prompt: the LoRA alone, and half of it
AS_PUBLISHED = {"lora_branch": "cond and uncond", "eta": 1.0}


class GraphBuilder:
    """Adds nodes to a graph; a node's outputs are links [id, index]."""

    def __init__(self) -> None:
        """An empty graph."""
        self.graph: Graph = {}

    def add(self, class_type: str, title: str = "", **inputs) -> str:
        """A node's id."""
        node = str(len(self.graph) + 1)
        self.graph[node] = {"class_type": class_type, "inputs": inputs}
        if title:
            self.graph[node]["_meta"] = {"title": title}
        return node

    def model(self) -> tuple[list, list, list]:
        """MODEL, CLIP, VAE of the embedded model."""
        node = self.add("UnGuideDemoModel")
        return [node, 0], [node, 1], [node, 2]

    def draw(self, column: str, latent: list, vae: list, folder: str) -> None:
        """Decode latents and save them as `folder`/`column`."""
        pictures = self.add("VAEDecode", samples=latent, vae=vae)
        self.add("SaveImage", f"save {column}", images=[pictures, 0], filename_prefix=f"{folder}/{column}")


def base_graph(prompts: list[str], pictures: int, folder: str) -> Graph:
    """Every prompt drawn by the plain base model."""
    build = GraphBuilder()
    model, clip, vae = build.model()
    negative = [build.add("CLIPTextEncode", clip=clip, text=""), 0]
    latent = [build.add("EmptyLatentImage", batch_size=pictures, **SIZE), 0]
    for index, prompt in enumerate(prompts):
        positive = [build.add("CLIPTextEncode", clip=clip, text=prompt), 0]
        sampled = build.add(
            "KSampler",
            prompt or "(neutral prompt)",
            model=model,
            positive=positive,
            negative=negative,
            latent_image=latent,
            **SAMPLING,
        )
        build.draw(f"base-{index:02}", [sampled, 0], vae, folder)
    return build.graph


def untouched_graph(run: int, folder: str) -> Graph:
    """One plain KSampler, its latent saved. A `denoise` a hair below 1 is 1 to the host, but not to its cache."""
    build = GraphBuilder()
    model, clip, _ = build.model()
    prompts = [[build.add("CLIPTextEncode", clip=clip, text=text), 0] for text in ("a photo of the dog", "")]
    latent = [build.add("EmptyLatentImage", batch_size=2, **SIZE), 0]
    sampled = build.add(
        "KSampler",
        f"plain KSampler, run {run}",
        model=model,
        positive=prompts[0],
        negative=prompts[1],
        latent_image=latent,
        **{**SAMPLING, "denoise": 1.0 - run * 1e-6},
    )
    build.add("SaveLatent", samples=[sampled, 0], filename_prefix=f"{folder}/plain")
    return build.graph


def forget_graph(concept: str, prompts: list[str], pictures: int, folder: str, **controls) -> Graph:
    """Train, save and probe; then every prompt by the LoRA alone, by half of it, and by UnGuidance.

    `controls` are further inputs of the trainer.
    """
    build = GraphBuilder()
    model, clip, vae = build.model()
    idea = build.add("UnGuideConcept", clip=clip, preset=concept, target="", reference="", synonyms="", preserve="")
    trained = build.add(
        "UnGuideTrainLoRA",
        f"train: forget {concept}",
        model=model,
        concept=[idea, 0],
        vae=vae,
        seed=0,
        **SIZE,
        **{"preset": PRESET, **controls},
    )
    lora = [trained, 0]
    build.add("UnGuideSaveLoRA", lora=lora, filename_prefix=f"unguide/{concept}")
    build.add("SaveImage", "loss curve", images=[trained, 1], filename_prefix=f"{folder}/loss")
    build.add("PreviewAny", "training report", source=[trained, 2])
    probed = build.add(
        "UnGuideStabilityProbe",
        model=model,
        lora=lora,
        clip=clip,
        prompts="\n".join(prompt or '""' for prompt in prompts),
        seeds=1,
        seed=0,
        steps=50,
        probe_steps=10,
        cfg=7.5,
        w_erased=-1.0,
        w_unrelated=1.0,
        **SIZE,
    )
    build.add("SaveImage", "probe chart", images=[probed, 3], filename_prefix=f"{folder}/probe")
    build.add("PreviewAny", "probe report", source=[probed, 2])
    positive = [build.add("CLIPTextEncode", "each prompt", clip=clip, text=[probed, 4]), 0]
    negative = [build.add("CLIPTextEncode", "neutral prompt", clip=clip, text=""), 0]
    latent = [build.add("EmptyLatentImage", batch_size=pictures, **SIZE), 0]
    drawing = {"positive": positive, "negative": negative, "latent_image": latent, **SAMPLING}
    for column, w in COLUMNS.items():
        steered = build.add(
            "UnGuidance",
            column,
            model=model,
            lora=lora,
            **{**GATE, "gate": "always erase", "w_erased": w},
            **AS_PUBLISHED,
        )
        sampled = build.add("KSampler", f"KSampler, w = {w}", model=[steered, 0], **drawing)
        build.draw(column, [sampled, 0], vae, folder)
    sampled = build.add("UnGuidanceKSampler", model=model, lora=lora, **GATE, **drawing)
    build.draw("unguide", [sampled, 0], vae, folder)
    build.add("PreviewAny", "sampling report", source=[sampled, 1])
    return build.graph
