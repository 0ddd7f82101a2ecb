"""The files of torch.save, looked through before torch.load reads them: tensors by name, and no more.

torch's `weights_only` keeps code from running (in its later versions), but not a file of a kilobyte from taking the
host's memory, or its life: a zip bomb, a list that holds another twice that holds another twice, a tuple so deep that
Python dies of it. And torch (2.4 to 2.9 do, 2.11 does not) believes a pickle that calls a storage larger than its file
is: the numbers beyond are whatever lies there in the host's memory.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import torch

from .strangers import brief

LARGEST_DIRECTORY = 1_000_000  # bytes of the zip; a tensor takes some seventy
MOST_STEPS = 200_000  # of a pickle, read in about a second; a tensor takes some thirty
DEEPEST = 20  # lists in lists
VALUE, DICT, TENSOR, STORAGE = 0, -1, -2, -3
NUMBER_BYTES = {"torch DoubleStorage": 8, "torch FloatStorage": 4, "torch HalfStorage": 2, "torch BFloat16Storage": 2,
                "torch LongStorage": 8, "torch IntStorage": 4, "torch ShortStorage": 2, "torch CharStorage": 1,
                "torch ByteStorage": 1, "torch BoolStorage": 1}  # fmt: skip
CALLED = {"collections OrderedDict": DICT, "torch._utils _rebuild_tensor_v2": TENSOR,
          "torch._utils _rebuild_parameter": TENSOR, **dict.fromkeys(NUMBER_BYTES, STORAGE)}  # fmt: skip
"""What may be called, as pickle names it, and what comes of it."""
VALUES = {"BINUNICODE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1", "NONE", "NEWTRUE", "NEWFALSE",
          "EMPTY_TUPLE"}  # fmt: skip
TAKES = {"EMPTY_DICT": 0, "EMPTY_LIST": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "BINPERSID": 1, "REDUCE": 2,
         "APPEND": 2, "SETITEM": 3, "BUILD": 2, "TUPLE": 0, "APPENDS": 1, "SETITEMS": 1}  # fmt: skip
"""How many of the stack a step takes; the last three beside all that is above the mark."""
TO_MARK = ("TUPLE", "APPENDS", "SETITEMS")
FILLS = ("APPEND", "SETITEM", "BUILD", "APPENDS", "SETITEMS")


def read_plain(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name. Raises ValueError that says what is wrong with any other file."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            _check_end(file, size)
            with ZipFile(file) as archive:
                files = _files_of(archive, size)
                name = _pickle_of(files)
                folder = name.removesuffix(".pkl") + "/"
                storages = {it.removeprefix(folder): files[it].file_size for it in files if it.startswith(folder)}
                with archive.open(files[name]) as steps:
                    _follow(pickletools.genops(steps), storages)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except ValueError:
        raise
    except BadZipFile as error:
        raise ValueError(f"it is damaged, or older than torch 1.6 ({brief(error)})") from None
    except Exception as error:  # a damaged pickle may raise any
        raise ValueError(f"it is damaged ({type(error).__name__})") from None  # torch's own advice is to run the code
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not found or not all(isinstance(it, torch.Tensor) for it in found.values()):
        raise ValueError("it holds no LoRA, which is tensors by name")
    if sum(it.numel() * it.element_size() for it in found.values()) > size:
        raise ValueError("its tensors claim to be larger than the file")
    return {str(name): it.detach() for name, it in found.items()}


def _check_end(file: BinaryIO, size: int) -> None:
    """A zip's directory is read whole: not before its size is known, which the last bytes say, twice."""
    if file.read(4) != b"PK\3\4":  # by which torch tells its formats
        raise BadZipFile("it begins as no zip")
    file.seek(max(0, size - 98))
    end = file.read()
    if end[-22:-18] != b"PK\5\6" or any(end[-2:]):
        raise BadZipFile("it ends as no zip of torch does")
    sizes = end[-10:-6], end[40:48] if end[:4] == b"PK\6\6" else b""
    if max(int.from_bytes(it, "little") for it in sizes) > LARGEST_DIRECTORY:
        raise ValueError("it holds more files than a LoRA has tensors")


