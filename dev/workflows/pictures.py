"""Pictures of the workflows: what their nodes show, for the templates list, and their graphs, for the help pages."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from dev.browser import ComfyPage
from dev.client import fetch_image

HEIGHT, LABEL, GAP, MARGIN = 200, 28, 6, 14  # pixels of a picture, of its title, between pictures, and around titles
BACKGROUND = "#202020"
SCREEN = 2400, 1350  # pixels of the page
WIDTH, QUALITY = 1300, 70  # of a graph's picture: pixels at most, and JPEG quality
EDGE = 20  # pixels around the graph
BOX = """() => {
    const boxes = [...app.graph._groups, ...app.graph._nodes].map((it) => it.boundingRect ?? it._bounding);
    const { scale, offset } = app.canvas.ds;
    const at = (x, y) => [(x + offset[0]) * scale, (y + offset[1]) * scale];
    const least = (i) => Math.min(...boxes.map((it) => it[i]));
    const most = (i) => Math.max(...boxes.map((it) => it[i] + it[i + 2]));
    return [...at(least(0), least(1)), ...at(most(0), most(1))];
}"""


def save_overview(url: str, nodes: list[dict], outputs: dict[str, dict], path: Path) -> None:
    """Up to four pictures of each node that has a title and showed pictures, as one that is about as high as wide.

    `nodes` are those of the workflow's file, `outputs` what they showed when it ran on the ComfyUI at `url`.
    """
    blocks = []
    for node in nodes:
        images = outputs.get(str(node["id"]), {}).get("images")
        if images and node.get("title"):
            files = [fetch_image(url, image) for image in images[:: max(1, len(images) // 4)][:4]]
            blocks.append(titled(node["title"], [Image.open(io.BytesIO(file)).convert("RGB") for file in files]))
    overviews = (in_rows(blocks, width) for width in range(300, 1700, 50))
    min(overviews, key=lambda overview: max(overview.size)).save(path, quality=85, optimize=True)


def titled(title: str, pictures: list[Image.Image]) -> Image.Image:
    """Pictures scaled to one height, two in a row, under a title."""
    height = HEIGHT if len(pictures) > 1 else 2 * HEIGHT + GAP
    cells = [picture.resize((max(1, round(picture.width * height / picture.height)), height)) for picture in pictures]
    rows = [joined(cells[start : start + 2], GAP) for start in range(0, len(cells), 2)]
    block = ImageOps.expand(joined(rows, GAP, down=True), (0, LABEL, 0, 0), BACKGROUND)
    ImageDraw.Draw(block).text((2, 4), title, "#dddddd", ImageFont.load_default(18))
    return block


def in_rows(blocks: list[Image.Image], width: int) -> Image.Image:
    """Blocks from left to right, in rows no wider than `width` pixels unless a block is."""
    rows: list[list[Image.Image]] = [[]]
    for block in blocks:
        if rows[-1] and sum(it.width + MARGIN for it in (*rows[-1], block)) > width:
            rows.append([])
        rows[-1].append(block)
    return ImageOps.expand(joined([joined(row, MARGIN) for row in rows], MARGIN, down=True), MARGIN, BACKGROUND)


def joined(images: list[Image.Image], gap: int, down: bool = False) -> Image.Image:
    """Images in a row, or below each other, so many pixels apart."""
    length = sum(image.size[down] + gap for image in images) - gap
    across = max(image.size[not down] for image in images)
    sheet = Image.new("RGB", (across, length) if down else (length, across), BACKGROUND)
    offset = 0
    for image in images:
        sheet.paste(image, (0, offset) if down else (offset, 0))
        offset += image.size[down] + gap
    return sheet


def save_graph(comfy: ComfyPage, path: Path) -> None:
    """Run the graph that is open in the page, and save a picture of it."""
    comfy.run()
    comfy.fit()
    x0, y0, x1, y1 = comfy.page.evaluate(BOX)
    canvas = comfy.page.locator("#graph-canvas").bounding_box()
    x, y = canvas["x"], canvas["y"]
    page = Image.open(io.BytesIO(comfy.page.screenshot())).convert("RGB")
    graph = page.crop((round(x0 + x) - EDGE, round(y0 + y) - EDGE, round(x1 + x) + EDGE, round(y1 + y) + EDGE))
    graph.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    graph.save(path, quality=QUALITY, optimize=True)
