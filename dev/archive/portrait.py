"""The registry's icon and banner: pictures by the embedded model, before and after it has forgotten the cat."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dev.archive.trial import FORGOTTEN, drawing_graph, training_graph
from dev.client import Graph, fetch_image, run_graph
from dev.demo_graph import base_graph
from dev.environment import ROOT, make_base
from dev.server import HostServer
from dev.stages import DevError, say
from dev.workflows.shipped import MUSHROOM

THINGS = {"fox": 4, "lion": 5, "dog": 4, "cat": 1, "owl": 6, "panda": 5, "frog": 3}  # which of its pictures
INK, WHITE, GREY = "#20242c", "#ffffff", "#9aa3b2"
NAME, LINE = "UnGuide", "Make a diffusion model forget a concept, and nothing else."


def draw(host: Path) -> None:
    """Forget the cat, and write docs/icon.png (square, 400 pixels) and docs/banner.jpg (21:9)."""
    prompts = [f"a photo of the {thing}" for thing in THINGS]
    with tempfile.TemporaryDirectory() as base, HostServer(host, make_base(Path(base))) as server:
        before = drawn(server.url, base_graph(prompts, 8, "before"))
        run_graph(server.url, training_graph(FORGOTTEN, MUSHROOM))
        after = drawn(server.url, drawing_graph(list(THINGS), 8))
    changed = [thing for thing in THINGS if before[thing].tobytes() != after[thing].tobytes()]
    if changed != [FORGOTTEN]:
        raise DevError(f"only the {FORGOTTEN} should have changed, but these did: {', '.join(changed)}")
    icon(before, after).save(ROOT / "docs" / "icon.png", optimize=True)
    banner(before, after).save(ROOT / "docs" / "banner.jpg", quality=92, optimize=True)
    say("docs/icon.png, docs/banner.jpg")


def drawn(url: str, graph: Graph) -> dict[str, Image.Image]:
    """The chosen picture of each thing; the graph saves batches in the order of THINGS."""
    ran = run_graph(url, graph)
    batches = [ran[node]["images"] for node in sorted(ran, key=int) if graph[node]["class_type"] == "SaveImage"]
    files = {thing: batch[number] for (thing, number), batch in zip(THINGS.items(), batches, strict=True)}
    return {thing: Image.open(io.BytesIO(fetch_image(url, file))).convert("RGB") for thing, file in files.items()}


def icon(before: dict[str, Image.Image], after: dict[str, Image.Image]) -> Image.Image:
    """The cat before and after, over a panda before and after."""
    canvas = Image.new("RGB", (400, 400), INK)
    for row, thing in enumerate((FORGOTTEN, "panda")):
        for column, pictures in enumerate((before, after)):
            paste(canvas, pictures[thing], 176, 16 + 192 * column, 16 + 192 * row)
    return canvas


def banner(before: dict[str, Image.Image], after: dict[str, Image.Image]) -> Image.Image:
    """All things before, over all things after, under the pack's name."""
    canvas = Image.new("RGB", (1680, 720), INK)
    pen = ImageDraw.Draw(canvas)
    pen.text((80, 66), NAME, WHITE, ImageFont.load_default(112), anchor="lt")
    pen.text((1600, 150), LINE, GREY, ImageFont.load_default(36), anchor="rs")
    for row, pictures in enumerate((before, after)):
        for column, thing in enumerate(THINGS):
            paste(canvas, pictures[thing], 200, 80 + 220 * column, 230 + 220 * row)
    return canvas


def paste(canvas: Image.Image, picture: Image.Image, side: int, left: int, top: int) -> None:
    """A picture, enlarged, with round corners."""
    corners = Image.new("L", (4 * side, 4 * side))
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 4 * side - 1, 4 * side - 1), 0.64 * side, fill=255)
    size = (side, side)
    canvas.paste(picture.resize(size, Image.Resampling.LANCZOS), (left, top), corners.resize(size))
