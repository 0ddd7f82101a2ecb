"""`python dev demo`: forget three concepts in a real ComfyUI, on the embedded model, and show what is left of them."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import time
from pathlib import Path
from statistics import fmean as mean

from dev.client import Graph, fetch_image, run_graph, title_of
from dev.demo_graph import COLUMNS, SAMPLING, base_graph, forget_graph, untouched_graph
from dev.environment import BASE, ROOT
from dev.progress import GraphProgress
from dev.server import HostServer
from dev.stages import DevError, say

PICTURES = 4  # of each prompt
SHOWN = 3  # of these in the grid
FOLDER = "unguide-demo"  # below the host's output folder
DRAWN_BY = ("base", *COLUMNS, "unguide")
UNRELATED_SHOWN = 4
TITLES = {"base": "base model", "lora": "LoRA alone", "half": "uniform w = 0.5", "unguide": "UnGuidance"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `demo`."""
    parser.add_argument(
        "--concepts", nargs="+", default=["cat", "automobile", "frog"], metavar="NAME", help="presets to forget"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "demo", help="where the results go")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="where models run (default: cpu)")


def run(options: argparse.Namespace) -> int:
    """Run the demo; 0 when it ran to its end."""
    began = time.monotonic()
    concepts = {name: read_concept(name) for name in classes()}
    unknown = [name for name in options.concepts if name not in concepts]
    if unknown:
        raise DevError(f"there is no preset {unknown[0]!r}: choose from {', '.join(concepts)}.")
    options.output.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(BASE / "output" / FOLDER, ignore_errors=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # so tiny a model is as fast, and does not crawl on a busy machine
    say("Starting ComfyUI with the UnGuide nodes ...")
    with HostServer(options.host, BASE, device=options.device) as server:
        server.require_nodes(["UnGuideDemoModel", "UnGuideTrainLoRA", "UnGuidanceKSampler"])
        demo = Demo(server.url, concepts, options.output)
        demo.draw_base()
        for name in options.concepts:
            demo.forget(name)
    report = demo.report(time.monotonic() - began)
    write(options.output / "report.json", json.dumps(report, indent=1).encode())
    say(summary(report, options.output))
    return 0


def classes() -> list[str]:
    """The classes that the embedded model can forget: each is a shipped prompt file too."""
    return sorted(json.loads((ROOT / "prompts" / "benchmark" / "words.json").read_text(encoding="utf-8"))["classes"])


def read_concept(name: str) -> dict:
    """A shipped prompt file."""
    return json.loads((ROOT / "prompts" / f"{name}.json").read_text(encoding="utf-8"))


class Demo:
    """One run of the demo on a server: what was drawn, and what the judges say of it."""

    def __init__(self, url: str, concepts: dict[str, dict], output: Path) -> None:
        """For a running host."""
        from dev.judge import Panel  # torch, which only the environment has

        self.url, self.concepts, self.output = url, concepts, output
        self.judges = Panel()
        self.pictures = {}  # (drawn by, prompt) -> [N, 3, H, W] in [0, 1]
        self.results: dict[str, dict] = {}
        self.plain = []  # latents of the same plain KSampler run, before and after everything else

    def draw_base(self) -> None:
        """Draw every prompt of every concept with the base model, and a first plain latent."""
        prompts = [p for concept in self.concepts.values() for p in (concept["target"], *concept["synonyms"])] + [""]
        shown = self.run_graph(base_graph(prompts, PICTURES, f"{FOLDER}/base"), "The base model draws")
        for index, prompt in enumerate(prompts):
            self.pictures["base", prompt] = self.load(shown[f"save base-{index:02}"]["images"])
        self.draw_plain()

    def draw_plain(self) -> None:
        """A plain KSampler run, whose latent must be the same to the bit whatever ran before."""
        from safetensors.torch import load

        shown = run_graph(self.url, untouched_graph(len(self.plain), FOLDER))
        (file,) = [file for node in shown.values() for file in node["latents"]]
        self.plain.append(load(fetch_image(self.url, file))["latent_tensor"])

    def forget(self, name: str) -> None:
        """Train, probe, draw and judge one concept."""
        concept = self.concepts[name]
        prompts = [concept["target"], *concept["synonyms"], *concept["other"]]
        graph = forget_graph(name, prompts, PICTURES, f"{FOLDER}/{name}")
        shown = self.run_graph(graph, f"Forget {concept['target']!r}")
        for column in DRAWN_BY[1:]:
            pictures = self.load(shown[f"save {column}"]["images"]).split(PICTURES)
            self.pictures.update(zip([(column, prompt) for prompt in prompts], pictures, strict=True))
        self.draw_plain()
        for title, file in (("loss curve", "loss"), ("probe chart", "probe")):
            write(self.output / f"{name}-{file}.png", fetch_image(self.url, shown[title]["images"][0]))
        write(self.output / f"{name}-grid.png", self.grid(name))
        sampling = [json.loads(text) for text in shown["sampling report"]["text"]]
        self.results[name] = {
            "accuracies": {column: self.accuracies(name, column) for column in DRAWN_BY},
            "training": json.loads(shown["training report"]["text"][0]),
            "probe": json.loads(shown["probe report"]["text"][0]),
            "sampling": [{"prompt": prompt, **entry} for prompt, entry in zip(prompts, sampling, strict=True)],
        }

    def run_graph(self, graph: Graph, what: str) -> dict[str, dict]:
        """Run a graph under a progress bar; what its titled nodes showed."""
        say(f"\n{what}")
        with GraphProgress(graph) as progress:
            outputs = run_graph(self.url, graph, progress)
        return {title_of(graph, node): shown for node, shown in outputs.items()}

    def load(self, images: list[dict]):
        """Pictures that the host saved, [N, 3, H, W] in [0, 1]."""
        import torch
        from PIL import Image
        from torchvision.transforms.functional import to_tensor

        files = [Image.open(io.BytesIO(fetch_image(self.url, image))) for image in images]
        return torch.stack([to_tensor(file.convert("RGB")) for file in files])

    def accuracies(self, name: str, column: str) -> dict[str, float]:
        """Acc_e, Acc_s, Acc_g and H0 of one way of drawing, by the mean of both judges' top-1."""
        from unguide_ops.metrics import h0

        def share(prompt: str, label: str) -> float:
            return self.judges.share_recognised(self.pictures[column, prompt], label)

        concept = self.concepts[name]
        acc_e = share(concept["target"], name)
        acc_s = mean(share(other["target"], label) for label, other in self.concepts.items() if label != name)
        acc_g = mean(share(prompt, name) for prompt in concept["synonyms"])
        return {"acc_e": acc_e, "acc_s": acc_s, "acc_g": acc_g, "h0": h0(acc_e, acc_s, acc_g)}

    def grid(self, name: str) -> bytes:
        """Target, two synonyms, four unrelated prompts and the neutral prompt, drawn three ways, as PNG."""
        import torch

        from unguide_ops.figures import comparison_grid

        concept = self.concepts[name]
        rows = [concept["target"], *concept["synonyms"][:2], *concept["other"][::2][:UNRELATED_SHOWN], ""]
        columns = [column for column in DRAWN_BY if column != "half"]
        cells = [[self.pictures[column, prompt][:SHOWN].movedim(1, -1) for column in columns] for prompt in rows]
        title = f"Forgetting {concept['target']!r}"
        pictures = torch.stack([torch.stack(row) for row in cells])
        return png(comparison_grid(rows, [TITLES[column] for column in columns], pictures, title))

    def report(self, seconds: float) -> dict:
        """Everything measured, the figures first."""
        base = [self.accuracies(name, "base") for name in self.concepts]
        figures = {
            "base_top1": mean(accuracies["acc_e"] for accuracies in base),
            "base_synonyms_top1": mean(accuracies["acc_g"] for accuracies in base),
        }
        for column in DRAWN_BY:
            for measure in ("acc_e", "acc_s", "acc_g", "h0"):
                values = [result["accuracies"][column][measure] for result in self.results.values()]
                figures[f"{measure}_{column}"] = mean(values)
        figures["host_untouched"] = int(all(latent.equal(self.plain[0]) for latent in self.plain))
        figures["seconds_total"] = round(seconds, 1)
        return {"figures": figures, "concepts": self.results, "pictures_of_each_prompt": PICTURES}


def summary(report: dict, output: Path) -> str:
    """The report in words."""
    figures, results = report["figures"], report["concepts"]
    trained = max(result["training"]["evaluations"] for result in results.values())
    entries = [entry for result in results.values() for entry in result["sampling"]]
    plain = min(entry["evaluations"] for entry in entries)
    steered = max(entry["evaluations"] for entry in entries)
    lines = [
        "",
        f"Forgotten, one by one: {', '.join(results)}. Share of pictures that two judges recognise:",
        "",
        f"{'':18}{'the concept':>13}{'its synonyms':>14}{'other classes':>15}{'H0':>8}",
    ]
    for column in DRAWN_BY:
        shares = [f"{figures[f'{measure}_{column}']:.0%}" for measure in ("acc_e", "acc_g", "acc_s")]
        lines.append(f"{TITLES[column]:18}{shares[0]:>13}{shares[1]:>14}{shares[2]:>15}{figures[f'h0_{column}']:>8.3f}")
    untouched = "the same bits" if figures["host_untouched"] else "NOT the same bits"
    lines += [
        "",
        f"Each LoRA was trained in {trained} evaluations of the model (the paper: about 10,800).",
        f"The gate decided each picture in its first step: unrelated ones cost {plain} evaluations (plain sampling:",
        f"{2 * SAMPLING['steps'] * PICTURES}), erased ones {steered}.",
        f"A plain KSampler gave {untouched} before and after each run.",
        f"Done in {figures['seconds_total']:.0f} s. Grids, loss curves, probe charts and report.json: {output}",
    ]
    return "\n".join(lines)


def png(image) -> bytes:
    """An IMAGE [1, H, W, 3] in [0, 1] as a PNG file's bytes."""
    from torchvision.transforms.functional import to_pil_image

    buffer = io.BytesIO()
    to_pil_image(image[0].movedim(-1, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(content)
    unfinished.replace(path)
