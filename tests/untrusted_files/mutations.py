"""Hypothesis strategies of good files with some changes, in their bytes or in what these mean."""

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from functools import cache

from hypothesis import strategies as st
from untrusted_files.builders import pack
from untrusted_files.corpus import CORPUS

LARGEST = 300_000  # bytes of a changed file
TOKENS = st.sampled_from([
    b"\0", b"\xff" * 8, b"\x80", b"{", b"}", b"[", b"]", b'"', b",", b"\n", b"\r", b";", b"\t", b"prompt", b"seed",
    b"\xef\xbb\xbf", b"\xff\xfe", b"__metadata__", b"unguide", b"lora_down.weight", b"alpha", b"F32", b"F8_E4M3",
    b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"ctorch\nFloatStorage\n", b"cposix\nsystem\n", b"h\0", b"q\0", b"\x85",
    b"\x86", b"t", b"(", b"R", b"b", b"s", b"u", b")", b".", b"9" * 400, b"1e400", b"NaN",
])  # fmt: skip
KEYS = st.sampled_from(["alpha", "", "a" * 600]) | st.text(max_size=8)
ODD_VALUES = st.sampled_from([
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 1e308, -1e-320, float("inf"), float("nan"), "", "\0", "a",
    "=1+1", "(" * 500, "\ud800", "x" * 3000, "..", "1e999", [0] * 2000, {"a": {"b": [None]}},
])  # fmt: skip
JSON = st.recursive(
    ODD_VALUES | st.integers() | st.floats() | st.text(max_size=20),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(KEYS, values, max_size=4),
    max_leaves=6,
)


@cache
def good_files(parser: str) -> dict[str, bytes]:
    return {name: make() for name, make in CORPUS[parser].items()}


@st.composite
def changed_files(draw, parser: str) -> tuple[str, bytes]:
    """The name and content of one of a parser's good files, with one to six changes."""
    name = draw(st.sampled_from(sorted(good_files(parser))))
    content = good_files(parser)[name]
    for _ in range(draw(st.integers(1, 6))):
        changed = draw(st.sampled_from((change_bytes, change_structure)))(draw, content)
        content = changed if len(changed) <= LARGEST else content
    return name, content


def change_bytes(draw, content: bytes) -> bytes:
    """A piece left out, doubled, overwritten, or something put in."""
    start = draw(st.integers(0, len(content)))
    piece = content[start : start + draw(st.sampled_from((0, 1, 2, 8, 1000)))]
    token = draw(TOKENS | st.binary(min_size=1, max_size=9))
    new = draw(st.sampled_from((b"", piece * 2, piece + token, token, token * 50, token * 5000)))
    return content[:start] + new + content[start + len(piece) :]


def change_structure(draw, content: bytes) -> bytes:
    """A part of a file changed, such that lengths and check sums are right; most often a header or a pickle."""
    parts, join = split(content)
    name = draw(st.sampled_from([*parts, *[name for name in parts if name.endswith(("header", "data.pkl"))] * 9]))
    parts[name] = change_json(draw, parts[name]) if parts[name][:1] in (b"{", b"[") else change_bytes(draw, parts[name])
    if len(parts) > 2 and not draw(st.integers(0, 19)):
        del parts[name]
    return join(parts)


def split(content: bytes) -> tuple[dict[str, bytes], Callable[[dict[str, bytes]], bytes]]:
    """The entries of a zip, header and data of a safetensors file, or all of another file; what joins them again."""
    with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(content)) as source:  # damaged, it may raise any
        if entries := {entry.filename: source.read(entry) for entry in source.infolist()}:
            return entries, join_zip
    size = int.from_bytes(content[:8], "little") + 8
    if content[8:9] == b"{" and size <= len(content):
        return {"header": content[8:size], "data": content[size:]}, lambda parts: pack(*parts.values())
    return {"": content}, lambda parts: parts[""]


def join_zip(entries: dict[str, bytes]) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as target:
        for name, data in entries.items():
            target.writestr(zipfile.ZipInfo(name), data)
    return output.getvalue()


def change_json(draw, content: bytes) -> bytes:
    """A value replaced, left out, nested, or put under another name, at any depth."""
    try:
        return json.dumps(graft(draw, json.loads(content))).encode()
    except (ValueError, RecursionError, MemoryError):
        return change_bytes(draw, content)


def graft(draw, tree):
    if not isinstance(tree, dict | list) or not tree or not draw(st.integers(0, 4)):
        return draw(JSON | st.sampled_from(([tree], {"x": tree}, [tree] * 50)))
    key = draw(st.sampled_from(list(tree) if isinstance(tree, dict) else range(len(tree))))
    value, change = tree[key], draw(st.integers(0, 9))
    if isinstance(value, str) and value[:1] in ("{", "["):  # JSON in JSON
        tree[key] = change_json(draw, value.encode("utf-8", "replace")).decode("utf-8", "replace")
    elif change == 0:
        del tree[key]
    elif change == 1 and isinstance(tree, dict):
        tree[draw(KEYS | st.sampled_from(list(tree)))] = value
    else:
        tree[key] = graft(draw, value)
    return tree
