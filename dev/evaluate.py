"""`python dev evaluate FOLDER`: the measures of docs/evaluation.md on pictures that exist already."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dev.console import DevError, say

NEEDS = ("evaluate",)
MEASURES = ("recognised", "probability_of_expected", "clip_score", "exposed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate`."""
    parser.add_argument("pictures", type=Path, help="a folder of pictures, all of one class or prompt")
    parser.add_argument("--expected", metavar="CLASS", help="count the pictures of this class")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="among these (default: the ten of CIFAR-10)")
    parser.add_argument("--prompt", default="", help="theirs, for CLIP scores")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="how far they are from these pictures")
    parser.add_argument("--clip", type=Path, metavar="FILE",
                        help="who looks: a CLIP model, as ViT-L-14.safetensors (default: the demo judges)")  # fmt: skip
    parser.add_argument("--nudity", action="store_true", help="count what NudeNet detects")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all of it there, as JSON")


def run(options: argparse.Namespace) -> int:
    """Print the summary as a table, and write all as JSON if `--output` asks for it."""
    from unguide.unguide_ops.metrics.tables import markdown  # not above: --help runs before the environment exists

    try:
        report = measure(options)
    except (ValueError, ImportError) as error:
        raise DevError(str(error)) from error
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1), encoding="utf-8")
    say(markdown([report["summary"]]))
    return 0


def measure(options: argparse.Namespace) -> dict:
    """`summary`, and `pictures`, a reading of each picture if one was asked for."""
    from unguide.demo_model.judges import SIDE, Judge
    from unguide.unguide_ops.metrics.clip import Clip
    from unguide.unguide_ops.metrics.fid import clip_fid, fid
    from unguide.unguide_ops.metrics.pictures import resized
    from unguide.unguide_ops.metrics.tables import means

    clip = Clip(options.clip) if options.clip else None
    readings = read_pictures(options, clip) if options.expected or options.prompt or options.nudity else []
    rows = means(readings, ["expected"], MEASURES)
    summary = {name: value for name, value in rows[0].items() if value not in (None, "")} if rows else {}
    if options.real and clip:
        summary["CLIP-FID"] = clip_fid(options.pictures, options.real, clip)
    elif options.real:
        judge = Judge()
        summary["FID by a judge's features"] = fid(
            options.pictures, options.real, lambda pictures: judge.features(resized(pictures, SIDE))
        )
    if not summary:
        raise DevError("nothing to measure: add --expected CLASS, --prompt with --clip, --nudity, or --real FOLDER.")
    return {"summary": summary, "pictures": readings}


def read_pictures(options: argparse.Namespace, clip) -> list[dict]:
    """A reading of each picture, with its file name; without `--expected` none of what an expected class gives."""
    from unguide.demo_model.judges import JudgePair
    from unguide.unguide_ops.metrics import TEN
    from unguide.unguide_ops.metrics.classifiers import Ensemble
    from unguide.unguide_ops.metrics.clip import ZeroShot
    from unguide.unguide_ops.metrics.evaluation import evaluate
    from unguide.unguide_ops.metrics.pictures import batches, picture_files

    classes = options.classes or list(TEN)
    classifier = ZeroShot(clip, classes) if clip else Ensemble(*JudgePair().ensemble_arguments())
    files = picture_files(options.pictures)
    if not files:
        raise DevError(f"{options.pictures} holds no pictures: name a folder with PNG, JPEG or WebP files.")
    readings: list[dict] = []
    for batch in batches(files):
        readings += evaluate(
            batch, classifier, classes, options.expected or classes[0],
            prompt=options.prompt, clip=clip, nudity=options.nudity,
        )["pictures"]  # fmt: skip
    unasked = {} if options.expected else {"expected": "", "recognised": None, "probability_of_expected": None}
    return [{"file": file.name, **reading, **unasked} for file, reading in zip(files, readings, strict=True)]