def _files_of(archive: ZipFile, size: int) -> dict[str, ZipInfo]:
    """What it holds by lower-case name: torch knows no case, and none of what Python may take for an entry's name."""
    files = archive.infolist()
    if any(it.compress_type != ZIP_STORED for it in files) or sum(it.file_size for it in files) > size:
        raise ValueError("it is compressed, which torch.save never does")
    by_name = {it.orig_filename.lower(): it for it in files if it.orig_filename.isascii()}
    if len(by_name) < len(files):
        raise ValueError("it holds two files of one name, or names that are not ASCII, which torch.save never writes")
    return by_name


def _pickle_of(files: Mapping[str, ZipInfo]) -> str:
    pickles = [name for name in files if name.endswith(".pkl")]
    if len(pickles) != 1 or not pickles[0].endswith("/data.pkl"):
        raise ValueError("it is a scripted model or a package, which hold code")
    return pickles[0]


class _Item(NamedTuple):
    """What stands on a pickle's stack."""

    depth: int
    """Of a list, dict or tuple; VALUE for what is none; or what is called."""
    content: Any = None
    """A value itself, the name of what is called, and those of a tuple's items; None for all else."""


def _follow(steps: Iterable, storages: Mapping[str, int]) -> None:
    """Raises ValueError for steps of a pickle that torch.save would not take for tensors by name.

    Nothing is made. Lists are not used twice, so that nothing outgrows the file. `storages` are the bytes that there
    are of each, by key.
    """
    stack: list[_Item] = []
    marks: list[int] = []
    memo: dict[int, _Item] = {}
    for number, (step, argument, _) in enumerate(steps):
        name = step.name
        if number == MOST_STEPS:
            raise ValueError(f"it has more than {MOST_STEPS} steps")
        if name in VALUES:
            stack.append(_Item(VALUE, argument))
        elif name == "GLOBAL" and argument in CALLED:
            stack.append(_Item(CALLED[argument], argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET") and memo[argument].depth <= VALUE:
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in TAKES:
            first = (marks.pop() if name in TO_MARK else len(stack)) - TAKES[name]
            taken = stack[first:]
            del stack[first:]
            if name == "BINPERSID":
                _check_storage(taken[0].content, storages)
            made = _made(name, [it.depth for it in taken])
            if made > DEEPEST:
                raise ValueError(f"it has lists in lists, deeper than {DEEPEST}")
            stack.append(_Item(made, tuple(it.content for it in taken) if name.startswith("TUPLE") else None))
        elif name != "STOP" and (name, argument) != ("PROTO", 2):
            raise ValueError(f"it holds more than tensors: {name} {brief(argument or '')}")


def _check_storage(claim: Any, storages: Mapping[str, int]) -> None:
    """Raises ValueError if what the pickle says of a storage is not so: ("storage", type, key, device, numbers)."""
    if not isinstance(claim, tuple) or len(claim) != 5:
        raise ValueError("it holds more than tensors: BINPERSID")
    _, kind, key, _, numbers = claim
    if storages[key] != numbers * NUMBER_BYTES[kind]:
        raise ValueError(f"a storage that is said to have {numbers} numbers has {storages[key]} bytes")


def _made(name: str, taken: list[int]) -> int:
    """What a step makes of what it takes."""
    if name == "BINPERSID":
        return VALUE
    if name == "REDUCE" and taken[0] in (DICT, TENSOR):
        return 1 + max(taken) if taken[0] == DICT else VALUE
    if name == "REDUCE" or (name in FILLS and taken[0] <= VALUE):
        raise ValueError(f"it holds more than tensors: {name}")
    own, inside = (taken[0], taken[1:]) if name in FILLS else (VALUE, taken)
    return max(1, own, 1 + max(inside, default=VALUE))
