"""`python dev architecture`: draw the rooms of the pack and the arrows between them from the imports in the code."""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from pathlib import Path

from dev import ROOT

PICTURE = ROOT / "docs" / "architecture.png"
ROOMS = {
    "nodes": (0, 0.50, "what an artist sees"),
    "pipeline": (1, 0.22, "train, calibrate, show, rescue"),
    "demo_model": (1, 0.85, "the embedded model, its judges"),
    "training": (2, 0.12, "loss, batches, trainer"),
    "guidance": (2, 0.40, "blend, steering, report"),
    "files": (2, 0.66, "LoRAs, prompt lists"),
    "metrics": (2, 0.90, "accuracies, H0, CLIP"),
    "gate": (3, 0.50, "scores, calibration, probe"),
    "host": (4, 0.72, "all that knows ComfyUI"),
    "lora": (5, 0.30, "pairs, adapter, target layers"),
}
"""Room -> its layer from the top, where in it it is drawn, and what it holds. Arrows lead down, never up or sideways.

What stands beside the rooms (concept.py, safe_text.py, ...) everybody may import.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing to choose."""


def run(options: argparse.Namespace) -> int:
    """Draw the picture."""
    draw(arrows(), PICTURE)
    print(PICTURE)
    return 0


def room_of(path: Path) -> str:
    """The room of a file of the pack: a folder of unguide_ops, a module beside these folders, or a top folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "unguide_ops" and len(parts) > 1 else parts[0]


def arrows() -> dict[tuple[str, str], int]:
    """(importing room, imported room) -> how many modules of the one import from the other."""
    count: dict[tuple[str, str], int] = defaultdict(int)
    for top in ("nodes", "unguide_ops", "demo_model"):
        for path in sorted((ROOT / top).rglob("*.py")):
            rooms = {room_of(target) for target in imported_files(path)} - {room_of(path)}
            for room in rooms:
                count[room_of(path), room] += 1
    return dict(count)


def imported_files(path: Path) -> set[Path]:
    """The files of the pack that a file imports from, by relative imports at any depth of its code.

    What it imports for type checkers alone makes no arrow.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    conditions = (node for node in ast.walk(tree) if isinstance(node, ast.If))
    for_types = (node for node in conditions if ast.unparse(node.test) == "TYPE_CHECKING")
    skipped = {id(inner) for node in for_types for inner in ast.walk(node)}
    files = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level or id(node) in skipped:
            continue
        folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
        for name in node.names:
            candidates = (folder / f"{name.name}.py", folder / name.name / "__init__.py", folder.with_suffix(".py"),
                          folder / "__init__.py")  # fmt: skip
            files.add(next(file for file in candidates if file.is_file()))
    return files


def draw(counts: dict[tuple[str, str], int], picture: Path) -> None:
    """Boxes layer by layer, and an arrow from each room to those that it imports from."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.6), dpi=100, layout="constrained")
    axis = figure.add_subplot()
    axis.set_axis_off()
    axis.set(xlim=(0, 1), ylim=(-5.4, 0.4))
    place = {room: (x, -layer) for room, (layer, x, _) in ROOMS.items()}
    for (room, target), number in sorted(counts.items()):
        if room in place and target in place:
            colour = "#d1495b" if ROOMS[room][0] >= ROOMS[target][0] else "#9aa5ad"
            axis.annotate("", place[target], place[room], zorder=1, arrowprops={
                "arrowstyle": "-|>", "shrinkA": 20, "shrinkB": 20, "linewidth": 0.8 + 0.2 * number, "alpha": 0.8,
                "color": colour, "connectionstyle": "arc3,rad=0.06",
            })  # fmt: skip
    for room, (layer, x, content) in ROOMS.items():
        box = {"boxstyle": "round,pad=0.5", "facecolor": "#eef4f7", "edgecolor": "#2a7f9e"}
        axis.text(x, -layer, f"{room}\n{content}", ha="center", va="center", fontsize=9, zorder=2, bbox=box)
    figure.savefig(picture, metadata={"Software": None})
