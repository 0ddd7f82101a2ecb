"""The registry's icon and banner: pictures by the embedded model, before and after it has forgotten the cat."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dev import ROOT
from dev.archive.smoke_test import ERASED, drawing_graph, training_graph
from dev.client import Graph, fetch_image, run_graph
from dev.console import DevError, say
from dev.demo_graph import base_graph
from dev.environment import make_base
from dev.server import HostServer

REFERENCE = "a photo of the mushroom"  # drawn in the cat's place
THINGS = {"fox": 4, "lion": 5, "dog": 4, "cat": 1, "owl": 6, "panda": 5, "frog": 3}  # thing -> number of its picture
INK, WHITE, GREY = "#20242c", "#ffffff", "#9aa3b2"
NAME, LINE = "UnGuide", "Make a diffusion model forget a concept, and nothing else."
Pictures = dict[str, Image.Image]  # by thing


def draw(host: Path) -> None:
    """Forget the cat, and write docs/icon.png (square, 400 pixels) and docs/banner.jpg (21:9)."""
    prompts = [f"a photo of the {thing}" for thing in THINGS]
    with tempfile.TemporaryDirectory() as base, HostServer(host, make_base(Path(base))) as server:
        before = run(server.url, base_graph(prompts, 8, "before"))
        run_graph(server.url, training_graph(ERASED, REFERENCE))
        after = run(server.url, drawing_graph(list(THINGS), 8))
    changed = [thing for thing in THINGS if before[thing].tobytes() != after[thing].tobytes()]
    if changed != [ERASED]:
        raise DevError(f"only the {ERASED} should have changed, but these did: {', '.join(changed)}")
    icon(before, after).save(ROOT / "docs" / "icon.png", optimize=True)
    banner(before, after).save(ROOT / "docs" / "banner.jpg", quality=92, optimize=True)
    say("docs/icon.png, docs/banner.jpg")


def run(url: str, graph: Graph) -> Pictures:
    """Run a graph that saves a batch of each thing, in the order of THINGS; returns the chosen pictures."""
    outputs = run_graph(url, graph)
    batches = [outputs[node]["images"] for node in sorted(outputs, key=int) if graph[node]["class_type"] == "SaveImage"]
    files = {thing: batch[number] for (thing, number), batch in zip(THINGS.items(), batches, strict=True)}
    return {thing: Image.open(io.BytesIO(fetch_image(url, file))).convert("RGB") for thing, file in files.items()}


def icon(before: Pictures, after: Pictures) -> Image.Image:
    """The cat before and after, over a panda before and after."""
    canvas = Image.new("RGB", (400, 400), INK)
    for row, thing in enumerate((ERASED, "panda")):
        for column, pictures in enumerate((before, after)):
            paste(canvas, pictures[thing], 176, 16 + 192 * column, 16 + 192 * row)
    return canvas


def banner(before: Pictures, after: Pictures) -> Image.Image:
    """All things before, over all things after, under the pack's name."""
    canvas = Image.new("RGB", (1680, 720), INK)
    pen = ImageDraw.Draw(canvas)
    pen.text((80, 66), NAME, WHITE, ImageFont.load_default(112), anchor="lt")
    pen.text((1600, 150), LINE, GREY, ImageFont.load_default(36), anchor="rs")
    for row, pictures in enumerate((before, after)):
        for column, thing in enumerate(THINGS):
            paste(canvas, pictures[thing], 200, 80 + 220 * column, 230 + 220 * row)
    return canvas


def paste(canvas: Image.Image, picture: Image.Image, side: int, x: int, y: int) -> None:
    """Paste a picture, enlarged to `side` pixels, with round corners."""
    corners = Image.new("L", (4 * side, 4 * side))
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 4 * side - 1, 4 * side - 1), 0.64 * side, fill=255)
    size = (side, side)
    canvas.paste(picture.resize(size, Image.Resampling.LANCZOS), (x, y), corners.resize(size))
