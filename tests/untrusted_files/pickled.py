"""Files of torch.save and other pickles: code, and bombs."""

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable

import torch
from untrusted_files.builders import Builder, Table, not_regular
from untrusted_files.builders import pth_file as file
from untrusted_files.corpus import INPUTS, lower_half, pth

HUGE = 10**11


class Payload:
    """A pickle that calls something."""

    def __init__(self, function: Callable, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def archive(pickled: bytes, compression: int = zipfile.ZIP_STORED, **files: bytes) -> bytes:
    """A zip as torch.save writes it with this pickle, and further files; `__` in their names is a dot."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", compression) as zip_file:
        zip_file.writestr("lora/data.pkl", pickled)
        for name, content in ({"version": b"3\n", "byteorder": b"little"} | files).items():
            zip_file.writestr(f"lora/{name.replace('__', '.')}", content)
    return output.getvalue()


def tensor(numbers: int, size: tuple[int, ...] = (1,), stride: tuple[int, ...] = (1,), opcodes: bytes = b"") -> bytes:
    """A pickle of one tensor that claims a storage of so many numbers; `opcodes` come behind it."""

    def push(value) -> bytes:
        if isinstance(value, tuple):
            return b"(" + b"".join(map(push, value)) + b"t"
        if isinstance(value, str):
            return b"X" + struct.pack("<I", len(value)) + value.encode()
        length = (value.bit_length() + 8) // 8
        return b"\x8a" + bytes([length]) + value.to_bytes(length, "little", signed=True)

    storage = b"(" + push("storage") + b"ctorch\nFloatStorage\n" + push("0") + push("cpu") + push(numbers) + b"tQ"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + push(0) + push(size) + push(stride)
    return b"\x80\x02}" + push("a.lora.A") + rebuilt + b"\x89ccollections\nOrderedDict\n)Rt" + b"R" + opcodes + b"s."


def zipped(pickled: bytes) -> Builder:
    """A zip of this pickle alone."""
    return file(lambda: archive(pickled))


def one_number(pickled: bytes) -> Builder:
    """A zip of this pickle, and a storage of one number."""
    return file(lambda: archive(pickled, **{"data/0": bytes(4)}))


def persistent(identifier: bytes) -> Builder:
    """A zip whose pickle has one tensor, of a storage that is named by these opcodes."""
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + identifier + b"K\0K\1\x85K\1\x85\x89)tR"
    return one_number(b"\x80\x02}X\1\0\0\0a" + rebuilt + b"s.")


def two_directories(first: bytes, second: bytes) -> bytes:
    """A zip of two short ones, with as many files under the same names.

    The directory before its end is the first's, the directory to which the end points is the second's.
    """
    end, start, length = {}, {}, {}
    for content in (first, second):
        end[content] = content.rindex(b"PK\5\6")
        length[content], start[content] = struct.unpack("<LL", content[-10:-2])
    assert length[first] == length[second]
    directory = moved(first[start[first] : end[first]], start[second] - length[second])
    bodies = second[: start[second]] + first[: start[first]]
    pointer = first[end[first] : -6] + struct.pack("<L", len(bodies)) + b"\0\0"
    return bodies + second[start[second] : end[second]] + directory + pointer


def moved(directory: bytes, by: int) -> bytes:
    """A zip's directory with all places of files so many bytes later."""
    parts, start = [], 0
    while start < len(directory):
        size = 46 + sum(struct.unpack("<HHH", directory[start + 28 : start + 34]))
        (place,) = struct.unpack("<L", directory[start + 42 : start + 46])
        parts += [directory[start : start + 42], struct.pack("<L", place + by), directory[start + 46 : start + size]]
        start += size
    return b"".join(parts)


def add_to_number(content: bytes, back: int, value: int) -> bytes:
    """A file with a value added to the long number that begins so many bytes before its end."""
    start = len(content) - back
    (number,) = struct.unpack("<Q", content[start : start + 8])
    return content[:start] + struct.pack("<Q", number + value) + content[start + 8 :]


def tar(storages: bytes, tensors: bytes, pickled: bytes) -> bytes:
    """A file in torch's oldest format, of three pickles."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar_file:
        for name, content in (("storages", storages), ("tensors", tensors), ("pickle", pickled)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar_file.addfile(entry, io.BytesIO(content))
    return output.getvalue()


def doubled(kind: type, times: int = 60) -> bytes:
    """Opcodes of a tuple or list that holds another twice, which holds another twice ...: it has 2**times leaves."""
    opcodes = b")q\0"
    for number in range(times):
        get, put = b"h" + bytes([number]), b"q" + bytes([number + 1])
        opcodes += (get + get + b"\x86" if kind is tuple else b"](" + get + get + b"e") + put
    return opcodes


def overlapping(copies: int = 4000, size: int = 1_000_000) -> bytes:
    """A zip of so many files that are all the same bytes."""
    content = archive(b"}.", data=bytes(size))
    end, (total, length, start) = content.rindex(b"PK\5\6"), struct.unpack("<HLL", content[-12:-2])
    last = content.rindex(b"PK\1\2", 0, end)
    return content[:end] + content[last:end] * copies + content[end:-12] + struct.pack(
        "<HLL", total + copies, length + (end - last) * copies, start) + b"\0\0"  # fmt: skip


def code(function: Callable, *arguments) -> Builder:
    """A LoRA that calls a function."""
    return file(lambda: pth({"a.lora.A": Payload(function, *arguments)}))


touch = Payload(os.system, "touch executed")
inner = {"a.lora.A": torch.ones(INPUTS, 1), "inner": {"deeper": touch}}
REFUSED = {
    "os.system": code(os.system, "touch executed"),
    "exec": code(exec, "open('executed', 'w')"),
    "eval": code(eval, "__import__('os').mkdir('executed')"),
    "code inside a state dict": file(lambda: pth(inner)),
    "a pickle without torch": file(lambda: pickle.dumps(touch)),
    "a pickle of torch before 1.6": file(lambda: pth(inner, _use_new_zipfile_serialization=False)),
    "a tar of torch before 0.2": file(lambda: tar(*[pickle.dumps(touch, 2)] * 3)),
    "a harmless tar of torch before 0.2": file(tar(b"\x80\x02K\0.", b"\x80\x02K\0.", b"\x80\x02}.")),
    "a harmless pickle of torch before 1.6": file(lambda: pth(_use_new_zipfile_serialization=False)),
    "two directories": file(lambda: two_directories(archive(tensor(1), **{"data/0": bytes(4)}),
                                                    archive(tensor(2, (2,)), **{"data/0": bytes(4)}))),
    "two directories, in a long zip": file(lambda: add_to_number(pth(), 98 - 48, -8)),
    "a long zip's other end": file(lambda: add_to_number(pth(), 98 - 64, -8)),
    "a short directory's other place": file(lambda: pth()[:-6] + bytes(6)),
    "a persistent id in a text": zipped(b"\x80\x02}X\1\0\0\0aPstorage\ns."),
    "a persistent id that is a number": persistent(b"K\0Q"),
    "a persistent id with a view": persistent(
        b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0X\3\0\0\0cpuK\1NtQ"),
    "a storage in another file of the zip": persistent(
        b"(X\7\0\0\0storagectorch\nByteStorage\nX\x0a\0\0\0../versionX\3\0\0\0cpuK\2tQ"),
    "a storage of no kind of numbers": persistent(
        b"(X\7\0\0\0storageccollections\nOrderedDict\nX\1\0\0\0" + b"0X\3\0\0\0cpuK\1tQ"),
    "a storage under a number": persistent(b"(X\7\0\0\0storagectorch\nFloatStorage\nK\0X\3\0\0\0cpuK\1tQ"),
    "a storage whose bits have changed": file(lambda: archive(
        tensor(1), **{"data/0": b"abcd"}).replace(b"abcd", b"abce", 1)),
    "a tensor of 1,000 dimensions": one_number(tensor(1, (1,) * 1000, (1,) * 1000)),
    "a tensor that goes backwards": one_number(tensor(1, (1,), (-1,))),
    "a tensor of as many strides as it likes": one_number(tensor(1, (1,), (1, 1))),
    "5,000 tensors that are the same 4 MB": file(lambda: archive(
        b"\x80\x02}(" + b"".join(b"X\4\0\0\0%04d" % i + tensor(10**6, (10**6,))[16:-2] for i in range(5000))
        + b"u.", **{"data/0": bytes(4 * 10**6)})),
    "a text of 50 MB": file(lambda: archive(b"\x80\x02X" + struct.pack("<I", 5 * 10**7) + bytes(5 * 10**7) + b".")),
    "a number of 50 MB": file(lambda: archive(b"\x80\x02\x8b" + struct.pack("<I", 5 * 10**7) + bytes(5 * 10**7)
                                              + b".")),
    "a scripted model": file(lambda: archive(b"}.", constants__pkl=b")." , **{"code/it.py": b"import os"})),
    "a package": file(lambda: archive(b"}.", **{"it/it.pkl": b"}.", ".data/extern_modules": b"os"})),
    "a pickle beside a zip": file(lambda: pickle.dumps(touch) + archive(b"}.")),
    "two pickles of one name": file(lambda: archive(b"}.", **{"DATA.PKL": b"}."})),
    "a zip bomb": file(lambda: archive(b"}." + bytes(100 << 20), zipfile.ZIP_DEFLATED)),
    "a zip of overlapping files": file(overlapping),
    "a zip of 20,000 files": file(lambda: archive(b"}.", **{f"data/{it}": b"" for it in range(20_000)})),
    "a list of 2**60": zipped(b"\x80\x02}X\1\0\0\0a" + doubled(list) + b"s."),
    "a list of 2**60 that is called": zipped(b"\x80\x02" + doubled(list) + b")R."),
    "a key whose hash never ends": zipped(b"\x80\x02}" + doubled(tuple) + b"Ns."),
    "a key that is too deep to be hashed": zipped(b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"Ns."),
    "lists 100,000 deep": zipped(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "a million steps": zipped(b"\x80\x02" + b"]" * 1_000_000 + b"."),
    "a memo of 4 billion": zipped(b"\x80\x02}r\xff\xff\xff\xff."),
    "100 GB of bytes": zipped(b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + HUGE.to_bytes(6, "little") + b"\x85R."),
    "a storage that claims 400 GB": one_number(tensor(HUGE)),
    "a storage that claims what lies beside it": file(lambda: archive(tensor(2, (2,)), **{"data/0": bytes(4),
                                                                                          "data/1": bytes(8)})),
    "a storage of two sizes": file(lambda: archive(tensor(2, (2,)), **{"DATA/0": bytes(4), "data/0": bytes(8)})),
    "a storage that is none": zipped(b"\x80\x02)Q."),
    "a tensor of 400 GB in four bytes": one_number(tensor(1, (HUGE,), (0,))),
    "a tensor beyond its storage": one_number(tensor(1, (10**6,))),
    "a tensor that is set anew": one_number(tensor(1, opcodes=b")b")),
    "a byte order of 5,000 characters": file(lambda: archive(tensor(1), byteorder=b"s" * 5000,
                                                             **{"data/0": bytes(4)})),
    "an empty stack": zipped(b"\x80\x02ss."),
    "no end": zipped(b"\x80\x02}"),
    "numbers that are no tensors": file(lambda: pth({"step": 3})),
    "truncated": file(lambda: pth()[:-300]),
    "nothing": file(b""),
    "text": file(b"no zip, no pickle"),
}  # fmt: skip
OTHERS = {
    "weights that are NaN": (file(lambda: pth({"a.lora.A": lower_half(float("nan"))})), "are NaN, infinite"),
    "a LoRA of torch.save": (file(pth), ""),
    **not_regular("lora.pth"),
}
refusal = "not a file of plain tensors: .*never executed"
CASES: Table = {name: ("imported", build, refusal) for name, build in REFUSED.items()}
CASES |= {name: ("imported", *case) for name, case in OTHERS.items()}
