"""Making text from users and files safe to show: no markup, no control characters, no endless quotes in errors.

Some versions of ComfyUI's front end render text as HTML where they should not. The pack does not rely on them: whatever
it sends to the page, or quotes in an error, goes through a function of this module first.
"""

from __future__ import annotations

import json
import re

NO_TAGS = str.maketrans({"<": "\u2039", ">": "\u203a", "\t": " "})
UNSHOWABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
"""Control characters other than line feeds, lone surrogates, and characters that change the text's direction."""
IN_JSON = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}


def without_markup(text: str) -> str:
    """The text with other brackets for < and >, and ? for each character that cannot be shown; line feeds stay."""
    return UNSHOWABLE.sub("?", text.translate(NO_TAGS))


def is_plain(name: str) -> bool:
    """Whether `without_markup` leaves a name unchanged."""
    return without_markup(name) == name


def json_without_markup(data, indent: int | None = None) -> str:
    """`data` as JSON in which <, > and & are escaped, so that HTML finds no tag in it; it parses to the same data."""
    return json.dumps(data, indent=indent).translate(IN_JSON)


def printable(value: object, longest: int = 120) -> str:
    """`str(value)` for quoting in an error: on one line, cut to `longest` characters, ? for what cannot be printed."""
    words = " ".join(str(value)[: 2 * longest].split())
    text = "".join(character if character.isprintable() else "?" for character in words[: longest + 1])
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
