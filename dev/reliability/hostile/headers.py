"""Safetensors files whose headers lie."""

from __future__ import annotations

import json
import os
from pathlib import Path

from dev.reliability.hostile.making import Make, Table, hollow, nested, special, written
from dev.reliability.hostile.weights import weights
from dev.reliability.seeds import ours, packed, safetensors


def header(**entries) -> dict:
    """Of a safetensors file: dtype, shape and offsets by name, `_` for a dot."""
    return {f"a.lora_{name}.weight": dict(zip(("dtype", "shape", "data_offsets"), it, strict=True))
            for name, it in entries.items()}  # fmt: skip


def many(number: int) -> bytes:
    """A header of so many tensors."""
    entry = '"{}.diff":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}'
    return ("{" + ",".join(entry.format(it, 4 * it, 4 * it + 4) for it in range(number)) + "}").encode()


def table() -> Table:
    """All of them."""

    def file(content) -> Make:
        return written("lora.safetensors", content)

    def sparse(dtype: str, number: int, bytes_each: int) -> Make:
        def place(path: Path) -> None:
            half = number // 2
            entries = header(down=(dtype, [half // 1000, 1000], [0, half * bytes_each]),
                             up=(dtype, [1000, half // 1000], [half * bytes_each, 2 * half * bytes_each]))  # fmt: skip
            path.write_bytes(packed(entries))
            os.truncate(path, path.stat().st_size + 2 * half * bytes_each)

        return special("lora.safetensors", place)

    def said(number: int) -> Make:
        def made() -> bytes:
            keys = ",".join(f'"{it:x}":""' for it in range(number))
            return packed(json.dumps(header())[:-1] + f'"__metadata__":{{{keys}}}}}')

        return file(made)

    data = bytes(64)
    refused = "is no safetensors file of a LoRA, or damaged: "
    its = {
        "truncated": file(lambda: ours()[:-100]),
        "a bit of the header flipped": file(lambda: bytes([*ours()[:9], ours()[9] ^ 1, *ours()[10:]])),
        "nothing": file(b""),
        "eight bytes": file(bytes(8)),
        "a header that claims gigabytes": file((10**10).to_bytes(8, "little") + b"{}"),
        "a header that claims all there is": file(b"\xff" * 8 + b"{}"),
        "a header of 70 MB": file(lambda: packed(b"{}" + b" " * 70_000_000)),
        "a header that is nested": file(lambda: packed(nested())),
        "a header that is a list": file(packed("[1, 2]")),
        "a header that is not UTF-8": file(packed(b'{"\xff": 1}')),
        "overlapping tensors": file(packed(header(down=("F32", [2, 2], [0, 16]), up=("F32", [2, 2], [8, 24])), data)),
        "a hole": file(packed(header(down=("F32", [2, 2], [0, 16]), up=("F32", [2, 2], [32, 48])), data)),
        "negative offsets": file(packed(header(down=("F32", [2, 2], [-16, 0])), data)),
        "offsets the wrong way": file(packed(header(down=("F32", [2, 2], [16, 0])), data)),
        "offsets beyond all": file(packed(header(down=("F32", [2, 2], [0, 2**63])), data)),
        "a shape beyond all": file(packed(header(down=("F32", [2**40, 2**40], [0, 64])), data)),
        "an unknown type": file(packed(header(down=("F1", [2, 2], [0, 16])), data)),
        "50,000 tensors": file(lambda: packed(many(50_000), bytes(200_000))),
        "300,000 tensors": file(lambda: packed(many(300_000), bytes(1_200_000))),
        "a name twice": file(packed('{"a.diff":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                                    '"a.diff":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8))),
        "5 million keys of metadata": said(5_000_000),
        "400,000 keys of metadata": said(400_000),
        "10 million dimensions": file(lambda: packed(header(down=("F32", [1] * 10**7, [0, 4])), bytes(4))),
        "100,000 dimensions": file(lambda: packed(header(down=("F32", [1] * 10**5, [0, 4]),
                                                         up=("F32", [1] * 10**5, [4, 8])), bytes(8))),
        "5 million quotes": file(lambda: packed(b'{"a":' + b'""' * 2_500_000 + b"}")),
        "30 million backslashes": file(lambda: packed(b'{"a":"' + b"\\" * 30_000_000 + b'"}')),
        "1 GB of 8-bit floats in holes": sparse("F8_E4M3", 10**9, 1),
        "3.9 GB of 32-bit floats in holes": sparse("F32", 975 * 10**6, 4),
        "bytes behind the last tensor": file(lambda: ours() + bytes(8)),
        "a number below nothing": file(packed(header(down=("F32", [-2, -2], [0, 16])), bytes(16))),
        "metadata that is no text": file(packed('{"__metadata__":{"unguide":{"version":1}}}')),
    }  # fmt: skip
    more = {
        "20,000 tensors": (file(lambda: packed(many(20_000), bytes(80_000))), ""),
        "a tensor of 10**18 in nothing": (file(packed(header(down=("F32", [10**18, 0], [0, 0])))), "has 0 numbers"),
        "20,000 tensors with 250 dots in each name": (file(lambda: packed(
            many(20_000).replace(b".diff", b".a" * 240 + b".diff"), bytes(80_000))), ""),
        "200 MB of 8-bit floats in holes": (sparse("F8_E5M2", 2 * 10**8, 1), "has rank 100000"),
        "no tensors": (file(packed("{}")), "nothing for the diffusion model"),
        "a name of 10 MB": (file(lambda: packed({"a" * 10_000_000: {"dtype": "F32", "shape": [1],
                                                                    "data_offsets": [0, 4]}}, bytes(4))), "no kind of"),
        "a name with control characters": (file(lambda: safetensors({"a\x1b[2J\n\0": weights(1)})), "no kind of LoRA"),
        "a folder": (special("lora.safetensors", Path.mkdir), "no regular file"),
        "a pipe": (special("lora.safetensors", os.mkfifo), "no regular file"),
        "a device": (special("lora.safetensors", lambda it: it.symlink_to("/dev/zero")), "no regular file"),
        "a link to nowhere": (special("lora.safetensors", lambda it: it.symlink_to("/nowhere")), "cannot be opened"),
        "5 GB of holes": (special("lora.safetensors", hollow), "larger than"),
        "our own": (file(ours), ""),
    }  # fmt: skip
    every = {name: (make, refused) for name, make in its.items()} | more
    return {name: ("lora", make, expected) for name, (make, expected) in every.items()}
