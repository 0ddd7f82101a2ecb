"""The node that measures how often pictures show a concept."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache, lru_cache

import torch
from comfy_api.latest import io, ui

from ..demo_model.judges import JudgePair
from ..unguide_ops import host
from ..unguide_ops.concept import prompts_in
from ..unguide_ops.metrics import TEN
from ..unguide_ops.metrics.classifiers import Ensemble
from ..unguide_ops.metrics.clip import Clip, ZeroShot
from ..unguide_ops.metrics.evaluation import evaluate
from ..unguide_ops.metrics.picture_grid import labelled_grid
from ..unguide_ops.safe_text import json_without_markup, printable
from .checked import CheckedNode, FileOptions
from .inputs import CATEGORY
from .status import status_ui

JUDGES = "demo judges"


@cache
def demo_judges() -> Ensemble:
    """The classifier of the embedded model's two judges, loaded once."""
    return Ensemble(*JudgePair().ensemble_arguments())


load_clip = lru_cache(maxsize=1)(Clip)  # the last one used stays in memory


class UnGuideEvaluate(CheckedNode):
    """Classify pictures, and measure how often they show the expected class."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Node schema."""
        return io.Schema(
            node_id="UnGuideEvaluate",
            display_name="UnGuide Evaluate",
            category=CATEGORY,
            is_output_node=True,
            description="Shows what a classifier takes the pictures for, and how often that is what you expect.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures, all made from one prompt."),
                io.String.Input(
                    "prompt",
                    default="",
                    tooltip="The pictures' prompt: for the report, and for the CLIP score if the classifier is a CLIP "
                    "model. Empty: no CLIP score.",
                ),
                io.String.Input(
                    "expected",
                    default="cat",
                    tooltip="The class to count, one of `classes`: the erased one, which should no longer be seen, or "
                    "one that should still be seen.",
                ),
                io.String.Input(
                    "classes",
                    default="\n".join(TEN),
                    multiline=True,
                    tooltip="What a picture may be taken for, one name per line. The ten CIFAR-10 names are MACE's and "
                    "the UnGuide paper's. A CLIP model compares with 'a photo of the (name)'.",
                ),
                io.Combo.Input(
                    "classifier",
                    options=FileOptions([*host.clip_files(), JUDGES]),
                    default=JUDGES,
                    tooltip="The classifier. demo judges: made for the embedded model's emoji, and for nothing else. "
                    "For other pictures put a CLIP model into models/open_clip, named after open_clip's architecture, "
                    "such as ViT-L-14.safetensors (OpenAI's own weights: ViT-L-14-quickgelu.safetensors).",
                ),
                io.Boolean.Input(
                    "nudity",
                    default=False,
                    tooltip="Also count what NudeNet finds with a confidence of at least 0.6.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="accuracy", tooltip="The share of the pictures taken for `expected`, from 0 to 1."
                ),
                io.String.Output(
                    display_name="report", tooltip="What each picture was taken for, and all measures, as JSON."
                ),
                io.Image.Output(display_name="chart", tooltip="The pictures, and what they were taken for."),
            ],
        )

    @classmethod
    def execute(
        cls, images: torch.Tensor, prompt: str, expected: str, classes: str, classifier: str, nudity: bool
    ) -> io.NodeOutput:
        """Return accuracy, report and chart."""
        names, expected = list(prompts_in(classes, "classes")), expected.strip()
        prompts_in(" ".join(prompt.split()), "prompt")
        if not names:
            raise ValueError("`classes` is empty: write what a picture may be taken for, one name a line.")
        if expected not in names:
            raise ValueError(
                f"`expected` is {printable(expected)!r}, which is not among `classes`: add it, or choose one of them."
            )
        pictures = images[..., :3].movedim(-1, 1)
        progress = host.ProgressReporter()
        progress.begin(len(pictures))
        clip = None if classifier == JUDGES else load_clip(host.clip_path(classifier))
        with host.on_device(clip.network) if clip else nullcontext():
            judge = ZeroShot(clip, names) if clip else demo_judges()
            report = evaluate(
                pictures, judge, names, expected, prompt=prompt, clip=clip, nudity=nudity, on_progress=progress.update
            )
        report = {"classifier": classifier, **report}
        accuracy = report["accuracies"]["among_classes"]
        summary = f"taken for {expected}: {accuracy:.0%} of {len(pictures)}"
        chart = labelled_grid(pictures, report["pictures"], expected, [prompt, summary] if prompt else [summary])
        shown = status_ui(status_lines(report, summary), ui.PreviewImage(chart, cls=cls))
        return io.NodeOutput(accuracy, json_without_markup(report), chart, ui=shown)


def status_lines(report: dict, summary: str) -> list[str]:
    """The text on the node: a summary of the classification, CLIP score, and counts of NudeNet."""
    clip_score = [f"CLIP score {report['clip_score']:.1f}"] if "clip_score" in report else []
    counts = {name: count for name, count in report.get("nudity", {}).items() if count}
    listed = ", ".join(f"{name.lower()} {count}" for name, count in counts.items()) or "nothing"
    return [summary, *clip_score, *([f"NudeNet: {listed}"] if "nudity" in report else [])]
