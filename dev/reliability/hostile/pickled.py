"""Files of torch.save and other pickles: code, and bombs."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from dev.reliability.hostile.making import Make, Table, special, written
from dev.reliability.hostile.weights import weights
from dev.reliability.seeds import INPUTS, pth

REFUSED = "no file of plain tensors: .*never executed"
HUGE = 10**11


class Payload:
    """A pickle that calls something."""

    def __init__(self, called: Callable, *arguments):
        self.called, self.arguments = called, arguments

    def __reduce__(self):
        """As pickle asks."""
        return self.called, self.arguments


def archive(steps: bytes, compression: int = zipfile.ZIP_STORED, **others: bytes) -> bytes:
    """A zip as torch.save's, with these steps as its pickle; `__` in the others' names is a dot."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as it:
        it.writestr("lora/data.pkl", steps)
        for name, content in ({"version": b"3\n", "byteorder": b"little"} | others).items():
            it.writestr(f"lora/{name.replace('__', '.')}", content)
    return file.getvalue()


def tensor(numbers: int, size: tuple[int, ...] = (1,), stride: tuple[int, ...] = (1,), more: bytes = b"") -> bytes:
    """A pickle of one tensor that claims a storage of so many numbers, of which there is one."""

    def put(value) -> bytes:
        if isinstance(value, tuple):
            return b"(" + b"".join(map(put, value)) + b"t"
        if isinstance(value, str):
            return b"X" + struct.pack("<I", len(value)) + value.encode()
        length = (value.bit_length() + 8) // 8
        return b"\x8a" + bytes([length]) + value.to_bytes(length, "little", signed=True)

    storage = b"(" + put("storage") + b"ctorch\nFloatStorage\n" + put("0") + put("cpu") + put(numbers) + b"tQ"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + put(0) + put(size) + put(stride)
    return b"\x80\x02}" + put("a.lora.A") + rebuilt + b"\x89ccollections\nOrderedDict\n)Rt" + b"R" + more + b"s."


def claimed(*claim: bytes) -> bytes:
    """A zip whose pickle has one tensor, of a storage that is named by these steps."""
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + b"".join(claim) + b"K\0K\1\x85K\1\x85\x89)tR"
    return archive(b"\x80\x02}X\1\0\0\0a" + rebuilt + b"s.", **{"data/0": bytes(4)})


def two_directories(harmless: bytes, other: bytes) -> bytes:
    """One zip of two, short ones of as many files under the same names: with the directory before its end the one, with
    the directory that the end names the other.
    """
    at, start, length = {}, {}, {}
    for name, content in (("harmless", harmless), ("other", other)):
        at[name], (length[name], start[name]) = content.rindex(b"PK\5\6"), struct.unpack("<LL", content[-10:-2])
    assert length["harmless"] == length["other"]
    directory = moved(harmless[start["harmless"] : at["harmless"]], start["other"] - length["other"])
    bodies = other[: start["other"]] + harmless[: start["harmless"]]
    end = harmless[at["harmless"] : -6] + struct.pack("<L", len(bodies)) + b"\0\0"
    return bodies + other[start["other"] : at["other"]] + directory + end


def moved(directory: bytes, by: int) -> bytes:
    """A zip's directory with the places of its files so many bytes later."""
    parts, at = [], 0
    while at < len(directory):
        size = 46 + sum(struct.unpack("<HHH", directory[at + 28 : at + 34]))
        (place,) = struct.unpack("<L", directory[at + 42 : at + 46])
        parts.append(directory[at : at + 42] + struct.pack("<L", place + by) + directory[at + 46 : at + size])
        at += size
    return b"".join(parts)


def elsewhere(content: bytes, back: int, by: int) -> bytes:
    """A file with the long number that stands so far before its end changed."""
    at = len(content) - back
    (number,) = struct.unpack("<Q", content[at : at + 8])
    return content[:at] + struct.pack("<Q", number + by) + content[at + 8 :]


