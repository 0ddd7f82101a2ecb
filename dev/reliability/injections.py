"""Script in whatever a stranger may have written (prompts, lists, presets, LoRAs, names), shown in a real page."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dev.browser import ComfyPage
from dev.demo_graph import GATE, SAMPLING, SIZE, GraphBuilder

FEW = {"preset": "custom", "iterations": 2, "rank": 1, "steps": 3, "reuse": 2, "batch_size": 1, "grid_steps": 1}
DONE = "() => window.unguideEnded"
SETTLED = 1500  # milliseconds in which a picture that is not there fails, which runs what hangs on it
MENUS = """() => app.graph._nodes.forEach((node) => node.widgets?.forEach((widget) => {
    const values = widget.options?.values;
    if (Array.isArray(values)) new LiteGraph.ContextMenu(values, {event: new MouseEvent("click"), scale: 1}, window);
}))"""


def script(place: str) -> str:
    """A tag that notes that it ran."""
    return f'<img src=x onerror="(window.unguideRan=window.unguideRan||[]).push(`{place}`)">'


def words(place: str) -> str:
    """A prompt with script in it by every way that we know."""
    note = f"(window.unguideRan=window.unguideRan||[]).push(`{place}`)"
    its = (
        script(place),
        f'"\'><svg onload="{note}">',
        f"[[x|javascript:{note}]]",
        f'https://example.invalid/"onmouseover="{note}"',
        f"&lt;img src=x onerror='{note}'&gt;",
    )
    return " ".join(its)


WAYS = 5  # of `words`


@dataclass
class Found:
    """How many were put where, and which ran."""

    tried: int = 0
    ran: list[str] = field(default_factory=list)

    def add(self, more: Found) -> None:
        """Those of another try."""
        self.tried, self.ran = self.tried + more.tried, [*self.ran, *more.ran]

    def figures(self) -> dict[str, int]:
        """For the benchmark."""
        return {"injections_tried": self.tried, "injections_run": len(self.ran)}


def fill(base: Path, lora: Path) -> None:
    """Hostile files in the folders of a server that is not started yet; `lora` is a good one."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    given, loras = base / "input", base / "models" / "loras"
    for folder in (given, loras):
        folder.mkdir(parents=True, exist_ok=True)
    idea = {"target": words("preset"), "reference": "a photo of the forest", "preserve": [words("preset, preserve")]}
    for name in ("preset.json", f"{script('name of a preset')}.json"):
        (given / name).write_text(json.dumps(idea), encoding="utf-8")
    (given / "wrong.json").write_text(json.dumps({"target": {script("wrong preset"): 1}, "reference": ""}))
    for name in ("list.csv", f"{script('name of a list')}.csv"):
        with (given / name).open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerows([["prompt", "seed"], [words("list"), 1], ["a", words("seed of a list")]])
    (given / "bad.csv").write_text(f'prompt,seed\na,"{script("bad list").replace(chr(34), chr(34) * 2)}"\n')
    with safe_open(lora, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # no dict
        about = file.metadata()
    tensors[f"bundle_emb.{script('tensor')}.clip_l"] = next(iter(tensors.values())).clone()
    save_file(tensors, loras / "hostile.safetensors", about | {script("metadata"): words("metadata")})
    shutil.copy(lora, loras / "good.safetensors")
    shutil.copy(lora, loras / f"{script('name of a LoRA')}.safetensors")
    (loras / "broken.safetensors").write_bytes(
        b"\x20" + bytes(7) + json.dumps({script("x"): 1}).encode()[:32].ljust(32)
    )


def graphs() -> dict[str, Callable[[GraphBuilder], None]]:
    """What is run in the page, by a name; those that end in an error do so with a stranger's words."""
    return {
        "all nodes": all_nodes,
        "a preset's file": lambda it: idea(it, it.model(), "preset.json"),
        "a preset that is wrong": lambda it: idea(it, it.model(), "wrong.json"),
        "equal prompts": lambda it: idea(it, it.model(), "custom", words("equal"), words("equal")),
        "a list that is bad": lambda it: listed(it, "bad.csv"),
        "a broken LoRA": lambda it: show(it, [it.add("UnGuideLoadLoRA", lora_name="broken.safetensors"), 0]),
        "a pattern": pattern,
        "no such class": no_such_class,
        "no such folder": lambda it: it.add("UnGuideSaveLoRA", filename_prefix=script("prefix"),
                                            lora=[it.add("UnGuideLoadLoRA", lora_name="good.safetensors"), 0]),
        "brackets": lambda it: probe(it, it.model(), "good.safetensors", "(" * 200 + words("brackets")),
    }  # fmt: skip


def show(it: GraphBuilder, source: list) -> None:
    """So that a node is run."""
    it.add("PreviewAny", source=source)


def idea(it: GraphBuilder, model: tuple, preset: str, target: str = "", reference: str = "") -> list:
    """A concept with hostile words."""
    synonyms, preserve = words("synonym"), words("preserve")
    made = it.add("UnGuideConcept", clip=model[1], preset=preset, target=target, reference=reference,
                  synonyms=synonyms, preserve=preserve)  # fmt: skip
    show(it, [made, 0])
    return [made, 0]


def probe(it: GraphBuilder, model: tuple, lora: str, prompts: str) -> None:
    """The stability probe as the paper has it."""
    it.add("UnGuideStabilityProbe", model=model[0], clip=model[1], prompts=prompts, seed=0, cfg=7.5, mode="paper",
           lora=[it.add("UnGuideLoadLoRA", lora_name=lora), 0], steps=3, probe_steps=1, **GATE_WS, **SIZE)  # fmt: skip


GATE_WS = {name: GATE[name] for name in ("w_erased", "w_unrelated")}


def listed(it: GraphBuilder, file: str) -> int:
    """A prompt list."""
    made = it.add("UnGuidePromptList", file=file, offset=0, limit=3, seed=0, cfg=7.5)
    show(it, [made, 0])
    return made


def pattern(it: GraphBuilder) -> None:
    """Layers that are not there."""
    model = it.model()
    concept = idea(it, model, "custom", "a photo of the cat", "a photo of the forest")
    it.add("UnGuideTrainLoRA", model=model[0], concept=concept, seed=0, targets="custom", pattern=words("pattern"),
           **SIZE, **FEW)  # fmt: skip


def no_such_class(it: GraphBuilder) -> None:
    """A class that is not among the classes."""
    images = [it.add("EmptyImage", batch_size=1, color=0, **SIZE), 0]
    it.add("UnGuideEvaluate", images=images, prompt="", expected=words("expected"), classes="cat",
           classifier="demo judges", nudity=False)  # fmt: skip


def all_nodes(it: GraphBuilder) -> None:
    """Every node once, with hostile words wherever words go."""
    model = it.model()
    concept = idea(it, model, "custom", words("target"), "a photo of the forest")
    trained = it.add("UnGuideTrainLoRA", model=model[0], concept=concept, vae=model[2], seed=0, **SIZE, **FEW)
    ready = it.add("UnGuideCalibrate", model=model[0], lora=[trained, 0], clip=model[1], cfg=7.5, seed=1, captions=3,
                   **SIZE)  # fmt: skip
    it.add("UnGuideSaveLoRA", lora=[ready, 0], filename_prefix="unguide/hostile")
    imported = it.add("UnGuideImportLoRA", model=model[0], lora_name="hostile.safetensors", alpha=8.0)
    show(it, [imported, 1])
    probe(it, model, "hostile.safetensors", "\n".join(words(f"probe {i}") for i in range(2)))
    row = listed(it, "list.csv")
    latent = [it.add("EmptyLatentImage", batch_size=1, **SIZE), 0]
    texts = {"positive": [it.add("CLIPTextEncode", clip=model[1], text=[row, 0]), 0],
             "negative": [it.add("CLIPTextEncode", clip=model[1], text=words("negative")), 0]}  # fmt: skip
    gate = {**GATE, "gate": "always erase"}
    how = {**SAMPLING, "steps": 1}
    lora = [imported, 0]
    ours = it.add("UnGuidanceKSampler", model=model[0], lora=lora, latent_image=latent, **gate, **texts, **how)
    show(it, [ours, 1])
    steered = it.add("UnGuidance", model=model[0], lora=lora, **gate)
    drawn = it.add("KSampler", model=[steered, 0], latent_image=latent, **texts, **how)
    pictures = [it.add("VAEDecode", samples=[drawn, 0], vae=model[2]), 0]
    it.add("UnGuideEvaluate", images=pictures, prompt=words("prompt"), expected="cat", classes="cat\ndog",
           classifier="demo judges", nudity=False)  # fmt: skip
    guider = it.add("UnGuidanceGuider", model=model[0], lora=lora, cfg=7.5, **gate, **texts)
    show(it, [guider, 0])


def try_page(comfy: ComfyPage) -> Found:
    """Run every graph in ComfyUI's page, and open its menus."""
    found = Found()
    for name, make in graphs().items():
        build = GraphBuilder()
        make(build)
        found.tried += json.dumps(build.graph).count("unguideRan") + name.count("file")
        ended = _run(comfy.page, build.graph)
        if name == "all nodes" and ended != "execution_success":
            raise AssertionError(f"the graph of all nodes ended with {ended}: {comfy.words()} {comfy.dialogs()}")
        comfy.page.evaluate(MENUS)
        comfy.page.wait_for_timeout(SETTLED)
        found.tried += 3  # names in menus
        found.ran += [f"{name}: {it}" for it in _ran(comfy.page)]
        comfy.page.keyboard.press("Escape")
    return found


def _run(page: Any, graph: dict) -> str:
    """Load and queue a graph as the page does; how it ended."""
    page.evaluate(
        """async (graph) => {
            window.unguideEnded = "";
            for (const name of ["execution_success", "execution_error"])
                app.api.addEventListener(name, () => { window.unguideEnded = name; }, { once: true });
            await app.loadApiJson(graph, "it.json");
            await app.queuePrompt(0);
            if (app.lastNodeErrors && Object.keys(app.lastNodeErrors).length)
                window.unguideEnded = JSON.stringify(app.lastNodeErrors);
        }""",
        graph,
    )
    page.wait_for_function(DONE, timeout=240_000)
    return page.evaluate(DONE)


def _ran(page: Any) -> list[str]:
    ran: list[str] = page.evaluate("() => { const ran = window.unguideRan ?? []; window.unguideRan = []; return ran; }")
    return ran


def try_reports(page: Any, folder: Path, host: Path) -> Found:
    """A sweep's page with hostile names, prompts, classes and reasons."""
    import torch

    from dev.sweep.artist import png_of
    from dev.sweep.ledger import Drawn, Ledger
    from dev.sweep.plan import Plan, Settings
    from dev.sweep.report import write_report

    found = Found(tried=6 * WAYS)
    rows, lora = folder / f"{script('list')}.csv", folder / f"{script('lora')}#?%20.safetensors"
    lora.write_bytes(b"")
    with rows.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["prompt", "seed"], [words("prompt"), 1], ["", words("problem")]])
    settings = Settings(list=rows, output=folder, host=host, modes=("base", "ours"), loras=(lora,))
    plan = Plan(settings)
    with Ledger(folder, settings) as ledger:
        for job in plan.jobs():
            result = {"number": job.number, "prompt": job.prompt, "seed": job.seed, "guidance": 7.5, "lora": job.lora,
                      "mode": job.mode, "evaluations": 2, "seen": [words("seen")], "nudity": {words("nudity"): 1},
                      "decisions": [{"w": -1.0, "score": 0.5}]}  # fmt: skip
            ledger.enter(job, Drawn(png_of(torch.zeros(3, 8, 8), result), result))
        write_report(folder, ledger, plan)
    page.goto((folder / "report.html").as_uri())
    page.wait_for_timeout(SETTLED)
    found.ran += [f"report: {it}" for it in _ran(page)]
    missing = page.evaluate("() => [...document.images].filter((it) => !it.naturalWidth).map((it) => it.src)")
    if missing:
        raise AssertionError(f"pictures of the report are not found: {missing}")
    return found
