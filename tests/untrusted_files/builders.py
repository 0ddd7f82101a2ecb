"""Functions that write untrusted files. A builder puts one into a folder, and gives the arguments for its parser."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

DEPTH = 10_000

Builder = Callable[[Path], tuple[Path | str, ...]]
Table = dict[str, tuple[str, Builder, str]]  # by the case's name: parser, builder, pattern of the error ("": none)


def special(name: str, create: Callable[[Path], object]) -> Builder:
    """A builder of what `create(path)` makes."""

    def build(folder: Path) -> tuple[Path, ...]:
        create(folder / name)
        return (folder / name,)

    return build


def file(name: str, content: Callable[[], bytes] | bytes) -> Builder:
    """A builder of a file with this content, or with what it returns."""
    return special(name, lambda path: path.write_bytes(content() if callable(content) else content))


lora_file, pth_file = partial(file, "lora.safetensors"), partial(file, "lora.pth")


def not_regular(name: str) -> dict[str, tuple[Builder, str]]:
    """Builders, with their error, of what might never be read to its end."""
    creators = {"a folder": Path.mkdir, "a pipe": lambda path: os.mkfifo(path),
                "a device": lambda path: path.symlink_to("/dev/zero")}  # fmt: skip
    return {kind: (special(name, create), "not a regular file") for kind, create in creators.items()}


def named(name: str, prepare: Callable[[Path], object] = lambda folder: None) -> Builder:
    """A builder of a folder of the host, with a name in it. `prepare(folder)` puts something there before."""

    def build(folder: Path) -> tuple[Path, str]:
        (folder / "host").mkdir()
        (folder / "secret.json").write_text("{}")
        prepare(folder / "host")
        return folder / "host", name

    return build


def nested(depth: int = DEPTH) -> str:
    """JSON of objects that are nested as deep as that."""
    return '{"x":' * depth + "1" + "}" * depth


def pack(header: dict | str | bytes, data: bytes = b"") -> bytes:
    """A safetensors file with this header, which may be anything."""
    text = json.dumps(header) if isinstance(header, dict) else header
    text = text.encode() if isinstance(text, str) else text
    return len(text).to_bytes(8, "little") + text + data


def unpack(content: bytes) -> tuple[dict, bytes]:
    """A safetensors file's header and data."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]
