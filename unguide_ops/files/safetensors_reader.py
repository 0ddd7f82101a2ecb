"""Read safetensors files into memory of our own, so that a later change of the file does not reach the tensors.

The library's reader maps the file into memory: if the file is cut short, the process ends, and if it is overwritten,
weights change that have been checked.
"""

from __future__ import annotations

import math
from typing import Annotated, BinaryIO

import torch
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ..safe_text import printable
from ..untrusted import check_parts, first_problem

LARGEST_HEADER = 60_000_000  # bytes; the encoded target prompt of the largest text encoders is most of it
MOST_PARTS = 500_000  # of the header: see `check_parts`
MOST_TENSORS = 20_000
MOST_METADATA_KEYS = 10_000
MOST_DIMENSIONS = 8
MOST_NUMBERS = 900_000_000  # in all tensors; in fp32, in which they are used, each takes four bytes
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16,
    "U8": torch.uint8, "BOOL": torch.bool, "C64": torch.complex64,
}  # fmt: skip

Size = Annotated[int, Field(ge=0, lt=2**63)]


class _Entry(BaseModel):
    """A tensor's entry in the header."""

    dtype: str
    shape: tuple[Size, ...] = Field(max_length=MOST_DIMENSIONS)
    data_offsets: tuple[Size, Size]


HEADER = TypeAdapter(dict[str, dict])
ENTRIES = TypeAdapter(dict[str, _Entry])
METADATA = TypeAdapter(dict[str, str])


def read_safetensors(file: BinaryIO, size: int) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors by name, and the metadata, of an open file of `size` bytes.

    Raises ValueError if the file is damaged, or in any way larger than a LoRA is. The whole header is checked before
    any tensor is made.
    """
    length = int.from_bytes(_read_bytes(file, 8), "little")
    if length > LARGEST_HEADER:
        raise ValueError(f"its header claims {length} bytes, and may have {LARGEST_HEADER}")
    text = bytes(_read_bytes(file, length))
    check_parts(text, MOST_PARTS)
    try:
        header = HEADER.validate_json(text)
        metadata = METADATA.validate_python(header.pop("__metadata__", {}))
        check_number("keys in its metadata", len(metadata), MOST_METADATA_KEYS)
        check_number("tensors", len(header), MOST_TENSORS)
        entries = ENTRIES.validate_python(header)
    except ValidationError as error:
        raise ValueError(f"its header is malformed: {first_problem(error, 'the header')}") from None
    check_number("numbers", sum(math.prod(entry.shape) for entry in entries.values()), MOST_NUMBERS)
    order = sorted(entries, key=lambda name: entries[name].data_offsets)
    _check_offsets([(name, entries[name]) for name in order], size - 8 - length)
    return {name: _read_tensor(file, entries[name]) for name in order}, metadata


def check_number(things: str, number: int, most: int) -> None:
    """Raises ValueError if a file has more of some things than a LoRA ever has."""
    if number > most:
        raise ValueError(f"it has {printable(number)} {things}, and may have {most}")


def _check_offsets(entries: list[tuple[str, _Entry]], size: int) -> None:
    """Raises ValueError unless the tensors, in this order, fill the file's `size` bytes of data without gap or overlap.

    Each must have the bytes that its dtype and shape need.
    """
    position = 0
    for name, entry in entries:
        if entry.dtype not in DTYPES:
            raise ValueError(f"`{printable(name)}` is of a type {printable(entry.dtype)!r}, which is not known")
        begin, end = entry.data_offsets
        if begin != position or end - begin != math.prod(entry.shape) * DTYPES[entry.dtype].itemsize:
            raise ValueError(f"`{printable(name)}` does not fill its place in the file")
        position = end
    if position != size:
        raise ValueError(f"its tensors take {printable(position)} bytes, and it has {size} for them")


def _read_tensor(file: BinaryIO, entry: _Entry) -> torch.Tensor:
    """The tensor at the file's position."""
    begin, end = entry.data_offsets
    if begin == end:
        return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    return torch.frombuffer(_read_bytes(file, end - begin), dtype=DTYPES[entry.dtype]).view(entry.shape)


def _read_bytes(file: BinaryIO, number: int) -> bytearray:
    """The file's next bytes, in new memory. Raises ValueError if it ends before."""
    content = bytearray(number)
    if file.readinto(content) != number:  # type: ignore[attr-defined]
        raise ValueError("it ends too early")
    return content
