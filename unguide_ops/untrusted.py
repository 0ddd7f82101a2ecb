"""Checks on files before they are parsed: any of them may be corrupt, or made to exhaust memory or time."""

from __future__ import annotations

import re
from pathlib import Path
from stat import S_ISREG

from pydantic import ValidationError

from .safe_text import printable

STRING = re.compile(rb'"[^"]*"')


def check_file(path: Path, largest: int, kind: str) -> None:
    """Raises ValueError, naming the file, unless it is a regular file of at most `largest` bytes.

    Reading a pipe or a device might never end. `kind` says in the error what is expected, such as "prompt file".
    """
    try:
        status = path.stat()
    except OSError as error:
        raise ValueError(f"{printable(path.name)} cannot be opened: {error.strerror}.") from None
    if not S_ISREG(status.st_mode):
        raise ValueError(f"{printable(path.name)} is not a regular file: choose a file that is a {kind}.")
    if status.st_size > largest:
        raise ValueError(f"{printable(path.name)} is larger than {largest} bytes: this is not a {kind}.")


def read_json(path: Path) -> bytes:
    """The bytes of a JSON file, without the byte order mark that some editors write."""
    return path.read_bytes().removeprefix(b"\xef\xbb\xbf")


def check_parts(json: bytes, most: int) -> None:
    """Raises ValueError if JSON has more than `most` parts: objects, lists, and further elements of either.

    Once parsed, each part takes far more memory than its text. They are counted without parsing, by the brackets and
    commas outside of strings.
    """
    unescaped = json.replace(b"\\\\", b"").replace(b'\\"', b"")  # now every quote begins or ends a string
    if _marks(unescaped) > most and (unescaped.count(b'"') > 4 * most or _marks(STRING.sub(b"", unescaped)) > most):
        raise ValueError(f"its JSON has more than {most} parts")


def _marks(json: bytes) -> int:
    """The number of bytes that begin a part: opening brackets and commas."""
    return sum(json.count(mark) for mark in (b"{", b"[", b","))


def first_problem(error: ValidationError, subject: str = "the file") -> str:
    """The first problem as "field: message", with `subject` for a problem that is not in one field."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = printable(".".join(map(str, first["loc"]))) or subject
    return f"{field}: {first['msg'].removeprefix('Value error, ')}"
