"""`python dev workflows`: write the workflows that ship, run each on the embedded model, and make its pictures."""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from pathlib import Path

from dev.environment import ROOT
from dev.stages import say

NEEDS = ("browser",)  # further sections of pins.ini
FOLDER = ROOT / "workflows"
HIGH, LABEL, GAP, MARGIN = 200, 28, 6, 14  # pixels of a picture, of its title, between pictures, and around titles
GROUND = "#202020"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which ones."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")


def run(options: argparse.Namespace) -> int:
    """Write them into the repository."""
    from dev import browser
    from dev.client import run_graph
    from dev.environment import make_base
    from dev.server import HostServer
    from dev.workflows.graphs import picture_graphs
    from dev.workflows.shipped import WORKFLOWS, drawn

    with tempfile.TemporaryDirectory() as folder, HostServer(options.host, make_base(Path(folder))) as server:
        schemas = server.schemas()
        for name in WORKFLOWS:
            canvas = drawn(name, schemas)
            ran = run_graph(server.url, on_the_demo_model(canvas.api()))
            if options.names and name not in options.names:
                continue  # it has run all the same: others take the LoRA that it saved
            file_of(name).write_text(json.dumps(canvas.ui(), ensure_ascii=False) + "\n", encoding="utf-8")
            titled = [(node.title, ran.get(str(node.id), {}).get("images")) for node in canvas.nodes if node.title]
            picture = picture_of(server.url, {title: images for title, images in titled if images})
            picture.save(FOLDER / f"{name}.jpg", quality=85, optimize=True)
            say(f"{name}: {len(canvas.nodes)} nodes")
        if browser.find():
            graphs = [it for it in options.names or WORKFLOWS if it != "forget-from-your-checkpoint"]  # it needs one
            picture_graphs(server.url, graphs)
        else:
            say(f"No Chromium, so no pictures of the graphs: {browser.ADVICE}.")
    return 0


def file_of(name: str) -> Path:
    """Where one lies."""
    return FOLDER / f"{name}.json"


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
    """Some of the pictures that nodes showed, under the nodes' titles, as one that is about as high as wide."""
    from PIL import Image

    from dev.client import fetch_image

    def fetched(images: list) -> list:
        some = images[:: max(1, len(images) // 4)][:4]
        return [Image.open(io.BytesIO(fetch_image(url, image))).convert("RGB") for image in some]

    blocks = [block_of(title, fetched(images)) for title, images in shown.items()]
    return min((in_rows(blocks, wide) for wide in range(300, 1700, 50)), key=lambda whole: max(whole.size))


def block_of(title: str, pictures: list):
    """Pictures of one height, two in a row, under a title."""
    from PIL import Image, ImageDraw, ImageFont

    high = HIGH if len(pictures) > 1 else 2 * HIGH + GAP
    cells = [it.resize((max(1, round(it.width * high / it.height)), high)) for it in pictures]
    wide = max(it.width for it in cells)
    columns, rows = min(2, len(cells)), (len(cells) + 1) // 2
    block = Image.new("RGB", (columns * (wide + GAP) - GAP, LABEL + rows * (high + GAP) - GAP), GROUND)
    ImageDraw.Draw(block).text((2, 4), title, "#dddddd", ImageFont.load_default(18))
    for number, cell in enumerate(cells):
        block.paste(cell, (number % 2 * (wide + GAP), LABEL + number // 2 * (high + GAP)))
    return block


def in_rows(blocks: list, wide: int):
    """Blocks from left to right, in rows no wider than `wide` pixels where that can be."""
    from PIL import Image

    rows: list[list] = [[]]
    for block in blocks:
        if rows[-1] and sum(it.width + MARGIN for it in (*rows[-1], block)) > wide:
            rows.append([])
        rows[-1].append(block)
    width = max(sum(it.width + MARGIN for it in row) for row in rows) + MARGIN
    whole = Image.new("RGB", (width, sum(max(it.height for it in row) + MARGIN for row in rows) + MARGIN), GROUND)
    top = MARGIN
    for row in rows:
        left = MARGIN
        for block in row:
            whole.paste(block, (left, top))
            left += block.width + MARGIN
        top += max(it.height for it in row) + MARGIN
    return whole
