"""`python dev workflows`: open each workflow that ships in a browser, run it on the embedded model, make its pictures.

`workflows/NAME.json` is the source, as ComfyUI's page saves it. `api/NAME.json` is the page's export in the format of
ComfyUI's HTTP API, so that tests can run a workflow without a browser; tests/test_browser.py compares the two.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from pathlib import Path

from dev import ROOT, browser
from dev.browser import ComfyPage
from dev.console import DevError, say
from dev.environment import make_base
from dev.server import HostServer

NEEDS = ("browser",)  # further sections of pins.ini
FOLDER = ROOT / "workflows"
API_FOLDER = Path(__file__).parent / "api"
WORKFLOWS = ("forget-the-cat", "forget-from-your-checkpoint", "draw-without-it", "inspect-the-gate", "two-concepts",
             "import-a-lora", "batch-from-a-list", "redraw-a-picture")  # fmt: skip
"""File names, in the order in which a newcomer may want them: later ones load the LoRA that the first one saves."""
CAT_FILE = "unguide/cat_00001_.safetensors"  # that LoRA, below the host's models/loras
WITH_CHECKPOINT = "forget-from-your-checkpoint"  # the only one that does not run as it is


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `workflows`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")


def run(options: argparse.Namespace) -> int:
    """Write the API format and the pictures into the repository."""
    from dev.client import run_graph  # needs aiohttp
    from dev.workflows import pictures

    if not browser.find():
        raise DevError(f"there is no Chromium to open the workflows in: {browser.ADVICE}.")
    selected = options.names or WORKFLOWS
    with tempfile.TemporaryDirectory() as folder, HostServer(options.host, make_base(Path(folder))) as server:
        with browser.comfy_page(server.url) as comfy:
            graphs = {name: exported(comfy, name) for name in WORKFLOWS}
        for name, graph in graphs.items():  # all of them run: later ones load the LoRA that the first one saves
            outputs = run_graph(server.url, on_the_demo_model(graph))
            if name in selected:
                api_file_of(name).write_text(json.dumps(graph, ensure_ascii=False) + "\n", encoding="utf-8")
                nodes = json.loads(file_of(name).read_text(encoding="utf-8"))["nodes"]
                pictures.save_overview(server.url, nodes, outputs, FOLDER / f"{name}.jpg")
                say(f"{name}: {len(nodes)} nodes")
        with browser.comfy_page(server.url, *pictures.SCREEN) as comfy:
            comfy.open()
            for name in selected:
                if name != WITH_CHECKPOINT:
                    comfy.load(file_of(name))
                    pictures.save_graph(comfy, ROOT / "web" / "docs" / "images" / f"graph-{name}.jpg")
    return 0


def exported(comfy: ComfyPage, name: str) -> dict[str, dict]:
    """A workflow in the API's format, by the page's own export."""
    comfy.open()
    comfy.load(file_of(name))
    return comfy.api()


def file_of(name: str) -> Path:
    """The file of a workflow, as ComfyUI's page saves it."""
    return FOLDER / f"{name}.json"


def api_file_of(name: str) -> Path:
    """The file of a workflow in the API's format."""
    return API_FOLDER / f"{name}.json"


def read_api(name: str) -> dict[str, dict]:
    """A workflow in the API's format, as the page sends it to the server."""
    return json.loads(api_file_of(name).read_text(encoding="utf-8"))


def on_the_demo_model(graph: dict[str, dict]) -> dict[str, dict]:
    """A copy of a graph whose checkpoint is replaced by the embedded model, and whose pictures then have its size."""
    graph = copy.deepcopy(graph)
    loaders = [node for node in graph.values() if node["class_type"] == "CheckpointLoaderSimple"]
    for loader in loaders:
        loader.update(class_type="UnGuideDemoModel", inputs={})
    for node in graph.values() if loaders else ():
        node["inputs"] |= {side: 64 for side in ("width", "height") if side in node["inputs"]}
    return graph
