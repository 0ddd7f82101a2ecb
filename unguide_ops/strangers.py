"""What holds for every file, since a stranger may have made it: it is looked at before anything in it is believed."""

from __future__ import annotations

import re
from pathlib import Path
from stat import S_ISREG

from pydantic import ValidationError

TEXT = re.compile(rb'"[^"]*"')


def check_file(path: Path, largest: int, kind: str) -> None:
    """Raises ValueError, naming it, for what might never be read to its end: no regular file (a folder, a pipe, a
    device), or one larger than its `kind` ever is.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise ValueError(f"{brief(path.name)} cannot be opened: {error.strerror}.") from None
    if not S_ISREG(status.st_mode):
        raise ValueError(f"{brief(path.name)} is no regular file: choose a file that is a {kind}.")
    if status.st_size > largest:
        raise ValueError(f"{brief(path.name)} is larger than {largest} bytes: this is not a {kind}.")


def read_json(path: Path) -> bytes:
    """A JSON file's text as UTF-8, without the mark that some editors put before it."""
    return path.read_bytes().removeprefix(b"\xef\xbb\xbf")


def check_parts(json: bytes, most: int) -> None:
    """Raises ValueError for JSON of more than so many parts, which take far more time and memory than its text: lists,
    objects, and what stands in them, counted outside of its texts.
    """
    plain = json.replace(b"\\\\", b"").replace(b'\\"', b"")  # what is left of quotes begins or ends a text
    if _marks(plain) > most and (plain.count(b'"') > 4 * most or _marks(TEXT.sub(b"", plain)) > most):
        raise ValueError(f"its JSON has more than {most} parts")


def _marks(json: bytes) -> int:
    return sum(json.count(mark) for mark in (b"{", b"[", b","))


def brief(words: object, most: int = 120) -> str:
    """A file's own words for an error: so many characters at most, and on one line."""
    text = "".join(it if it.isprintable() else "?" for it in " ".join(str(words)[: 2 * most].split())[: most + 1])
    return text if len(text) <= most else f"{text[: most - 3]}..."


def first_problem(error: ValidationError, otherwise: str = "the file") -> str:
    """Where and what the first of them is; `otherwise` is where it is the whole."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = brief(".".join(map(str, first["loc"]))) or otherwise
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"
