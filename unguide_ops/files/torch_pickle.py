"""Read the tensors in files of torch.save without executing anything in them.

torch.load is not used. It reads zips differently than Python does, so that it could load another pickle than the one
that was checked; it runs code in its earlier versions, and all of them can use up the host's memory or end its process.
Here a pickle's steps are interpreted, and make only strings, numbers, containers, and tensors from bytes that the same
reader has found in the file.
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

from ..safe_text import printable
from .safetensors_reader import MOST_DIMENSIONS, MOST_NUMBERS, MOST_TENSORS, check_number

LARGEST_DIRECTORY = 1_000_000  # bytes of the zip's directory; a tensor takes some seventy
LARGEST_PICKLE = 10_000_000  # bytes; a tensor takes some three hundred
PIECE = 1 << 20  # bytes read at a time
MOST_STEPS = 200_000  # of a pickle, read in about a second; a tensor takes some thirty
STORAGES = {
    "torch DoubleStorage": torch.float64, "torch FloatStorage": torch.float32, "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16, "torch LongStorage": torch.int64, "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16, "torch CharStorage": torch.int8, "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}  # fmt: skip
ALLOWED_GLOBALS = {
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", *STORAGES,
}  # fmt: skip
"""The classes and functions that a pickle may name, as module and name."""
VALUE_STEPS = {"BINUNICODE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"}  # steps that push their argument
CONSTANT_STEPS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLE_STEPS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Global(NamedTuple):
    """A class or function named in a pickle, one of ALLOWED_GLOBALS. It is never imported."""

    name: str


class _Storage(NamedTuple):
    """A file in the zip that holds a tensor's numbers."""

    dtype: torch.dtype
    key: str
    length: int  # in numbers


class _TensorView(NamedTuple):
    """A tensor that is still to be read: some numbers of a storage."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.size)


def read_torch_pickle(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name. Raises ValueError that says what is wrong with any other file."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            _check_directory(file, size)
            with ZipFile(file) as archive:
                return _read_tensors(archive, _files_by_name(archive, size), size)
    except ValueError:
        raise
    except BadZipFile as error:
        raise ValueError(f"it is damaged, or older than torch 1.6 ({printable(error)})") from None
    except Exception as error:  # a damaged zip or pickle may raise any
        raise ValueError(f"it is damaged ({type(error).__name__})") from None


def _check_directory(file: BinaryIO, size: int) -> None:
    """Raises ValueError or BadZipFile unless a zip's directory is small and ends where its records say.

    Python reads the directory whole, so its length must be known before; and no reader may find a second directory.
    Both are recorded in the last bytes of a zip; in long zips, and those of torch, twice.
    """
    if file.read(4) != b"PK\3\4":
        raise BadZipFile("it does not begin like a zip file")
    file.seek(max(0, size - 98))
    end = file.read()
    if end[-22:-18] != b"PK\5\6" or any(end[-2:]):
        raise BadZipFile("it does not end like a zip file of torch")
    is_long = end[:4] == b"PK\6\6"
    records = [(end[-10:-6], end[-6:-2])]  # length and start of the directory
    if is_long and b"\xff" * 4 in records[0]:
        records = []
    if is_long:
        records += [(end[40:48], end[48:56]), (b"", end[64:72])]  # the second one: where the long record starts
    for length, start in records:
        if int.from_bytes(length, "little") > LARGEST_DIRECTORY:
            raise ValueError("it holds more files than a LoRA has tensors")
        directory_end = int.from_bytes(length, "little") + int.from_bytes(start, "little")
        if directory_end != size - (98 if is_long else 22):
            raise ValueError("its directory does not end where it says, as if there were two: torch.save writes one")


def _files_by_name(archive: ZipFile, size: int) -> dict[str, ZipInfo]:
    """A zip's files by lower-case name, since some readers ignore case. Raises ValueError for ambiguous names."""
    files = archive.infolist()
    if any(it.compress_type != ZIP_STORED for it in files) or sum(it.file_size for it in files) > size:
        raise ValueError("it is compressed, which torch.save never does")
    # the original name: Python's own `filename` may be another
    by_name = {it.orig_filename.lower(): it for it in files if it.orig_filename.isascii()}
    if len(by_name) < len(files):
        raise ValueError("it holds two files of one name, or names that are not ASCII, which torch.save never writes")
    return by_name


def _read_tensors(archive: ZipFile, files: Mapping[str, ZipInfo], size: int) -> dict[str, torch.Tensor]:
    """The tensors that the zip's pickle names; together they have at most `size` bytes, the size of the zip."""
    pickles = [name for name in files if name.endswith(".pkl")]
    if len(pickles) != 1 or not pickles[0].endswith("/data.pkl"):
        raise ValueError("it is a scripted model or a package, which hold code")
    folder = pickles[0].removesuffix("data.pkl")
    byte_order = files.get(f"{folder}byteorder")
    if byte_order and (byte_order.file_size > len("little") or archive.read(byte_order) != b"little"):
        raise ValueError("its numbers are in another byte order")
    if files[pickles[0]].file_size > LARGEST_PICKLE:
        raise ValueError(f"its pickle has more than {LARGEST_PICKLE} bytes")
    data = f"{folder}data/"
    storages = {name.removeprefix(data): file for name, file in files.items() if name.startswith(data)}
    views = _interpret(archive.read(files[pickles[0]]), storages)
    views = views.get("state_dict", views) if isinstance(views, dict) else views
    if not isinstance(views, dict) or not views or not all(isinstance(it, _TensorView) for it in views.values()):
        raise ValueError("it holds no LoRA (no tensors by name)")
    check_number("tensors", len(views), MOST_TENSORS)
    check_number("numbers", sum(view.numel for view in views.values()), MOST_NUMBERS)
    if sum(view.numel * view.storage.dtype.itemsize for view in views.values()) > size:
        raise ValueError("its tensors claim to be larger than the file")
    content = {key: _read_file(archive, storages[key]) for key in {view.storage.key for view in views.values()}}
    return {str(name): _tensor(view, content) for name, view in views.items()}


