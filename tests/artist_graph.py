"""An artist's way with a model from a file, in two graphs, and what they give."""

import io
import json

import numpy
from PIL import Image

from dev.client import fetch_image, run_graph, title_of
from dev.demo_graph import GATE, GraphBuilder

FEW = {"preset": "custom", "iterations": 2, "steps": 3, "reuse": 2, "batch_size": 1}
SIZE = {"width": 64, "height": 64}


def learned(url, parts):
    """Forget a concept and save that: the training's report, and the file's name. `parts(build)`: MODEL, CLIP, VAE."""
    build = GraphBuilder()
    model, clip, vae = parts(build)
    idea = build.add("UnGuideConcept", clip=clip, preset="custom", target="a photo of the cat",
                     reference="a photo of the forest", synonyms="a kitten", preserve="a dog\na house")  # fmt: skip
    trained = build.add("UnGuideTrainLoRA", model=model, concept=[idea, 0], vae=vae, seed=0, grid_steps=1,
                        preview_every=1, **SIZE, **FEW)  # fmt: skip
    build.add("PreviewAny", "report", source=[trained, 2])
    gate = build.add("UnGuideCalibrate", model=model, lora=[trained, 0], clip=clip, cfg=7.5, seed=1, captions=3, **SIZE)
    saved = build.add("UnGuideSaveLoRA", lora=[gate, 0], filename_prefix="unguide/from a file")
    build.add("PreviewAny", "name", source=[saved, 0])
    shown = _shown(url, build)
    return json.loads(shown["report"]["text"][0]), shown["name"]["text"][0]


def drawn(url, parts, lora_name):
    """The cat with that file: our sampler's report, and pictures by it ("gate"), always "erased", and of the "base"."""
    build = GraphBuilder()
    model, clip, vae = parts(build)
    lora = [build.add("UnGuideLoadLoRA", lora_name=lora_name), 0]
    latent = [build.add("EmptyLatentImage", batch_size=1, **SIZE), 0]
    texts = {name: [build.add("CLIPTextEncode", clip=clip, text=text), 0]
             for name, text in (("positive", "a photo of the cat"), ("negative", ""))}  # fmt: skip
    sampling = {"latent_image": latent, "seed": 0, "steps": 2, "cfg": 7.5, "sampler_name": "euler",
                "scheduler": "normal", "denoise": 1.0, **texts}  # fmt: skip
    ours = build.add("UnGuidanceKSampler", model=model, lora=lora, on_doubt="steer", **GATE, **sampling)
    build.add("PreviewAny", "report", source=[ours, 1])
    build.draw("gate", [ours, 0], vae, "from a file")
    steered = build.add("UnGuidance", model=model, lora=lora, **{**GATE, "gate": "always erase"})
    for name, it in (("erased", [steered, 0]), ("base", model)):
        build.draw(name, [build.add("KSampler", model=it, **sampling), 0], vae, "from a file")
    shown = _shown(url, build)
    pictures = {name.removeprefix("save "): numpy.array(Image.open(io.BytesIO(fetch_image(url, out["images"][0]))))
                for name, out in shown.items() if name.startswith("save ")}  # fmt: skip
    return json.loads(shown["report"]["text"][0]), pictures


def _shown(url, build):
    """What the graph's nodes with a title show."""
    return {title_of(build.graph, node): out for node, out in run_graph(url, build.graph).items()}
