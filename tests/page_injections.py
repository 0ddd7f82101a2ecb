"""Script in all that other people may have written (prompts, lists, presets, LoRAs, names), shown in a real page."""

import csv
import json
import shutil
from pathlib import Path

from node_graphs import WS, NodeGraph
from safetensors import safe_open
from safetensors.torch import save_file
from sweep_report import write_sweep_report

from dev.browser import ComfyPage
from dev.demo_graph import GATE, SAMPLING, SIZE
from dev.sweep.plan import Settings

FEW = {"preset": "custom", "iterations": 2, "rank": 1, "steps": 3, "reuse": 2, "batch_size": 1, "grid_steps": 1}
SETTLED = 1500  # milliseconds in which a picture that is missing fails, which runs its script
RUN = """async (graph) => {
    window.unguideEnded = "";
    for (const name of ["execution_success", "execution_error"])
        app.api.addEventListener(name, () => { window.unguideEnded = name; }, { once: true });
    await app.loadApiJson(graph, "it.json");
    await app.queuePrompt(0);
    if (app.lastNodeErrors && Object.keys(app.lastNodeErrors).length)
        window.unguideEnded = JSON.stringify(app.lastNodeErrors);
}"""
ENDED = "() => window.unguideEnded"
MENUS = """() => app.graph._nodes.forEach((node) => node.widgets?.forEach((widget) => {
    const values = widget.options?.values;
    if (Array.isArray(values)) new LiteGraph.ContextMenu(values, {event: new MouseEvent("click"), scale: 1}, window);
}))"""
RAN = "() => { const ran = window.unguideRan ?? []; window.unguideRan = []; return ran; }"


def note(place: str) -> str:
    """Script that notes that it ran."""
    return f"(window.unguideRan=window.unguideRan||[]).push(`{place}`)"


def script(place: str) -> str:
    """A tag that runs it."""
    return f'<img src=x onerror="{note(place)}">'


def words(place: str) -> str:
    """A prompt with script in it in each of WAYS."""
    return " ".join((
        script(place), f'"\'><svg onload="{note(place)}">', f"[[x|javascript:{note(place)}]]",
        f'https://example.invalid/"onmouseover="{note(place)}"', f"&lt;img src=x onerror='{note(place)}'&gt;",
    ))  # fmt: skip


WAYS = 5  # in which `words` has script


def write_files(base: Path, lora: Path) -> None:
    """Write hostile files into the folders of a server that is not started yet; `lora` is a good one."""
    inputs, loras = base / "input", base / "models" / "loras"
    for folder in (inputs, loras):
        folder.mkdir(parents=True, exist_ok=True)
    preset = {"target": words("preset"), "reference": "a photo of the forest", "preserve": [words("preset, preserve")]}
    for name in ("preset.json", f"{script('name of a preset')}.json"):
        (inputs / name).write_text(json.dumps(preset), encoding="utf-8")
    (inputs / "wrong.json").write_text(json.dumps({"target": {script("wrong preset"): 1}, "reference": ""}))
    for name in ("list.csv", f"{script('name of a list')}.csv"):
        write_list(inputs / name, [words("list"), 1], ["a", words("seed of a list")])
    write_list(inputs / "bad.csv", ["a", script("bad list")])
    with safe_open(lora, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # not a dict
        metadata = file.metadata()
    tensors[f"bundle_emb.{script('tensor')}.clip_l"] = next(iter(tensors.values())).clone()
    save_file(tensors, loras / "hostile.safetensors", metadata | {script("metadata"): words("metadata")})
    shutil.copy(lora, loras / "good.safetensors")
    shutil.copy(lora, loras / f"{script('name of a LoRA')}.safetensors")
    header = json.dumps({script("x"): 1}).encode()
    (loras / "broken.safetensors").write_bytes(b"\x20" + bytes(7) + header[:32].ljust(32))


def write_list(path: Path, *rows: list) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["prompt", "seed"], *rows])


