"""Words on their way to the page, which may quote anybody: prompts, lists, names, files. Nothing in them is markup.

Some front ends take words for HTML where they should not. So every word goes through here, and none relies on them.
"""

from __future__ import annotations

import json
import re

NO_TAGS = str.maketrans({"<": "\u2039", ">": "\u203a", "\t": " "})
UNSEEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
"""Control characters, halves of characters, and what turns the direction of all that follows."""
IN_JSON = {ord(it): f"\\u{ord(it):04x}" for it in "<>&"}


def for_page(text: str) -> str:
    """The same words, in which nothing is a tag, and every character can be shown; lines stay lines."""
    return UNSEEN.sub("?", text.translate(NO_TAGS))


def is_safe(name: str) -> bool:
    """Whether a name can be shown as it is."""
    return for_page(name) == name


def as_json(data, indent: int | None = None) -> str:
    """JSON in which no tag can be read, and which says the same."""
    return json.dumps(data, indent=indent).translate(IN_JSON)
