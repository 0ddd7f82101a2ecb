"""Safetensors files, read from their bytes: each tensor a copy of its own, which no later change of the file reaches.

The library's reader maps the file into memory: who cuts it short ends the process, who writes into it changes weights
that have been checked.
"""

from __future__ import annotations

import math
from typing import Annotated, BinaryIO

import torch
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from .strangers import brief, check_parts, first_problem

LARGEST_HEADER = 60_000_000  # bytes; the encoded target prompt of the largest text encoders is most of it
MOST_PARTS = 500_000  # of the header: see `check_parts`
MOST_TENSORS = 20_000
MOST_KEYS = 10_000  # of the metadata
MOST_DIMENSIONS = 8
MOST_NUMBERS = 900_000_000  # of all tensors, whatever their type: four bytes each where they are calculated with
TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16,
    "U8": torch.uint8, "BOOL": torch.bool, "C64": torch.complex64,
}  # fmt: skip

Whole = Annotated[int, Field(ge=0, lt=2**63)]


class _Entry(BaseModel):
    """What the header says of a tensor."""

    dtype: str
    shape: tuple[Whole, ...] = Field(max_length=MOST_DIMENSIONS)
    data_offsets: tuple[Whole, Whole]


HEADER = TypeAdapter(dict[str, dict])
ENTRIES = TypeAdapter(dict[str, _Entry])
METADATA = TypeAdapter(dict[str, str])


def read_safetensors(file: BinaryIO, size: int) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors by name and the metadata of an open file of `size` bytes. Raises ValueError where it is damaged, or
    larger in any way than a LoRA is; nothing is made before the whole header has been looked through.
    """
    length = int.from_bytes(_bytes(file, 8), "little")
    if length > LARGEST_HEADER:
        raise ValueError(f"its header claims {length} bytes, and may have {LARGEST_HEADER}")
    text = bytes(_bytes(file, length))
    check_parts(text, MOST_PARTS)
    try:
        header = HEADER.validate_json(text)
        metadata = METADATA.validate_python(header.pop("__metadata__", {}))
        check_number("keys in its metadata", len(metadata), MOST_KEYS)
        check_number("tensors", len(header), MOST_TENSORS)
        entries = ENTRIES.validate_python(header)
    except ValidationError as error:
        raise ValueError(f"its header is malformed: {first_problem(error, 'the header')}") from None
    check_number("numbers", sum(math.prod(it.shape) for it in entries.values()), MOST_NUMBERS)
    order = sorted(entries, key=lambda name: entries[name].data_offsets)
    _check_places([(name, entries[name]) for name in order], size - 8 - length)
    return {name: _tensor(file, entries[name]) for name in order}, metadata


def check_number(things: str, number: int, most: int) -> None:
    """Raises ValueError for more of some things in a file than a LoRA ever has."""
    if number > most:
        raise ValueError(f"it has {brief(number)} {things}, and may have {most}")


def _check_places(entries: list[tuple[str, _Entry]], size: int) -> None:
    """Raises ValueError unless the tensors, in order, fill the data's bytes, without a hole and once each."""
    place = 0
    for name, it in entries:
        if it.dtype not in TYPES:
            raise ValueError(f"`{brief(name)}` is of a type {brief(it.dtype)!r}, which is not known")
        begin, end = it.data_offsets
        if begin != place or end - begin != math.prod(it.shape) * TYPES[it.dtype].itemsize:
            raise ValueError(f"`{brief(name)}` does not fill its place in the file")
        place = end
    if place != size:
        raise ValueError(f"its tensors take {brief(place)} bytes, and it has {size} for them")


def _tensor(file: BinaryIO, entry: _Entry) -> torch.Tensor:
    """The next one."""
    begin, end = entry.data_offsets
    if begin == end:
        return torch.empty(entry.shape, dtype=TYPES[entry.dtype])
    return torch.frombuffer(_bytes(file, end - begin), dtype=TYPES[entry.dtype]).view(entry.shape)


def _bytes(file: BinaryIO, number: int) -> bytearray:
    """So many, in memory that is nobody else's."""
    content = bytearray(number)
    if file.readinto(content) != number:  # type: ignore[attr-defined]
        raise ValueError("it ends too early")
    return content
