"""What a node says of its result, which stays on it (web/words.js)."""

from collections.abc import Iterable

from ..unguide_ops import host
from ..unguide_ops.page import for_page


def said(lines: Iterable[str], pictures=None) -> dict:
    """A node's `ui` with these words, and with the host's preview of pictures if given; they are also shown at once."""
    text = for_page("\n".join(it for it in lines if it))
    host.say_on_node(text)
    return {**(pictures.as_dict() if pictures else {}), "text": [text]}
