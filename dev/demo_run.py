"""The graphs of `python dev demo`, run on a server one after the other: pictures, their judges' answers, the report."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from statistics import fmean as mean

import torch
from PIL import Image
from safetensors.torch import load
from torchvision.transforms.functional import to_pil_image, to_tensor
from unguide.demo_model.judges import JudgePair
from unguide.unguide_ops.metrics import h0
from unguide.unguide_ops.plots import comparison_grid

from dev.client import Graph, fetch_image, run_graph, title_of
from dev.console import say
from dev.demo_graph import COLUMNS, SAMPLING, base_graph, forget_graph, untouched_graph
from dev.environment import BASE
from dev.progress import GraphProgress

PICTURES = 4  # of each prompt
SHOWN = 3  # of these in the grid
FOLDER = "unguide-demo"  # below the host's output folder
UNRELATED_SHOWN = 4
TITLES = {"base": "base model", "lora": "LoRA alone", "half": "uniform w = 0.5", "unguide": "UnGuidance"}
METHODS = ("base", *COLUMNS, "unguide")


class Demo:
    """One run of the demo: the pictures of each sampling method, and the results of each concept."""

    def __init__(self, url: str, concepts: dict[str, dict], output: Path) -> None:
        """`url` is the server's; `concepts` are the prompt files of all classes by name."""
        shutil.rmtree(BASE / "output" / FOLDER, ignore_errors=True)
        self.url, self.concepts, self.output = url, concepts, output
        self.judges = JudgePair()
        self.pictures: dict[tuple[str, str], torch.Tensor] = {}  # (method, prompt) -> [N, 3, H, W] in [0, 1]
        self.results: dict[str, dict] = {}
        self.latents: list[torch.Tensor] = []  # of the same plain KSampler, before and after each concept

    def draw_base(self) -> None:
        """Draw every prompt of every concept with the base model, and a first plain latent."""
        prompts = [p for concept in self.concepts.values() for p in (concept["target"], *concept["synonyms"])] + [""]
        outputs = self.run_graph(base_graph(prompts, PICTURES, f"{FOLDER}/base"), "The base model draws")
        for index, prompt in enumerate(prompts):
            self.pictures["base", prompt] = self.load(outputs[f"save base-{index:02}"]["images"])
        self.draw_plain()

    def draw_plain(self) -> None:
        """Run a plain KSampler, whose latent must be the same to the bit whatever ran before."""
        outputs = run_graph(self.url, untouched_graph(len(self.latents), FOLDER))
        (file,) = [file for output in outputs.values() for file in output["latents"]]
        self.latents.append(load(fetch_image(self.url, file))["latent_tensor"])

    def forget(self, name: str) -> None:
        """Train, probe, draw and judge one concept."""
        concept = self.concepts[name]
        prompts = [concept["target"], *concept["synonyms"], *concept["other"]]
        graph = forget_graph(name, prompts, PICTURES, f"{FOLDER}/{name}")
        outputs = self.run_graph(graph, f"Forget {concept['target']!r}")
        for method in METHODS[1:]:
            pictures = self.load(outputs[f"save {method}"]["images"]).split(PICTURES)
            self.pictures.update(zip([(method, prompt) for prompt in prompts], pictures, strict=True))
        self.draw_plain()
        for title, file in (("loss curve", "loss"), ("probe chart", "probe")):
            (self.output / f"{name}-{file}.png").write_bytes(fetch_image(self.url, outputs[title]["images"][0]))
        self.grid(name).save(self.output / f"{name}-grid.png")
        sampling = [json.loads(text) for text in outputs["sampling report"]["text"]]
        self.results[name] = {
            "accuracies": {method: self.accuracies(name, method) for method in METHODS},
            "training": json.loads(outputs["training report"]["text"][0]),
            "probe": json.loads(outputs["probe report"]["text"][0]),
            "sampling": [{"prompt": prompt, **report} for prompt, report in zip(prompts, sampling, strict=True)],
        }

    def run_graph(self, graph: Graph, heading: str) -> dict[str, dict]:
        """Run a graph under a progress bar; returns what its nodes showed, by their titles."""
        say(f"\n{heading}")
        with GraphProgress(graph) as progress:
            outputs = run_graph(self.url, graph, progress)
        return {title_of(graph, node): output for node, output in outputs.items()}

    def load(self, images: list[dict]) -> torch.Tensor:
        """Pictures that the host saved, [N, 3, H, W] in [0, 1]."""
        files = [Image.open(io.BytesIO(fetch_image(self.url, image))) for image in images]
        return torch.stack([to_tensor(file.convert("RGB")) for file in files])

    def accuracies(self, name: str, method: str) -> dict[str, float]:
        """Acc_e, Acc_s, Acc_g and H0 of a sampling method, by the mean of both judges' top-1."""

        def share(prompt: str, label: str) -> float:
            return self.judges.share_recognised(self.pictures[method, prompt], label)

        concept = self.concepts[name]
        acc_e = share(concept["target"], name)
        acc_s = mean(share(other["target"], label) for label, other in self.concepts.items() if label != name)
        acc_g = mean(share(prompt, name) for prompt in concept["synonyms"])
        return {"acc_e": acc_e, "acc_s": acc_s, "acc_g": acc_g, "h0": h0(acc_e, acc_s, acc_g)}

    def grid(self, name: str) -> Image.Image:
        """Target, two synonyms, four unrelated prompts and the empty prompt by three sampling methods."""
        concept = self.concepts[name]
        rows = [concept["target"], *concept["synonyms"][:2], *concept["other"][::2][:UNRELATED_SHOWN], ""]
        methods = [method for method in METHODS if method != "half"]
        pictures = torch.stack([
            torch.stack([self.pictures[method, prompt][:SHOWN].movedim(1, -1) for method in methods])
            for prompt in rows
        ])  # fmt: skip
        title = f"Forgetting {concept['target']!r}"
        grid = comparison_grid(rows, [TITLES[method] for method in methods], pictures, title)
        return to_pil_image(grid[0].movedim(-1, 0))

    def report(self, seconds: float) -> dict:
        """All measurements, the figures first."""
        base = [self.accuracies(name, "base") for name in self.concepts]
        figures = {
            "base_top1": mean(accuracies["acc_e"] for accuracies in base),
            "base_synonyms_top1": mean(accuracies["acc_g"] for accuracies in base),
        }
        for method in METHODS:
            for measure in ("acc_e", "acc_s", "acc_g", "h0"):
                values = [result["accuracies"][method][measure] for result in self.results.values()]
                figures[f"{measure}_{method}"] = mean(values)
        figures["host_untouched"] = int(all(latent.equal(self.latents[0]) for latent in self.latents))
        figures["seconds_total"] = round(seconds, 1)
        return {"figures": figures, "concepts": self.results, "pictures_of_each_prompt": PICTURES}


