"""Safetensors files whose headers lie."""

import os
from pathlib import Path

from safetensors.torch import save
from untrusted_files.builders import Builder, Table, nested, not_regular, pack, special
from untrusted_files.builders import lora_file as file
from untrusted_files.corpus import lower_half, unguide_lora


def header(**entries) -> dict:
    """A header of entries (dtype, shape, offsets), by the part `down` or `up` of a layer."""
    return {f"a.lora_{part}.weight": dict(zip(("dtype", "shape", "data_offsets"), entry, strict=True))
            for part, entry in entries.items()}  # fmt: skip


def many(number: int, suffix: str = ".diff") -> Builder:
    """A file of so many tensors of one number each."""
    entry = '"{}{}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}'
    return file(lambda: pack("{" + ",".join(entry.format(i, suffix, 4 * i, 4 * i + 4) for i in range(number)) + "}",
                             bytes(4 * number)))  # fmt: skip


def sparse(dtype: str, number: int, bytes_each: int) -> Builder:
    """A file of two halves of a layer with so many numbers, which takes no room on the disk."""

    def create(path: Path) -> None:
        rows, size = number // 2000, number // 2 * bytes_each
        down, up = (dtype, [rows, 1000], [0, size]), (dtype, [1000, rows], [size, 2 * size])
        path.write_bytes(pack(header(down=down, up=up)))
        os.truncate(path, path.stat().st_size + 2 * size)

    return special("lora.safetensors", create)


def metadata_keys(number: int) -> Builder:
    return file(lambda: pack('{"__metadata__":{' + ",".join(f'"{i:x}":""' for i in range(number)) + "}}"))


def create_hollow(path: Path) -> None:
    path.touch()
    os.truncate(path, 5 * 10**9)


data = bytes(64)
REFUSED = {
    "truncated": file(lambda: unguide_lora()[:-100]),
    "a bit of the header flipped": file(lambda: bytes([*unguide_lora()[:9], unguide_lora()[9] ^ 1,
                                                       *unguide_lora()[10:]])),
    "nothing": file(b""),
    "eight bytes": file(bytes(8)),
    "a header that claims gigabytes": file((10**10).to_bytes(8, "little") + b"{}"),
    "a header that claims all there is": file(b"\xff" * 8 + b"{}"),
    "a header of 70 MB": file(lambda: pack(b"{}" + b" " * 70_000_000)),
    "a header that is nested": file(lambda: pack(nested())),
    "a header that is a list": file(pack("[1, 2]")),
    "a header that is not UTF-8": file(pack(b'{"\xff": 1}')),
    "overlapping tensors": file(pack(header(down=("F32", [2, 2], [0, 16]), up=("F32", [2, 2], [8, 24])), data)),
    "a hole": file(pack(header(down=("F32", [2, 2], [0, 16]), up=("F32", [2, 2], [32, 48])), data)),
    "negative offsets": file(pack(header(down=("F32", [2, 2], [-16, 0])), data)),
    "offsets the wrong way": file(pack(header(down=("F32", [2, 2], [16, 0])), data)),
    "offsets beyond all": file(pack(header(down=("F32", [2, 2], [0, 2**63])), data)),
    "a shape beyond all": file(pack(header(down=("F32", [2**40, 2**40], [0, 64])), data)),
    "an unknown type": file(pack(header(down=("F1", [2, 2], [0, 16])), data)),
    "50,000 tensors": many(50_000),
    "300,000 tensors": many(300_000),
    "a name twice": file(pack('{"a.diff":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                              '"a.diff":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8))),
    "5 million keys of metadata": metadata_keys(5_000_000),
    "400,000 keys of metadata": metadata_keys(400_000),
    "10 million dimensions": file(lambda: pack(header(down=("F32", [1] * 10**7, [0, 4])), bytes(4))),
    "100,000 dimensions": file(lambda: pack(header(down=("F32", [1] * 10**5, [0, 4]), up=("F32", [1] * 10**5, [4, 8])),
                                            bytes(8))),
    "5 million quotes": file(lambda: pack(b'{"a":' + b'""' * 2_500_000 + b"}")),
    "30 million backslashes": file(lambda: pack(b'{"a":"' + b"\\" * 30_000_000 + b'"}')),
    "1 GB of 8-bit floats in holes": sparse("F8_E4M3", 10**9, 1),
    "3.9 GB of 32-bit floats in holes": sparse("F32", 975 * 10**6, 4),
    "bytes behind the last tensor": file(lambda: unguide_lora() + bytes(8)),
    "a number below nothing": file(pack(header(down=("F32", [-2, -2], [0, 16])), bytes(16))),
    "metadata that is not text": file(pack('{"__metadata__":{"unguide":{"version":1}}}')),
}  # fmt: skip
OTHERS = {
    "20,000 tensors": (many(20_000), ""),
    "a tensor of 10**18 in nothing": (file(pack(header(down=("F32", [10**18, 0], [0, 0])))), "has 0 numbers"),
    "20,000 tensors with 250 dots in each name": (many(20_000, ".a" * 240 + ".diff"), ""),
    "200 MB of 8-bit floats in holes": (sparse("F8_E5M2", 2 * 10**8, 1), "has rank 100000"),
    "no tensors": (file(pack("{}")), "nothing for the diffusion model"),
    "a name of 10 MB": (file(lambda: pack({"a" * 10_000_000: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
                                          bytes(4))), "no kind of"),
    "a name with control characters": (file(lambda: save({"a\x1b[2J\n\0": lower_half(1.0)})), "no kind of LoRA"),
    "a link to nowhere": (special("lora.safetensors", lambda path: path.symlink_to("/nowhere")), "cannot be opened"),
    "5 GB of holes": (special("lora.safetensors", create_hollow), "larger than"),
    "our own": (file(unguide_lora), ""),
    **not_regular("lora.safetensors"),
}  # fmt: skip
refusal = "is not a safetensors file of a LoRA, or damaged: "
CASES: Table = {name: ("lora", build, refusal) for name, build in REFUSED.items()}
CASES |= {name: ("lora", *case) for name, case in OTHERS.items()}
