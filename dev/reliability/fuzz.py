"""Good files, changed at random: a parser takes them or says in one sentence why not, and nothing else ever happens."""

from __future__ import annotations

import io
import json
import random
import re
import tempfile
import time
import zipfile
from pathlib import Path

from dev.hosts import HOST
from dev.reliability.child import PATIENCE, in_child, limit_memory, prepare
from dev.reliability.parsers import PARSERS as OPEN
from dev.reliability.seeds import SEEDS, packed, unpacked

PARSERS = tuple(name for name in SEEDS if name != "drawn")
SECONDS = 2  # an input that takes longer is a find
LONGEST = 1000  # characters of an error
ENOUGH = 20  # finds of a kind each
MOST_CHANGES = 6
LARGEST = 300_000  # bytes of an input
VALUES = (None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 1e308, -1e-320, float("inf"), float("nan"),
          "", "\0", "a", "=1+1", "(" * 500, "\ud800", "x" * 3000, "..", "1e999",
          [], {}, [[]], [0] * 2000, {"a": {"b": [None]}})  # fmt: skip
WORDS = (b"\0", b"\xff" * 8, b"\x80", b"{", b"}", b"[", b"]", b'"', b",", b"\n", b"\r", b";", b"\t", b"prompt", b"seed",
         b"\xef\xbb\xbf", b"\xff\xfe", b"__metadata__", b"unguide", b"lora_down.weight", b"alpha", b"F32", b"F8_E4M3",
         b"PK\3\4", b"PK\1\2", b"PK\5\6", b"PK\6\6", b"ctorch\nFloatStorage\n", b"cposix\nsystem\n", b"h\0", b"q\0",
         b"\x85", b"\x86", b"t", b"(", b"R", b"b", b"s", b"u", b")", b".", b"9" * 400, b"1e400", b"NaN")  # fmt: skip


def fuzz(parser: str, seconds: float, seed: int, host: Path = HOST) -> dict:
    """`tried`, `refused`, `accepted` inputs, and `crashes`: what each did, and the input as latin-1.

    A child tries them, and another goes on where one has died.
    """
    prepare(host)
    counts: dict = {"tried": 0, "refused": 0, "accepted": 0, "crashes": []}
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0 and len(counts["crashes"]) < ENOUGH:
        with tempfile.TemporaryDirectory(prefix="unguide-fuzz-") as folder:
            found = in_child(try_many, parser, left, seed, folder, patience=left + PATIENCE)
            if error := found.pop("error", ""):
                (last,) = Path(folder).iterdir()
                found = {"tried": 1, "crashes": [_find(error, found["message"], last.name, last.read_bytes())]}
        for name, value in found.items():
            counts[name] += value
        seed += 1
    return counts


def try_many(parser: str, seconds: float, seed: int, folder: str) -> dict:
    """The same in this process, until there is enough to mend."""
    limit_memory()
    rng = random.Random(seed)
    seeds = {name: make() for name, make in SEEDS[parser].items()}
    counts: dict = {"tried": 0, "refused": 0, "accepted": 0, "crashes": []}
    ends = time.monotonic() + seconds
    kinds: set[str] = set()
    while time.monotonic() < ends and len(kinds) < ENOUGH:
        name = rng.choice(list(seeds))
        content = changed(seeds[name], rng)
        path = Path(folder, name)
        path.write_bytes(content)
        counts["tried"] += 1
        began = time.process_time()
        try:
            OPEN[parser](str(path))
            counts["accepted"] += 1
            wrong = ""
        except ValueError as error:
            counts["refused"] += 1
            plain = type(error) is ValueError and name in str(error) and len(str(error)) < LONGEST
            wrong = "" if plain else repr(error)
        except BaseException as error:  # of a library in another language as well
            wrong = repr(error)
        if time.process_time() - began > SECONDS:
            wrong = f"{wrong} {time.process_time() - began:.1f} s"
        kind = re.sub(r"\d+", "", wrong)[:60]
        if kind not in kinds and wrong:
            kinds.add(kind)
            counts["crashes"].append(_find("wrong", wrong[:LONGEST], name, content))
        path.unlink()
    return counts


def _find(error: str, message: str, name: str, content: bytes) -> dict:
    return {"error": error, "message": message, "name": name, "input": content.decode("latin-1")}


def changed(content: bytes, rng: random.Random) -> bytes:
    """The same file with some changes: of its bytes, or of what they mean."""
    for _ in range(rng.randint(1, MOST_CHANGES)):
        ways = [of_bytes]
        if content[:4] == b"PK\3\4":
            ways.append(of_archive)
        if content[8:9] == b"{":
            ways.append(of_safetensors)
        if content[:1] in b"{[":
            ways.append(of_json)
        other = rng.choice(ways)(content, rng)
        content = other if len(other) <= LARGEST else content
    return content


def of_bytes(content: bytes, rng: random.Random) -> bytes:
    """A piece left out, doubled, moved, overwritten or put in."""
    at, to = sorted(rng.choices(range(len(content) + 1), k=2))
    to = min(to, at + rng.choice((1, 2, 8, 1000)))
    word = rng.choice(WORDS) if rng.random() < 0.5 else bytes(rng.choices(range(256), k=rng.randint(1, 9)))
    piece = rng.choice((b"", content[at:to] * 2, content[at:to] + word, word, word * rng.choice((1, 50, 5000))))
    return content[:at] + piece + content[to:]


def of_json(content: bytes, rng: random.Random) -> bytes:
    """A value replaced, left out, nested, or under another name."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError, MemoryError):
        return of_bytes(content, rng)
    return json.dumps(_grafted(tree, rng)).encode()


def _grafted(tree, rng: random.Random):
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.2:
        return rng.choice((rng.choice(VALUES), [tree], {"x": tree}, [tree] * 50))
    key = rng.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
    value = tree[key]
    if isinstance(value, str) and value[:1] in ("{", "[") and value[1:]:  # JSON in JSON
        tree[key] = of_json(value.encode(), rng).decode("utf-8", "replace")
        return tree
    what = rng.random()
    if what < 0.15:
        del tree[key]
    elif what < 0.3 and isinstance(tree, dict):
        tree[rng.choice((*tree, "alpha", "", "a" * 600))] = value
    else:
        tree[key] = _grafted(value, rng)
    return tree


def of_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Its header changed as JSON, its length right."""
    try:
        header, data = unpacked(content)
    except (ValueError, RecursionError, MemoryError):
        return of_bytes(content, rng)
    if rng.random() < 0.3:
        return packed(json.dumps(header), of_bytes(data, rng))
    return packed(of_json(json.dumps(header).encode(), rng), data) if header else content


def of_archive(content: bytes, rng: random.Random) -> bytes:
    """A file in it changed or left out, and packed again, so that its check sum is right."""
    file = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(file, "w") as after:
            its = {it.filename: before.read(it) for it in before.infolist()}
            name = next((it for it in its if it.endswith("data.pkl")), "") if rng.random() < 0.7 else ""
            name = name or rng.choice(list(its))
            its[name] = of_bytes(its[name], rng)
            if rng.random() < 0.05:
                del its[name]
            for each, it in its.items():
                after.writestr(each, it)
    except Exception:  # a damaged archive may raise any
        return of_bytes(content, rng)
    return file.getvalue()
