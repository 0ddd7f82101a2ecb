"""`python dev demo`: forget three concepts in a real ComfyUI, on the embedded model, and show what is left of them."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from dev import ROOT
from dev.console import DevError, say
from dev.environment import BASE
from dev.server import HostServer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `demo`."""
    parser.add_argument(
        "--concepts", nargs="+", default=["cat", "automobile", "frog"], metavar="NAME", help="presets to forget"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "demo", help="where the results go")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="where models run (default: cpu)")


def run(options: argparse.Namespace) -> int:
    """Run the demo to its end."""
    began = time.monotonic()
    concepts = read_concepts()
    unknown = [name for name in options.concepts if name not in concepts]
    if unknown:
        raise DevError(f"there is no preset {unknown[0]!r}: choose from {', '.join(concepts)}.")
    from dev.demo_run import Demo, summary  # needs torch

    options.output.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # so tiny a model is as fast, and does not crawl on a busy machine
    say("Starting ComfyUI with the UnGuide nodes ...")
    with HostServer(options.host, BASE, device=options.device) as server:
        server.require_nodes(["UnGuideDemoModel", "UnGuideTrainLoRA", "UnGuidanceKSampler"])
        demo = Demo(server.url, concepts, options.output)
        demo.draw_base()
        for name in options.concepts:
            demo.forget(name)
    report = demo.report(time.monotonic() - began)
    (options.output / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    say(summary(report, options.output))
    return 0


def read_concepts() -> dict[str, dict]:
    """The shipped prompt files of the classes that the embedded model can forget."""
    prompts = ROOT / "prompts"
    names = sorted(json.loads((prompts / "benchmark" / "words.json").read_text(encoding="utf-8"))["classes"])
    return {name: json.loads((prompts / f"{name}.json").read_text(encoding="utf-8")) for name in names}
