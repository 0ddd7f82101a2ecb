"""Pictures of the workflows on the canvas, after they have run: for the README and the help pages."""

from __future__ import annotations

import io

from dev.browser import comfy_page
from dev.environment import ROOT
from dev.workflows import file_of

FOLDER = ROOT / "web" / "docs" / "images"
SCREEN = 2400, 1350  # pixels of the page
WIDE, QUALITY = 1300, 70  # of a picture: pixels, and JPEG
EDGE = 20  # pixels around the graph
BOX = """() => {
    const boxes = [...app.graph._groups, ...app.graph._nodes].map((it) => it.boundingRect ?? it._bounding);
    const { scale, offset } = app.canvas.ds;
    const at = (x, y) => [(x + offset[0]) * scale, (y + offset[1]) * scale];
    const least = (i) => Math.min(...boxes.map((it) => it[i]));
    const most = (i) => Math.max(...boxes.map((it) => it[i] + it[i + 2]));
    return [...at(least(0), least(1)), ...at(most(0), most(1))];
}"""


def picture_graphs(url: str, names: list[str]) -> None:
    """`graph-NAME.jpg` in the help pages' folder, for each workflow; it must run on the ComfyUI at `url`."""
    from PIL import Image

    with comfy_page(url, *SCREEN) as comfy:
        comfy.open()
        for name in names:
            comfy.load(file_of(name))
            comfy.run()
            comfy.fit()
            left, top, right, bottom = comfy.page.evaluate(BOX)
            frame = comfy.page.locator("#graph-canvas").bounding_box()
            x, y = frame["x"], frame["y"]
            page = Image.open(io.BytesIO(comfy.page.screenshot())).convert("RGB")
            graph = page.crop(
                (round(left + x) - EDGE, round(top + y) - EDGE, round(right + x) + EDGE, round(bottom + y) + EDGE)
            )
            graph.thumbnail((WIDE, WIDE), Image.Resampling.LANCZOS)
            graph.save(FOLDER / f"graph-{name}.jpg", quality=QUALITY, optimize=True)
