"""The progress of a graph on the terminal: a bar for the node at work, and a line for each that has finished."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

from dev.client import Graph, title_of
from dev.console import duration, say


class GraphProgress:
    """An `on_event` for `run_graph`, and a context manager that removes the bar at the end.

    Only terminals show the bar; everything else gets the lines alone.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.node = ""  # the node at work
        self.began: dict[str, float] = {}
        self.steps: dict[str, int] = {}
        self.finished: set[str] = set()
        self.bar = tqdm(total=0, file=sys.stdout, leave=False, unit="step", disable=None)  # None: not on a terminal

    def __enter__(self) -> GraphProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, name: str, data: dict[str, Any]) -> None:
        """Take in one event of the host."""
        if name == "execution_cached":
            self.finished.update(data["nodes"])
        elif name == "progress_state":
            for state in data["nodes"].values():
                self._update(state)
        elif name == "progress_text" and data["node"] == self.node:
            self.bar.set_postfix_str(data["text"], refresh=False)

    def _update(self, state: dict[str, Any]) -> None:
        node = state["display_node_id"]  # for a node that another one expanded into: that other one
        if node in self.finished:
            return
        self.began.setdefault(node, time.monotonic())
        if state["max"] > 1:
            self.steps[node] = int(state["max"])
        if state["state"] == "finished" and state["node_id"] == node:
            steps = f"{self.steps[node]} steps, " if node in self.steps else ""
            with tqdm.external_write_mode(sys.stdout):  # the bar makes room for the line
                say(f"{self._name(node)}: {steps}{duration(time.monotonic() - self.began[node])}")
            self.finished.add(node)
        elif state["state"] == "running":
            if node != self.node:
                self.node = node
                self.bar.set_description_str(self._name(node), refresh=False)
                self.bar.set_postfix_str("", refresh=False)
                self.bar.reset(total=0)
            if state["max"] > 1:
                self.bar.total, self.bar.n = state["max"], state["value"]
            self.bar.refresh()

    def _name(self, node: str) -> str:
        title = title_of(self.graph, node) or self.graph.get(node, {}).get("class_type", node)
        return f"[{min(len(self.finished) + 1, len(self.graph))}/{len(self.graph)}] {title}"