def old_tar() -> bytes:
    """A tensor in torch's oldest format, without any code."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as it:
        for name, steps in (("storages", b"\x80\x02K\0."), ("tensors", b"\x80\x02K\0."), ("pickle", b"\x80\x02}.")):
            entry = tarfile.TarInfo(name)
            entry.size = len(steps)
            it.addfile(entry, io.BytesIO(steps))
    return file.getvalue()


def doubled(kind: bytes, times: int = 60) -> bytes:
    """A tuple or list that holds another twice, that holds another twice ...: it has 2**times leaves."""
    steps = b")q\0"
    for number in range(times):
        get, put = b"h" + bytes([number]), b"q" + bytes([number + 1])
        steps += (get + get + b"\x86" if kind == b"tuple" else b"](" + get + get + b"e") + put
    return steps


def overlapping(copies: int = 4000, size: int = 1_000_000) -> bytes:
    """A zip of so many files that are all the same bytes."""
    content = archive(b"}.", data=bytes(size))
    at, (total, length, start) = content.rindex(b"PK\5\6"), struct.unpack("<HLL", content[-12:-2])
    last = content.rindex(b"PK\1\2", 0, at)
    return content[:at] + content[last:at] * copies + content[at:-12] + struct.pack(
        "<HLL", total + copies, length + (at - last) * copies, start) + b"\0\0"  # fmt: skip


def tar() -> bytes:
    """Torch's oldest format."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as it:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(Payload(os.system, "touch executed"), 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            it.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def table() -> Table:
    """All of them."""

    def file(content) -> Make:
        return written("lora.pth", content)

    def code(called: Callable, *arguments) -> Make:
        return file(lambda: pth({"a.lora.A": Payload(called, *arguments)}))

    def inside() -> dict:
        import torch

        return {"a.lora.A": torch.ones(INPUTS, 1), "inner": {"deeper": Payload(os.system, "touch executed")}}

    its = {
        "os.system": code(os.system, "touch executed"),
        "exec": code(exec, "open('executed', 'w')"),
        "eval": code(eval, "__import__('os').mkdir('executed')"),
        "code inside a state dict": file(lambda: pth(inside())),
        "a pickle without torch": file(lambda: pickle.dumps(Payload(os.system, "touch executed"))),
        "a pickle of torch before 1.6": file(lambda: pth(inside(), _use_new_zipfile_serialization=False)),
        "a tar of torch before 0.2": file(tar),
        "a harmless tar of torch before 0.2": file(old_tar),
        "a harmless pickle of torch before 1.6": file(lambda: pth(_use_new_zipfile_serialization=False)),
        "two directories": file(lambda: two_directories(archive(tensor(1), **{"data/0": bytes(4)}),
                                                        archive(tensor(2, (2,)), **{"data/0": bytes(4)}))),
        "two directories, in a long zip": file(lambda: elsewhere(pth(), 98 - 48, -8)),
        "a long zip's other end": file(lambda: elsewhere(pth(), 98 - 64, -8)),
        "a short directory's other place": file(lambda: pth()[:-6] + bytes(6)),
        "a persistent id in a text": file(lambda: archive(b"\x80\x02}X\1\0\0\0aPstorage\ns.")),
        "a persistent id that is a number": file(lambda: claimed(b"K\0Q")),
        "a persistent id with a view": file(lambda: claimed(
            b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0X\3\0\0\0cpuK\1NtQ")),
        "a storage in another file of the zip": file(lambda: claimed(
            b"(X\7\0\0\0storagectorch\nByteStorage\nX\x0a\0\0\0../versionX\3\0\0\0cpuK\2tQ")),
        "a storage of no kind of numbers": file(lambda: claimed(
            b"(X\7\0\0\0storageccollections\nOrderedDict\nX\1\0\0\0" + b"0X\3\0\0\0cpuK\1tQ")),
        "a storage under a number": file(lambda: claimed(
            b"(X\7\0\0\0storagectorch\nFloatStorage\nK\0X\3\0\0\0cpuK\1tQ")),
        "a storage whose bits have changed": file(lambda: archive(
            tensor(1), **{"data/0": b"abcd"}).replace(b"abcd", b"abce", 1)),
        "a tensor of 1,000 dimensions": file(lambda: archive(tensor(1, (1,) * 1000, (1,) * 1000),
                                                             **{"data/0": bytes(4)})),
        "a tensor that goes backwards": file(lambda: archive(tensor(1, (1,), (-1,)), **{"data/0": bytes(4)})),
        "a tensor of as many strides as it likes": file(lambda: archive(tensor(1, (1,), (1, 1)),
                                                                        **{"data/0": bytes(4)})),
        "5,000 tensors that are the same 4 MB": file(lambda: archive(
            b"\x80\x02}(" + b"".join(b"X\4\0\0\0%04d" % it + tensor(10**6, (10**6,))[16:-2] for it in range(5000))
            + b"u.", **{"data/0": bytes(4 * 10**6)})),
        "a text of 50 MB": file(lambda: archive(b"\x80\x02X" + struct.pack("<I", 5 * 10**7) + bytes(5 * 10**7) + b".")),
        "a number of 50 MB": file(lambda: archive(b"\x80\x02\x8b" + struct.pack("<I", 5 * 10**7) + bytes(5 * 10**7)
                                                  + b".")),
        "a scripted model": file(lambda: archive(b"}.", constants__pkl=b")." , **{"code/it.py": b"import os"})),
        "a package": file(lambda: archive(b"}.", **{"it/it.pkl": b"}.", ".data/extern_modules": b"os"})),
        "a pickle beside a zip": file(lambda: pickle.dumps(Payload(os.system, "touch executed")) + archive(b"}.")),
        "two pickles of one name": file(lambda: archive(b"}.", **{"DATA.PKL": b"}."})),
        "a zip bomb": file(lambda: archive(b"}." + bytes(100 << 20), zipfile.ZIP_DEFLATED)),
        "a zip of overlapping files": file(overlapping),
        "a zip of 20,000 files": file(lambda: archive(b"}.", **{f"data/{it}": b"" for it in range(20_000)})),
        "a list of 2**60": file(lambda: archive(b"\x80\x02}X\1\0\0\0a" + doubled(b"list") + b"s.")),
        "a list of 2**60 that is called": file(lambda: archive(b"\x80\x02" + doubled(b"list") + b")R.")),
        "a key whose hash never ends": file(lambda: archive(b"\x80\x02}" + doubled(b"tuple") + b"Ns.")),
        "a key that is too deep to be hashed": file(lambda: archive(b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"Ns.")),
        "lists 100,000 deep": file(lambda: archive(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")),
        "a million steps": file(lambda: archive(b"\x80\x02" + b"]" * 1_000_000 + b".")),
        "a memo of 4 billion": file(lambda: archive(b"\x80\x02}r\xff\xff\xff\xff.")),
        "100 GB of bytes": file(lambda: archive(b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + HUGE.to_bytes(6, "little")
                                                + b"\x85R.")),
        "a storage that claims 400 GB": file(lambda: archive(tensor(HUGE), **{"data/0": bytes(4)})),
        "a storage that claims what lies beside it": file(lambda: archive(tensor(2, (2,)), **{"data/0": bytes(4),
                                                                                              "data/1": bytes(8)})),
        "a storage of two sizes": file(lambda: archive(tensor(2, (2,)), **{"DATA/0": bytes(4), "data/0": bytes(8)})),
        "a storage that is none": file(lambda: archive(b"\x80\x02)Q.")),
        "a tensor of 400 GB in four bytes": file(lambda: archive(tensor(1, (HUGE,), (0,)), **{"data/0": bytes(4)})),
        "a tensor beyond its storage": file(lambda: archive(tensor(1, (10**6,)), **{"data/0": bytes(4)})),
        "a tensor that is set anew": file(lambda: archive(tensor(1, more=b")b"), **{"data/0": bytes(4)})),
        "a byte order of 5,000 characters": file(lambda: archive(tensor(1), byteorder=b"s" * 5000,
                                                                 **{"data/0": bytes(4)})),
        "an empty stack": file(lambda: archive(b"\x80\x02ss.")),
        "no end": file(lambda: archive(b"\x80\x02}")),
        "numbers that are no tensors": file(lambda: pth({"step": 3})),
        "truncated": file(lambda: pth()[:-300]),
        "nothing": file(b""),
        "text": file(b"no zip, no pickle"),
    }  # fmt: skip
    more = {
        "weights that are no numbers": (file(lambda: pth({"a.lora.A": weights(float("nan"))})), "are no numbers"),
        "a folder": (special("lora.pth", Path.mkdir), "no regular file"),
        "a pipe": (special("lora.pth", os.mkfifo), "no regular file"),
        "a LoRA of torch.save": (file(pth), ""),
    }
    every = {name: (make, REFUSED) for name, make in its.items()} | more
    return {name: ("imported", make, expected) for name, (make, expected) in every.items()}