def _read_file(archive: ZipFile, file: ZipInfo) -> bytearray:
    """A file of the zip, read to its end, where its check sum is verified."""
    content = bytearray()
    with archive.open(file) as stream:
        while piece := stream.read(PIECE):
            content += piece
    return content


def _tensor(view: _TensorView, content: Mapping[str, bytearray]) -> torch.Tensor:
    dtype, key, length = view.storage
    if not length or not view.numel:
        return torch.empty(view.size, dtype=dtype)
    return torch.frombuffer(content[key], dtype=dtype).as_strided(view.size, view.stride, view.offset).contiguous()


def _interpret(pickle: bytes, storages: Mapping[str, ZipInfo]) -> Any:
    """The object that a pickle's steps make. Raises ValueError for steps that no file of tensors by name needs."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    for number, (step, argument, _) in enumerate(pickletools.genops(pickle)):
        name = step.name
        if number == MOST_STEPS:
            raise ValueError(f"it has more than {MOST_STEPS} steps")
        if name in VALUE_STEPS:
            stack.append(argument)
        elif name in CONSTANT_STEPS:
            stack.append(CONSTANT_STEPS[name])
        elif name == "GLOBAL" and argument in ALLOWED_GLOBALS:
            stack.append(_Global(argument))
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
        elif name in TUPLE_STEPS or name == "TUPLE":
            stack.append(tuple(_pop(stack, len(stack) - TUPLE_STEPS[name] if name in TUPLE_STEPS else marks.pop())))
        elif name in ("APPEND", "APPENDS"):
            items = _pop(stack, marks.pop() if name == "APPENDS" else len(stack) - 1)
            _expect(list, stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = _pop(stack, marks.pop() if name == "SETITEMS" else len(stack) - 2)
            mapping = _expect(dict, stack[-1])
            for key, value in zip(items[::2], items[1::2], strict=False):
                mapping[_expect(str | int, key)] = value
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop(), storages))
        elif name == "REDUCE":
            arguments = _expect(tuple, stack.pop())
            stack.append(_call(_expect(_Global, stack.pop()).name, arguments))
        elif name == "BUILD":  # sets attributes of a state dict, which are not needed
            stack.pop()
            _expect(dict, stack[-1])
        elif name != "STOP" and (name, argument) != ("PROTO", 2):
            raise ValueError(f"it holds more than tensors: {name} {printable(argument or '')}")
    if len(stack) != 1:
        raise ValueError("its pickle is damaged")
    return stack[0]


def _pop(stack: list, first: int) -> list:
    """Remove the items from index `first` on from the stack, and return them."""
    if not 0 <= first <= len(stack):
        raise ValueError("its pickle is damaged: it takes more from the stack than there is")
    items = stack[first:]
    del stack[first:]
    return items


def _expect(kind: Any, value: Any) -> Any:
    """The value itself. Raises ValueError if it is not of this kind."""
    if not isinstance(value, kind):
        raise ValueError(f"it holds more than tensors: {type(value).__name__.strip('_')} where none belongs")
    return value


def _storage(reference: Any, storages: Mapping[str, ZipInfo]) -> _Storage:
    """A storage from the pickle's reference to it: ("storage", type, key, device, length)."""
    if not isinstance(reference, tuple) or len(reference) != 5:
        raise ValueError("it holds more than tensors: BINPERSID")
    dtype = STORAGES.get(_expect(_Global, reference[1]).name)
    key, length = _expect(str, reference[2]), _expect(int, reference[4])
    if dtype is None or key not in storages or storages[key].file_size != length * dtype.itemsize:
        raise ValueError(f"it has no storage {printable(key)!r} with {printable(length)} numbers")
    return _Storage(dtype, key, length)


def _call(function: str, arguments: tuple) -> Any:
    """The result of one of ALLOWED_GLOBALS, imitated."""
    if function == "collections OrderedDict" and not arguments:
        return {}
    if function == "torch._utils _rebuild_parameter" and arguments:
        return _expect(_TensorView, arguments[0])
    if function == "torch._utils _rebuild_tensor_v2" and len(arguments) >= 4:
        storage, offset, size, stride = arguments[:4]
        view = _TensorView(
            _expect(_Storage, storage), _expect(int, offset), _expect(tuple, size), _expect(tuple, stride)
        )
        check_number("dimensions", len(size), MOST_DIMENSIONS)
        if len(size) != len(stride) or any(_expect(int, number) < 0 for number in (offset, *size, *stride)):
            raise ValueError("it has a tensor of impossible shape")
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if view.numel and last >= view.storage.length:
            raise ValueError("it has a tensor beyond its storage")
        return view
    raise ValueError(f"it holds more than tensors: REDUCE {printable(function)}")
