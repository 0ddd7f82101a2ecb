"""A Chromium for ComfyUI's page, the machine's own or one fetched into `.dev`; and the page, opened and driven."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dev.console import say
from dev.environment import HOME
from dev.server import request

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
FETCHED = HOME / "browsers"
ADVICE = "install one (Debian, Ubuntu: apt install chromium), or Google Chrome"
READY = "() => window.app?.graph && app.vueAppReady !== false && app.extensionManager"
GRAPH_TIMEOUT = 240_000  # milliseconds
SETTINGS = {  # no introduction over the canvas, no map on it, words at every distance
    "Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "LiteGraph.Canvas.MinFontSizeForLOD": 0,
}  # fmt: skip
OVERLAPS = """() => {
    const box = ({pos: [x, y], size: [w, h]}) => [x, y - 30, x + w, y + h];
    const meet = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
    const nodes = app.graph._nodes;
    const those = (a, i) => nodes.slice(i + 1).filter((b) => meet(box(a), box(b)));
    return nodes.flatMap((a, i) => those(a, i).map((b) => [a.title, b.title]));
}"""


def find() -> str | None:
    """The path of a Chromium on this machine, if there is one."""
    installed = next(filter(None, map(shutil.which, NAMES)), None)
    fetched = (path for path in FETCHED.rglob("*") if path.stem in ("chrome-headless-shell", "headless_shell"))
    return installed or next((str(path) for path in fetched if path.is_file()), None)


def get() -> None:
    """Fetch Playwright's own Chromium, without its window, if the machine has none; tests are skipped if that fails."""
    if find() or (FETCHED / "tried").exists():
        return
    FETCHED.mkdir(parents=True, exist_ok=True)
    say("Fetching a Chromium for the tests of the page, once ...")
    command = [sys.executable, "-m", "playwright", "install", "--only-shell", "chromium"]
    env = {**os.environ, "PLAYWRIGHT_BROWSERS_PATH": str(FETCHED)}
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, env=env, timeout=300, capture_output=True)
    if not find():
        (FETCHED / "tried").touch()
        say(f"  none could be had, so those tests will be skipped: {ADVICE}.")


class ComfyPage:
    """ComfyUI's page in a browser, and `complaints`: the errors and warnings in the browser's console."""

    def __init__(self, page: Any, url: str):
        """`page` is Playwright's."""
        self.page, self.url = page, url
        self.complaints: list[str] = []
        page.on("console", self._on_console_message)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _on_console_message(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} ({message.location.get('url', '')})")

    def pack_complaints(self) -> list[str]:
        """The complaints about the pack's files or code, but for help pages: the page tries other languages first."""
        return [text for text in self.complaints if "/extensions/unguide/" in text and "/docs/" not in text]

    def open(self, nodes_2: bool = False) -> None:
        """Load the page anew, with the classic canvas or Nodes 2.0."""
        for name, value in {**SETTINGS, "Comfy.VueNodes.Enabled": nodes_2}.items():
            request(f"{self.url}/settings/{name}", value)
        self.page.goto(self.url)
        self.page.wait_for_function(READY)
        self.page.wait_for_timeout(2000)

    def load(self, workflow: Path) -> None:
        """Open the file of a workflow."""
        graph = json.loads(workflow.read_text(encoding="utf-8"))
        self.page.evaluate("graph => app.loadGraphData(graph)", graph)
        self.page.wait_for_timeout(1500)

    def api(self) -> dict[str, dict[str, Any]]:
        """The open workflow in the API's format, as the page would send it to the server."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def press(self, name: str) -> None:
        """Press the button of this name."""
        self.page.get_by_role("button", name=name, exact=True).first.click()

    def set(self, node: str, **values: Any) -> None:
        """Set widgets of the first node of this type, as if typed in."""
        self.page.evaluate(
            """([type, values]) => {
                const node = app.graph._nodes.find((it) => it.type === type);
                for (const [name, value] of Object.entries(values)) {
                    const widget = node.widgets.find((it) => it.name === name);
                    widget.value = value;
                    widget.callback?.(value);
                }
            }""",
            [node, values],
        )

    def wait(self, expression: str, *arguments: Any) -> None:
        """Wait until a JavaScript function of the page returns something true."""
        self.page.wait_for_function(expression, arg=list(arguments), timeout=GRAPH_TIMEOUT)

    def run(self) -> None:
        """Press Run, and wait until the graph has succeeded."""
        self.page.evaluate("""() => {
            window.succeeded = false;
            app.api.addEventListener("execution_success", () => { window.succeeded = true; }, { once: true });
        }""")
        self.press("Run")
        self.wait("() => window.succeeded")

    def words(self) -> list[str]:
        """The texts that the pack shows on its nodes as their results (web/words.js)."""
        return self.page.evaluate("""() => app.graph._nodes
            .map((node) => node.widgets?.find((widget) => widget.name === "unguide_words")?.value)
            .filter(Boolean)""")

    def dialogs(self) -> list[str]:
        """The texts of open dialogs and error messages."""
        return self.page.locator("[role=dialog], .p-toast-message-error").all_inner_texts()

    def fit(self) -> None:
        """Bring the whole graph into view."""
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.page.wait_for_timeout(2000)

    def shoot(self, path: Path) -> None:
        """Save a picture of the page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)


@contextlib.contextmanager
def comfy_page(url: str, width: int = 1700, height: int = 950) -> Iterator[ComfyPage]:
    """The page of the ComfyUI at `url` in a browser of its own, so many pixels large; it is still to be opened."""
    from playwright.sync_api import sync_playwright  # only some commands install it

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(90_000)
        yield ComfyPage(page, url)
        browser.close()
