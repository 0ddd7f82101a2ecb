"""Show how a graph advances: a bar for the node at work, and one line for each that is done."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from dev.client import Graph, title_of
from dev.stages import duration


class GraphProgress:
    """An `on_event` for `run_graph`, and a context manager that cleans up behind it.

    On a terminal the node at work has a bar with its steps; elsewhere there are only lines of finished nodes.
    """

    def __init__(self, graph: Graph, stream: TextIO | None = None) -> None:
        """Follow `graph` on `stream`, by default stdout."""
        self.graph = graph
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self.began: dict[str, float] = {}
        self.steps: dict[str, int] = {}
        self.done: set[str] = set()
        self.bar: Any = None
        self.bar_node = ""

    def __enter__(self) -> GraphProgress:
        """Nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self._close_bar()

    def __call__(self, name: str, data: dict[str, Any]) -> None:
        """Take in one event of the host."""
        if name == "execution_cached":
            self.done.update(data["nodes"])
        elif name == "progress_state":
            for state in data["nodes"].values():
                self._take(state)
        elif name == "progress_text" and self.bar is not None and data["node"] == self.bar_node:
            self.bar.set_postfix_str(data["text"], refresh=False)

    def _take(self, state: dict[str, Any]) -> None:
        node = state["display_node_id"]  # for a node that another one expanded into: that other one
        if node in self.done:
            return
        self.began.setdefault(node, time.monotonic())
        if state["max"] > 1:
            self.steps[node] = int(state["max"])
        if state["state"] == "finished" and state["node_id"] == node:
            self._finish(node)
        elif state["state"] == "running":
            self._show(node, state)

    def _show(self, node: str, state: dict[str, Any]) -> None:
        if not self.live:
            return
        if node != self.bar_node:
            from tqdm import tqdm  # here, so that the module can be imported before the environment exists

            self._close_bar()
            self.bar = tqdm(total=0, desc=self._name(node), file=self.stream, leave=False, unit="step")
            self.bar_node = node
        if state["max"] > 1:
            self.bar.total = state["max"]
            self.bar.n = state["value"]
        self.bar.refresh()

    def _finish(self, node: str) -> None:
        self._close_bar()
        self.done.add(node)
        steps = f"{self.steps[node]} steps, " if node in self.steps else ""
        self.stream.write(f"{self._name(node)}: {steps}{duration(time.monotonic() - self.began[node])}\n")
        self.stream.flush()

    def _name(self, node: str) -> str:
        title = title_of(self.graph, node) or self.graph.get(node, {}).get("class_type", node)
        return f"[{min(len(self.done - {node}) + 1, len(self.graph))}/{len(self.graph)}] {title}"

    def _close_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar, self.bar_node = None, ""