def summary(report: dict, output: Path) -> str:
    """The report in words."""
    figures, results = report["figures"], report["concepts"]
    trained = max(result["training"]["evaluations"] for result in results.values())
    calls = [entry["evaluations"] for result in results.values() for entry in result["sampling"]]
    lines = [
        "",
        f"Forgotten, one by one: {', '.join(results)}. Share of pictures that two judges recognise:",
        "",
        f"{'':18}{'the concept':>13}{'its synonyms':>14}{'other classes':>15}{'H0':>8}",
    ]
    for method in METHODS:
        shares = [f"{figures[f'{measure}_{method}']:.0%}" for measure in ("acc_e", "acc_g", "acc_s")]
        lines.append(f"{TITLES[method]:18}{shares[0]:>13}{shares[1]:>14}{shares[2]:>15}{figures[f'h0_{method}']:>8.3f}")
    untouched = "the same bits" if figures["host_untouched"] else "NOT the same bits"
    lines += [
        "",
        f"Each LoRA was trained in {trained} model calls (the paper: about 10,800).",
        f"The gate decided each picture in its first step: unrelated ones cost {min(calls)} model calls, erased ones",
        f"{max(calls)} (plain sampling: {2 * SAMPLING['steps'] * PICTURES}).",
        f"A plain KSampler gave {untouched} before and after each run.",
        f"Done in {figures['seconds_total']:.0f} s. Grids, loss curves, probe charts and report.json: {output}",
    ]
    return "\n".join(lines)
