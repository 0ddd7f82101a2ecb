"""What pictures show, as a node."""

from contextlib import nullcontext
from functools import cache, lru_cache

from comfy_api.latest import io, ui

from ..unguide_ops import host
from ..unguide_ops.concept import prompts_in
from ..unguide_ops.metrics import TEN
from ..unguide_ops.metrics.chart import answers_chart
from ..unguide_ops.metrics.classifiers import Committee
from ..unguide_ops.metrics.clip import Clip, ZeroShot
from ..unguide_ops.metrics.evaluation import evaluate
from ..unguide_ops.page import as_json
from ..unguide_ops.strangers import brief
from .checked import CheckedNode, Files
from .sockets import CATEGORY
from .words import said

JUDGES = "demo judges"


@cache
def demo_judges() -> Committee:
    """The embedded model's two judges. Raises ImportError where the pack was installed without its `dev` folder."""
    try:
        from ..dev.judge import Panel
    except ImportError as error:
        raise ImportError(
            f"The demo judges cannot be imported ({error}): install the pack again, or choose a "
            f"CLIP model as `classifier`."
        ) from error
    return Committee(*Panel().committee())


clip_of = lru_cache(maxsize=1)(Clip)  # the one used last, kept in memory


class UnGuideEvaluate(CheckedNode):
    """Is the concept still in the pictures?"""

    @classmethod
    def define_schema(cls):
        """Node schema."""
        return io.Schema(
            node_id="UnGuideEvaluate",
            display_name="UnGuide Evaluate",
            category=CATEGORY,
            is_output_node=True,
            description="Tells what a picture classifier takes the pictures for, and how often it is what you expect.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures, all made from one prompt."),
                io.String.Input(
                    "prompt",
                    default="",
                    tooltip="Their prompt: for the report, and for the CLIP score if the classifier is a CLIP model. "
                    "Empty: no CLIP score.",
                ),
                io.String.Input(
                    "expected",
                    default="cat",
                    tooltip="The class to count, one of `classes`: the erased one, which should be seen no more, or "
                    "one that still should be.",
                ),
                io.String.Input(
                    "classes",
                    default="\n".join(TEN),
                    multiline=True,
                    tooltip="What a picture may be taken for, one name a line. The ten CIFAR-10 names are MACE's and "
                    "the UnGuide paper's. A CLIP model compares with 'a photo of the (name)'.",
                ),
                io.Combo.Input(
                    "classifier",
                    options=Files([*host.clip_files(), JUDGES]),
                    default=JUDGES,
                    tooltip="Who looks. demo judges: made for the embedded model's emoji, and for nothing else. For "
                    "other pictures put a CLIP model into models/open_clip, named after open_clip's architecture, as "
                    "ViT-L-14.safetensors (OpenAI's own weights: ViT-L-14-quickgelu.safetensors).",
                ),
                io.Boolean.Input(
                    "nudity",
                    default=False,
                    tooltip="Count, too, what NudeNet finds with a confidence of at least 0.6.",
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
    def execute(cls, images, prompt, expected, classes, classifier, nudity) -> io.NodeOutput:
        """Accuracy, report and chart."""
        classes, expected = list(prompts_in(classes, "classes")), expected.strip()
        prompts_in(" ".join(prompt.split()), "prompt")
        if not classes:
            raise ValueError("`classes` is empty: write what a picture may be taken for, one name a line.")
        if expected not in classes:
            raise ValueError(
                f"`expected` is {brief(expected)!r}, which is not among `classes`: add it, or choose one of them."
            )
        pictures = images[..., :3].movedim(-1, 1)
        watch = host.Watch()
        watch.begin(len(pictures))
        clip = None if classifier == JUDGES else clip_of(host.clip_path(classifier))
        with host.at_the_device(clip.network) if clip else nullcontext():
            judge = ZeroShot(clip, classes) if clip else demo_judges()
            report = evaluate(
                pictures, judge, classes, expected, prompt=prompt, clip=clip, nudity=nudity, done=watch.done
            )
        report = {"classifier": classifier, **report}
        accuracy = report["accuracies"]["among_classes"]
        words = f"taken for {expected}: {accuracy:.0%} of {len(pictures)}"
        chart = answers_chart(pictures, report["pictures"], expected, [prompt, words] if prompt else [words])
        shown = said(in_words(report, words), ui.PreviewImage(chart, cls=cls))
        return io.NodeOutput(accuracy, as_json(report), chart, ui=shown)


def in_words(report: dict, words: str) -> list[str]:
    """The report's sums, for the node."""
    score = [f"CLIP score {report['clip_score']:.1f}"] if "clip_score" in report else []
    found = {name: number for name, number in report.get("nudity", {}).items() if number}
    listed = ", ".join(f"{name.lower()} {number}" for name, number in found.items()) or "nothing"
    return [words, *score, *([f"NudeNet: {listed}"] if "nudity" in report else [])]