class InjectionGraph(NodeGraph):
    """A graph on the embedded model with script in its texts."""

    def __init__(self):
        super().__init__(prompt="", run=0)

    def shown(self, node: str, output: int = 0) -> list:
        """An output of a node, which is run for it."""
        self.show([node, output])
        return [node, output]

    def concept(self, preset: str = "custom", target: str = "", reference: str = "a photo of the forest") -> list:
        return self.shown(self.add("UnGuideConcept", clip=self.clip, preset=preset, target=target, reference=reference,
                                   synonyms=words("synonym"), preserve=words("preserve")))  # fmt: skip

    def prompt_list(self, file: str) -> list:
        return self.shown(self.add("UnGuidePromptList", file=file, offset=0, limit=3, seed=0, cfg=7.5))

    def probe(self, lora: str, prompts: str) -> None:
        self.add("UnGuideStabilityProbe", model=self.base, clip=self.clip, prompts=prompts, seed=0, cfg=7.5,
                 mode="paper", lora=self.lora(lora), steps=3, probe_steps=1, **WS, **SIZE)  # fmt: skip

    def train(self, **inputs) -> list:
        return self.link("UnGuideTrainLoRA", model=self.base, seed=0, **inputs, **SIZE, **FEW)

    def evaluate(self, images: list, **inputs) -> None:
        self.add("UnGuideEvaluate", images=images, classifier="demo judges", nudity=False, **inputs)

    def all_nodes(self) -> None:
        """Every node once, with hostile words wherever words go."""
        trained = self.train(concept=self.concept(target=words("target")), vae=self.vae)
        ready = self.link("UnGuideCalibrate", model=self.base, lora=trained, clip=self.clip, cfg=7.5, seed=1,
                          captions=3, **SIZE)  # fmt: skip
        self.add("UnGuideSaveLoRA", lora=ready, filename_prefix="unguide/hostile")
        imported = self.add("UnGuideImportLoRA", model=self.base, lora_name="hostile.safetensors", alpha=8.0)
        self.shown(imported, 1)
        self.probe("hostile.safetensors", "\n".join(words(f"probe {i}") for i in range(2)))
        gate = {"model": self.base, "lora": [imported, 0], **GATE, "gate": "always erase"}
        texts = {"positive": self.encode(self.clip, self.prompt_list("list.csv")),
                 "negative": self.encode(self.clip, words("negative"))}  # fmt: skip
        sampling = {"latent_image": self.latent, **texts, **SAMPLING, "steps": 1}
        self.shown(self.add("UnGuidanceKSampler", **gate, **sampling), 1)
        sampled = self.link("KSampler", **sampling, model=self.link("UnGuidance", **gate))
        pictures = self.link("VAEDecode", samples=sampled, vae=self.vae)
        self.evaluate(pictures, prompt=words("prompt"), expected="cat", classes="cat\ndog")
        self.shown(self.add("UnGuidanceGuider", cfg=7.5, **gate, **texts))


GRAPHS = {
    "all nodes": InjectionGraph.all_nodes,
    "the file of a preset": lambda graph: graph.concept("preset.json", reference=""),
    "the file of a wrong preset": lambda graph: graph.concept("wrong.json", reference=""),
    "equal prompts": lambda graph: graph.concept(target=words("equal"), reference=words("equal")),
    "the file of a bad list": lambda graph: graph.prompt_list("bad.csv"),
    "the file of a broken LoRA": lambda graph: graph.show(graph.lora("broken.safetensors")),
    "a pattern": lambda graph: graph.train(
        concept=graph.concept(target="a photo of the cat"), targets="custom", pattern=words("pattern")),
    "no such class": lambda graph: graph.evaluate(
        graph.link("EmptyImage", batch_size=1, color=0, **SIZE), prompt="", expected=words("expected"), classes="cat"),
    "no such folder": lambda graph: graph.add(
        "UnGuideSaveLoRA", filename_prefix=script("prefix"), lora=graph.lora("good.safetensors")),
    "brackets": lambda graph: graph.probe("good.safetensors", "(" * 200 + words("brackets")),
}  # fmt: skip
"""What is run in the page; most end in an error that quotes other people's words."""


def scripts_run_by_page(comfy: ComfyPage) -> tuple[int, list[str]]:
    """Run every graph in ComfyUI's page, and open its menus: how many scripts were there, and which ran."""
    number, ran = 0, []
    for name, fill in GRAPHS.items():
        graph = InjectionGraph()
        fill(graph)
        number += json.dumps(graph.graph).count("unguideRan") + ("file" in name) + 3  # names in menus
        comfy.page.evaluate(RUN, graph.graph)
        comfy.page.wait_for_function(ENDED, timeout=240_000)
        ended = comfy.page.evaluate(ENDED)
        if name == "all nodes" and ended != "execution_success":
            raise AssertionError(f"the graph of all nodes ended with {ended}: {comfy.words()} {comfy.dialogs()}")
        comfy.page.evaluate(MENUS)
        comfy.page.wait_for_timeout(SETTLED)
        ran += [f"{name}: {place}" for place in comfy.page.evaluate(RAN)]
        comfy.page.keyboard.press("Escape")
    return number, ran


def scripts_run_by_report(page, folder: Path, host: Path) -> tuple[int, list[str]]:
    """The same for a sweep's page, with hostile names, prompts, classes and reasons."""
    rows, lora = folder / f"{script('list')}.csv", folder / f"{script('lora')}#?%20.safetensors"
    lora.write_bytes(b"")
    write_list(rows, [words("prompt"), 1], ["", words("problem")])
    settings = Settings(list=rows, output=folder, host=host, modes=("base", "ours"), loras=(lora,))
    write_sweep_report(settings, seen=[words("seen")], nudity={words("nudity"): 1},
                       decisions=[{"w": -1.0, "score": 0.5}])  # fmt: skip
    page.goto((folder / "report.html").as_uri())
    page.wait_for_timeout(SETTLED)
    missing = page.evaluate("() => [...document.images].filter((it) => !it.naturalWidth).map((it) => it.src)")
    if missing:
        raise AssertionError(f"pictures of the report are not found: {missing}")
    return 6 * WAYS, page.evaluate(RAN)
