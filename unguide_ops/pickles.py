"""The files of torch.save, read here: tensors by name, and no more.

torch.load is not asked. It reads zips another way than Python does, so that it could load another pickle than the one
that was looked through; it runs code in its earlier versions, and takes the host's memory or its life in all of them.
Here a pickle's steps are followed, and make nothing but texts, numbers, containers, and tensors out of bytes that the
same reader has found in the file.
"""

from __future__ import annotations

import math
import os
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import torch

from .strangers import brief
from .tensor_file import MOST_DIMENSIONS, MOST_NUMBERS, MOST_TENSORS, check_number

LARGEST_DIRECTORY = 1_000_000  # bytes of the zip; a tensor takes some seventy
LARGEST_PICKLE = 10_000_000  # bytes; a tensor takes some three hundred
AT_ONCE = 1 << 20  # bytes
MOST_STEPS = 200_000  # of a pickle, read in about a second; a tensor takes some thirty
STORAGES = {
    "torch DoubleStorage": torch.float64, "torch FloatStorage": torch.float32, "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16, "torch LongStorage": torch.int64, "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16, "torch CharStorage": torch.int8, "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}  # fmt: skip
CALLED = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", *STORAGES}
"""What a pickle may name, as pickle writes it."""
VALUES = {"BINUNICODE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"}  # what the step itself holds
CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Called(NamedTuple):
    """One of CALLED."""

    name: str


class _Storage(NamedTuple):
    """Numbers in the file."""

    dtype: torch.dtype
    key: str
    numbers: int


class _View(NamedTuple):
    """A tensor: which of a storage's numbers."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numbers(self) -> int:
        return math.prod(self.size)


def read_plain(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name. Raises ValueError that says what is wrong with any other file."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            _check_end(file, size)
            with ZipFile(file) as archive:
                return _tensors(archive, _files_of(archive, size), size)
    except ValueError:
        raise
    except BadZipFile as error:
        raise ValueError(f"it is damaged, or older than torch 1.6 ({brief(error)})") from None
    except Exception as error:  # of a damaged zip or pickle, which may be any
        raise ValueError(f"it is damaged ({type(error).__name__})") from None


def _check_end(file: BinaryIO, size: int) -> None:
    """A zip's directory is read whole: not before it is known to be small, and to end where it is said to, so that no
    reader finds another one. The last bytes tell; in long zips, and torch's, twice.
    """
    if file.read(4) != b"PK\3\4":
        raise BadZipFile("it begins as no zip")
    file.seek(max(0, size - 98))
    end = file.read()
    if end[-22:-18] != b"PK\5\6" or any(end[-2:]):
        raise BadZipFile("it ends as no zip of torch does")
    is_long = end[:4] == b"PK\6\6"
    places = [(end[-10:-6], end[-6:-2])]  # length, start
    if is_long and b"\xff" * 4 in places[0]:
        places = []
    if is_long:
        places += [(end[40:48], end[48:56]), (b"", end[64:72])]  # and where the long record is
    for length, start in places:
        if int.from_bytes(length, "little") > LARGEST_DIRECTORY:
            raise ValueError("it holds more files than a LoRA has tensors")
        ends = int.from_bytes(length, "little") + int.from_bytes(start, "little")
        if ends != size - (98 if is_long else 22):
            raise ValueError("its directory does not end where it says, as if there were two: torch.save writes one")


def _files_of(archive: ZipFile, size: int) -> dict[str, ZipInfo]:
    """What it holds by lower-case name: some readers know no case, and none of what Python may take for a name."""
    files = archive.infolist()
    if any(it.compress_type != ZIP_STORED for it in files) or sum(it.file_size for it in files) > size:
        raise ValueError("it is compressed, which torch.save never does")
    by_name = {it.orig_filename.lower(): it for it in files if it.orig_filename.isascii()}
    if len(by_name) < len(files):
        raise ValueError("it holds two files of one name, or names that are not ASCII, which torch.save never writes")
    return by_name


def _tensors(archive: ZipFile, files: Mapping[str, ZipInfo], size: int) -> dict[str, torch.Tensor]:
    """Those that its pickle names, of `size` bytes at most together."""
    pickles = [name for name in files if name.endswith(".pkl")]
    if len(pickles) != 1 or not pickles[0].endswith("/data.pkl"):
        raise ValueError("it is a scripted model or a package, which hold code")
    folder = pickles[0].removesuffix("data.pkl")
    order = files.get(f"{folder}byteorder")
    if order and (order.file_size > len("little") or archive.read(order) != b"little"):
        raise ValueError("its numbers are written in another order of bytes")
    if files[pickles[0]].file_size > LARGEST_PICKLE:
        raise ValueError(f"its pickle has more than {LARGEST_PICKLE} bytes")
    storages = {name.removeprefix(f"{folder}data/"): it for name, it in files.items()
                if name.startswith(f"{folder}data/")}  # fmt: skip
    found = _followed(archive.read(files[pickles[0]]), storages)
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not found or not all(isinstance(it, _View) for it in found.values()):
        raise ValueError("it holds no LoRA, which is tensors by name")
    check_number("tensors", len(found), MOST_TENSORS)
    check_number("numbers", sum(it.numbers for it in found.values()), MOST_NUMBERS)
    if sum(it.numbers * it.storage.dtype.itemsize for it in found.values()) > size:
        raise ValueError("its tensors claim to be larger than the file")
    content = {key: _content(archive, storages[key]) for key in {it.storage.key for it in found.values()}}
    return {str(name): _tensor(it, content) for name, it in found.items()}


def _content(archive: ZipFile, entry: ZipInfo) -> bytearray:
    """Read to its end, where its check sum is looked at."""
    content = bytearray()
    with archive.open(entry) as file:
        while piece := file.read(AT_ONCE):
            content += piece
    return content


def _tensor(view: _View, content: Mapping[str, bytearray]) -> torch.Tensor:
    dtype, key, numbers = view.storage
    if not numbers or not view.numbers:
        return torch.empty(view.size, dtype=dtype)
    return torch.frombuffer(content[key], dtype=dtype).as_strided(view.size, view.stride, view.offset).contiguous()


def _followed(pickle: bytes, storages: Mapping[str, ZipInfo]) -> Any:
    """What a pickle's steps make. Raises ValueError for steps that torch.save has no need of for tensors by name."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    for number, (step, argument, _) in enumerate(pickletools.genops(pickle)):
        name = step.name
        if number == MOST_STEPS:
            raise ValueError(f"it has more than {MOST_STEPS} steps")
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name == "GLOBAL" and argument in CALLED:
            stack.append(_Called(argument))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in TUPLES or name == "TUPLE":
            stack.append(tuple(_taken(stack, len(stack) - TUPLES[name] if name in TUPLES else marks.pop())))
        elif name in ("APPEND", "APPENDS"):
            its = _taken(stack, marks.pop() if name == "APPENDS" else len(stack) - 1)
            _of(list, stack[-1]).extend(its)
        elif name in ("SETITEM", "SETITEMS"):
            its = _taken(stack, marks.pop() if name == "SETITEMS" else len(stack) - 2)
            into = _of(dict, stack[-1])
            for key, value in zip(its[::2], its[1::2], strict=False):
                into[_of(str | int, key)] = value
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop(), storages))
        elif name == "REDUCE":
            arguments = _of(tuple, stack.pop())
            stack.append(_made(_of(_Called, stack.pop()).name, arguments))
        elif name == "BUILD":  # of a state dict, what else it knows
            stack.pop()
            _of(dict, stack[-1])
        elif name != "STOP" and (name, argument) != ("PROTO", 2):
            raise ValueError(f"it holds more than tensors: {name} {brief(argument or '')}")
    if len(stack) != 1:
        raise ValueError("its pickle is damaged")
    return stack[0]


