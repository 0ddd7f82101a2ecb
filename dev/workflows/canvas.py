"""A workflow as the front end saves it, from nodes in columns; and the same in the API's format."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dev.client import Graph

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
TITLE, GAP, SLOT, WIDGET, TEXT, PICTURE, MARGIN = 30, 30, 20, 24, 90, 300, 40  # pixels of the canvas at scale 1
WIDTH = 320
FOOTER = 60  # what Nodes 2.0 shows below the nodes of a pack: its name, and a button for advanced inputs
BLUE, GREEN, VIOLET = "#3f789e", "#88aa88", "#a1309b"
PICTURED = ("PreviewImage", "SaveImage")
NOTE = "MarkdownNote"
NOTES = Path(__file__).parent / "notes"


@dataclass
class Node:
    """A node on the canvas; `node[0]` is its first output."""

    id: int
    type: str
    column: int
    values: dict[str, Any]
    title: str = ""
    height: float = 0
    bypassed: bool = False
    properties: dict = field(default_factory=dict)

    def __getitem__(self, output: int) -> tuple[Node, int]:
        return self, output


def _more(spec: list) -> dict:
    """What an input's specification says beside its type."""
    return spec[1] if len(spec) > 1 else {}


class Canvas:
    """Nodes are added column by column, from the top; `schemas` are the host's object_info."""

    def __init__(self, name: str, schemas: dict[str, dict]):
        self.name, self._schemas = name, schemas
        self.nodes: list[Node] = []
        self._groups: list[tuple[str, int, int, str]] = []

    def add(
        self, type_: str, column: int, title: str = "", tall: float = 0, models=(), bypassed=False, **values
    ) -> Node:
        """A node that what it shows makes so many pixels `tall` (0: it shows nothing); `models` are to be downloaded.

        `values` are its inputs: values of widgets, and outputs of other nodes. A `bypassed` one hands on the inputs
        that have its outputs' names.
        """
        properties = {"Node name for S&R": type_, **({"models": list(models)} if models else {})}
        node = Node(len(self.nodes) + 1, type_, column, values, title, tall, bypassed, properties)
        unknown = values.keys() - {name for name, _ in self._inputs(type_)} if type_ != NOTE else set()
        if unknown:
            raise ValueError(f"{type_} has no input {min(unknown)!r}")
        self.nodes.append(node)
        return node

    def note(self, column: int, name: str, tall: float) -> None:
        """The words of a file in `notes`."""
        self.add(NOTE, column, "Read me", tall, text=(NOTES / f"{name}.md").read_text(encoding="utf-8").strip())

    def group(self, title: str, first: int, last: int, color: str = BLUE) -> None:
        """A frame around some columns."""
        self._groups.append((title, first, last, color))

    def _inputs(self, type_: str) -> list[tuple[str, list]]:
        """(name, [type or options, more]) of a node's inputs: required ones, then optional ones."""
        its = self._schemas[type_]["input"]
        return [*its.get("required", {}).items(), *its.get("optional", {}).items()]

    def _is_widget(self, spec: list) -> bool:
        return (isinstance(spec[0], list) or spec[0] in WIDGETS) and not _more(spec).get("forceInput")

    def _value(self, node: Node, name: str, spec: list) -> Any:
        """A widget's value: as given, or its default."""
        given = node.values.get(name)
        if given is not None and not isinstance(given, tuple):
            return given
        more = _more(spec)
        options = spec[0] if isinstance(spec[0], list) else more.get("options", [])
        return more.get("default", options[0] if options else "" if spec[0] == "STRING" else 0)

    def _height(self, node: Node) -> float:
        """Before it shows anything."""
        if node.type == NOTE:
            return node.height
        inputs = self._inputs(node.type)
        shown = [spec for _, spec in inputs if not _more(spec).get("advanced")]
        widgets = [spec for spec in shown if self._is_widget(spec)]
        long = sum(1 for spec in widgets if _more(spec).get("multiline"))
        again = sum(1 for spec in widgets if _more(spec).get("control_after_generate"))
        slots = max(sum(1 for _, spec in inputs if not self._is_widget(spec)), len(self._schemas[node.type]["output"]))
        picture = PICTURE if node.type in PICTURED else 0
        return slots * SLOT + (len(widgets) + again) * WIDGET + long * TEXT + picture + 20

    def _footer(self, node: Node) -> int:
        return FOOTER if node.type.startswith("UnG") else 0

    def _places(self) -> dict[int, tuple[float, float, float, float]]:
        """Node -> x, y, width, height."""
        found, x = {}, 0.0
        for column in range(max(node.column for node in self.nodes) + 1):
            y = 0.0
            for node in self.nodes:
                if node.column == column:
                    height = self._height(node)
                    found[node.id] = (x, y, WIDTH, height)
                    y += max(height, node.height) + self._footer(node) + TITLE + GAP
            x += WIDTH + 2 * MARGIN
        return found

    def ui(self) -> dict:
        """As the front end saves it."""
        places, links, outgoing = self._places(), [], {}
        nodes = []
        for node in self.nodes:
            if node.type == NOTE:
                nodes.append(self._json(node, places, [], [node.values["text"]]))
                continue
            inputs = self._inputs(node.type)
            ordered = sorted(inputs, key=lambda it: self._is_widget(it[1]))
            slots, values = [], []
            for name, spec in ordered:
                kind = "COMBO" if isinstance(spec[0], list) else spec[0]
                slot: dict[str, Any] = {"name": name, "type": kind, "link": None}
                if self._is_widget(spec):
                    slot["widget"] = {"name": name}
                elif name not in dict(self._schemas[node.type]["input"].get("required", {})):
                    slot["shape"] = 7  # optional
                given = node.values.get(name)
                if isinstance(given, tuple):
                    source, output = given
                    link = len(links) + 1
                    kind = self._schemas[source.type]["output"][output]
                    links.append([link, source.id, output, node.id, len(slots), kind])
                    outgoing.setdefault((source.id, output), []).append(link)
                    slot["link"] = link
                slots.append(slot)
            for name, spec in inputs:
                if self._is_widget(spec):
                    values.append(self._value(node, name, spec))
                    if _more(spec).get("control_after_generate"):
                        values.append("fixed")
            nodes.append(self._json(node, places, slots, values))
        for entry, node in zip(nodes, self.nodes, strict=True):
            if node.type != NOTE:
                names = self._schemas[node.type]["output_name"]
                entry["outputs"] = [
                    {"name": name, "type": kind, "links": outgoing.get((node.id, index))}
                    for index, (name, kind) in enumerate(zip(names, self._schemas[node.type]["output"], strict=True))
                ]
        groups = [self._group(number, *it, places) for number, it in enumerate(self._groups, 1)]
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, self.name)), "revision": 0, "last_node_id": len(nodes),
            "last_link_id": len(links), "nodes": nodes, "links": links, "groups": groups, "config": {},
            "extra": {"ds": {"scale": 0.75, "offset": [MARGIN * 3, 230]}}, "version": 0.4,
        }  # fmt: skip

    def _json(self, node: Node, places: dict, inputs: list, values: list) -> dict:
        x, y, width, height = places[node.id]
        return {
            "id": node.id, "type": node.type, "pos": [x, y], "size": [width, height], "flags": {}, "order": node.id - 1,
            "mode": 4 if node.bypassed else 0, "inputs": inputs, "outputs": [],
            **({"title": node.title} if node.title else {}),
            "properties": {} if node.type == NOTE else node.properties, "widgets_values": values,
            **({"color": "#432", "bgcolor": "#653"} if node.type == NOTE else {}),
        }  # fmt: skip

    def _group(self, number: int, title: str, first: int, last: int, color: str, places: dict) -> dict:
        inside = [places[node.id] for node in self.nodes if first <= node.column <= last]
        left, top = min(it[0] for it in inside) - MARGIN / 2, min(it[1] for it in inside) - 2 * TITLE - 20
        right = max(it[0] + it[2] for it in inside) + MARGIN / 2
        bottom = MARGIN / 2 + max(
            places[node.id][1] + max(places[node.id][3], node.height) + self._footer(node) for node in self.nodes
            if first <= node.column <= last
        )  # fmt: skip
        bounding = [left, top, right - left, bottom - top]
        return {"id": number, "title": title, "bounding": bounding, "color": color, "font_size": 24, "flags": {}}

    def _through(self, source: Node, output: int) -> tuple[Node, int]:
        """An output, or what a bypassed node hands on in its place."""
        while source.bypassed:
            source, output = source.values[self._schemas[source.type]["output_name"][output]]
        return source, output

    def api(self) -> Graph:
        """As the server runs it."""
        graph: Graph = {}
        for node in self.nodes:
            if node.type == NOTE or node.bypassed:
                continue
            inputs: dict[str, Any] = {}
            for name, spec in self._inputs(node.type):
                given = node.values.get(name)
                if isinstance(given, tuple):
                    source, output = self._through(*given)
                    inputs[name] = [str(source.id), output]
                elif self._is_widget(spec):
                    inputs[name] = self._value(node, name, spec)
            graph[str(node.id)] = {
                "class_type": node.type,
                "inputs": inputs,
                "_meta": {"title": node.title or node.type},
            }
        return graph
