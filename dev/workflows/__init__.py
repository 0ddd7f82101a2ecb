"""`python dev workflows`: write the workflows that ship, run each on the embedded model, and make its picture."""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from pathlib import Path

from dev.environment import ROOT
from dev.stages import say

FOLDER = ROOT / "workflows"
WIDE, HIGH, LABEL = 1100, 200, 26  # pixels of a workflow's picture, of its rows, and above each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which ones."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")


def run(options: argparse.Namespace) -> int:
    """Write them into the repository."""
    from dev.client import run_graph
    from dev.environment import make_base
    from dev.server import HostServer, request
    from dev.workflows.canvas import Canvas
    from dev.workflows.shipped import WORKFLOWS

    with tempfile.TemporaryDirectory() as folder, HostServer(options.host, make_base(Path(folder))) as server:
        schemas = json.loads(request(f"{server.url}/object_info"))
        for name, draw in WORKFLOWS.items():
            canvas = Canvas(name, schemas)
            draw(canvas)
            ran = run_graph(server.url, on_the_demo_model(canvas.api()))
            if options.names and name not in options.names:
                continue  # it has run all the same: others take the LoRA that it saved
            (FOLDER / f"{name}.json").write_text(json.dumps(canvas.ui(), ensure_ascii=False) + "\n", encoding="utf-8")
            titled = [(node.title, ran.get(str(node.id), {}).get("images")) for node in canvas.nodes if node.title]
            picture = picture_of(server.url, {title: images for title, images in titled if images})
            picture.save(FOLDER / f"{name}.jpg", quality=85, optimize=True)
            say(f"{name}: {len(canvas.nodes)} nodes")
    return 0


def on_the_demo_model(graph: dict) -> dict:
    """The graph with the embedded model in the place of a checkpoint, at its size; its own parts stay as they are."""
    graph = json.loads(json.dumps(graph))
    loaders = [it for it in graph.values() if it["class_type"] == "CheckpointLoaderSimple"]
    for it in loaders:
        it.update(class_type="UnGuideDemoModel", inputs={})
    for it in graph.values() if loaders else ():
        it["inputs"] |= {side: 64 for side in ("width", "height") if side in it["inputs"]}
    return graph


def picture_of(url: str, shown: dict[str, list]):
    """Some of the pictures that nodes showed, by the nodes' titles, as one."""
    from PIL import Image, ImageDraw, ImageFont

    from dev.client import fetch_image

    font = ImageFont.load_default(16)
    blocks = []
    for title, images in shown.items():
        some = images[:: max(1, len(images) // 4)][:4]
        pictures = [Image.open(io.BytesIO(fetch_image(url, image))).convert("RGB") for image in some]
        pictures = [
            picture.resize((max(1, round(picture.width * HIGH / picture.height)), HIGH)) for picture in pictures
        ]
        block = Image.new("RGB", (sum(picture.width + 6 for picture in pictures), HIGH + LABEL), "#202020")
        ImageDraw.Draw(block).text((2, 4), title, "#dddddd", font)
        left = 0
        for picture in pictures:
            block.paste(picture, (left, LABEL))
            left += picture.width + 6
        blocks.append(block)
    rows: list[list] = [[]]
    for block in blocks:
        if rows[-1] and sum(it.width + 14 for it in (*rows[-1], block)) > WIDE:
            rows.append([])
        rows[-1].append(block)
    wide = max(sum(it.width + 14 for it in row) for row in rows)
    whole = Image.new("RGB", (wide + 14, len(rows) * (HIGH + LABEL + 14) + 14), "#202020")
    for number, row in enumerate(rows):
        left = 14
        for block in row:
            whole.paste(block, (left, 14 + number * (HIGH + LABEL + 14)))
            left += block.width + 14
    return whole