def _taken(stack: list, first: int) -> list:
    """What stands there and above, off the stack."""
    if not 0 <= first <= len(stack):
        raise ValueError("it takes more than there is")
    taken = stack[first:]
    del stack[first:]
    return taken


def _of(kind: Any, it: Any) -> Any:
    """It, if it is of this kind."""
    if not isinstance(it, kind):
        raise ValueError(f"it holds more than tensors: {type(it).__name__.strip('_')} where none belongs")
    return it


def _storage(claim: Any, storages: Mapping[str, ZipInfo]) -> _Storage:
    """What the pickle says of a storage: ("storage", type, key, device, numbers)."""
    if not isinstance(claim, tuple) or len(claim) != 5:
        raise ValueError("it holds more than tensors: BINPERSID")
    dtype = STORAGES.get(_of(_Called, claim[1]).name)
    key, numbers = _of(str, claim[2]), _of(int, claim[4])
    if dtype is None or key not in storages or storages[key].file_size != numbers * dtype.itemsize:
        raise ValueError(f"it has no storage {brief(key)!r} with {brief(numbers)} numbers")
    return _Storage(dtype, key, numbers)


def _made(called: str, arguments: tuple) -> Any:
    if called == "collections OrderedDict" and not arguments:
        return {}
    if called == "torch._utils _rebuild_parameter" and arguments:
        return _of(_View, arguments[0])
    if called == "torch._utils _rebuild_tensor_v2" and len(arguments) >= 4:
        storage, offset, size, stride = arguments[:4]
        view = _View(_of(_Storage, storage), _of(int, offset), _of(tuple, size), _of(tuple, stride))
        check_number("dimensions", len(size), MOST_DIMENSIONS)
        if len(size) != len(stride) or any(_of(int, it) < 0 for it in (offset, *size, *stride)):
            raise ValueError("it has a tensor of no shape")
        last = offset + sum((many - 1) * step for many, step in zip(size, stride, strict=True))
        if view.numbers and last >= view.storage.numbers:
            raise ValueError("it has a tensor beyond its storage")
        return view
    raise ValueError(f"it holds more than tensors: REDUCE {brief(called)}")
