"""The text on a node about its result, which stays after the run (web/words.js)."""

from __future__ import annotations

from collections.abc import Iterable

from comfy_api.latest import ui

from ..unguide_ops import host
from ..unguide_ops.safe_text import without_markup


def status_ui(lines: Iterable[str], preview: ui.PreviewImage | None = None) -> dict:
    """The `ui` of a node's output with these lines, empty ones left out, and a preview; the lines are shown at once."""
    text = without_markup("\n".join(line for line in lines if line))
    host.show_status(text)
    return {**(preview.as_dict() if preview else {}), "text": [text]}
