"""Concept LoRA files: safetensors with the host's key names, and metadata on the concept, training and calibration.

Encoded prompts, and what else is known of the concept's text, are kept in the metadata too, not as tensors: loaders
that meet a tensor they do not know refuse the file (diffusers) or warn (the host).
"""

from __future__ import annotations

import base64
import errno
import io
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import torch
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from safetensors.torch import save

from ..concept import Concept
from ..concept_lora import ConceptLoRA
from ..concept_text import ConceptText
from ..gate.calibration import Calibration
from ..magnitude import FP16_MAX, all_finite
from ..safe_text import printable
from ..untrusted import check_file, check_parts, first_problem
from .atomic import NameTakenError, write_whole
from .layouts import FLOAT_DTYPES, INTEGER_DTYPES, LeftOut, UnknownLayoutError, file_layers, left_out_phrase
from .modelspec import modelspec_fields
from .safetensors_reader import LARGEST_HEADER, check_number, read_safetensors

LOGGER = logging.getLogger("unguide")
KEY = "unguide"  # of the pack's metadata entry: JSON with version, concept, training, target_prompt, text, calibration
VERSION = 1
LARGEST_FILE = 4_000_000_000  # bytes
MOST_PARTS = 500_000  # of the pack's metadata entry: see `check_parts`
MOST_PROMPT_TOKENS = 10_000  # in an encoded prompt
MOST_PROMPT_NUMBERS = 20_000_000  # in the encoded target prompt, and in the concept's text
KOHYA_PREFIX = "lora_unet_"
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
IMPORT_NODE = "UnGuide Import LoRA"


def save_lora(path: Path, lora: ConceptLoRA) -> None:
    """Write a LoRA to a file, whole or not at all, and its preview beside it if possible. Makes the folder.

    Raises ValueError, before anything is written, for a LoRA that could not be loaded again.
    """
    write_whole(path, _content(lora))
    _write_preview(path, lora)


def save_new_lora(paths: Iterable[tuple[Path, str]], lora: ConceptLoRA) -> str:
    """Write a LoRA to the first of these paths where there is no file, and its preview beside it if possible.

    Each path comes with its name for users; the name of the written file is returned. A file that another process
    writes at the same time is never replaced. Raises ValueError, before anything is written, for a LoRA that could not
    be loaded again.
    """
    content = _content(lora)
    for path, name in paths:
        try:
            write_whole(path, content, new=True)
        except NameTakenError:
            continue
        _write_preview(path, lora)
        return name
    raise FileExistsError(errno.EEXIST, "there is a file at every place")


def _content(lora: ConceptLoRA) -> bytes:
    """The bytes of a LoRA's file. Raises ValueError if it could not be loaded again."""
    tensors = {
        f"{layer}.{suffix}": tensor.contiguous()
        for layer, layer_tensors in lora.other_tensors.items()
        for suffix, tensor in layer_tensors.items()
    }
    for layer, pair in lora.pairs.items():
        if abs(pair.scale * pair.rank) > FP16_MAX:
            pair = pair.with_unit_scale()
        if layer.startswith(KOHYA_PREFIX):
            tensors |= {f"{layer}.{suffix}": tensor for suffix, tensor in pair.in_file().items()}
        else:  # loaders of these names read no alpha
            tensors[f"{layer}.lora_A.weight"] = pair.down.contiguous()
            tensors[f"{layer}.lora_B.weight"] = (pair.up * pair.scale).contiguous()
    entry = {
        "version": VERSION,
        "concept": lora.concept,
        "training": lora.training,
        "target_prompt": _packed(lora.target_prompt),
        "text": _packed(lora.text.tensors()) if lora.text else "",
        "calibration": lora.calibration and lora.calibration.model_dump(mode="json"),
    }
    metadata = {KEY: json.dumps(entry, sort_keys=True), **modelspec_fields(lora)}
    try:
        if tensors:
            lora_from_tensors(tensors, metadata)
        content = _with_sorted_metadata(save(tensors, metadata))
        check_number("bytes in its header", int.from_bytes(content[:8], "little"), LARGEST_HEADER)
    except ValueError as error:
        raise ValueError(f"This LoRA is not saved, as it could not be loaded again: {error}") from None
    return content


def _write_preview(path: Path, lora: ConceptLoRA) -> None:
    """Write the picture that LoRA managers show beside a file. A failure is logged: the LoRA itself is saved."""
    if lora.preview is None:
        return
    pixels = (lora.preview.clamp(0, 1) * 255).round().byte().cpu().numpy()
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    try:
        write_whole(path.with_suffix(".preview.png"), png.getvalue())
    except OSError as error:
        LOGGER.warning("%s is saved, but not its preview: %s", path.name, error)


def _with_sorted_metadata(file: bytes) -> bytes:
    """A safetensors file with sorted metadata: the library writes it in any order, but equal LoRAs are equal files."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + file[8 + size :]


def load_lora(path: Path) -> ConceptLoRA:
    """Read a LoRA file of any kind that the host can load. No code in it is executed.

    Raises ValueError, naming the file, if it is not one. What in the file cannot act is left out and logged.
    """
    return load_lora_with_left_out(path)[0]


def load_lora_with_left_out(path: Path) -> tuple[ConceptLoRA, LeftOut]:
    """Read a LoRA file as `load_lora` does; also returns what in the file cannot act."""
    name = printable(path.name)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise ValueError(
            f"{name} is not a safetensors file: read it with {IMPORT_NODE}, which takes {', '.join(PICKLE_SUFFIXES)} "
            f"too."
        )
    tensors, metadata = read_tensors(path)
    try:
        lora, left_out = lora_from_tensors(tensors, metadata)
    except UnknownLayoutError as error:
        raise ValueError(
            f"{name} cannot be used as a concept LoRA: it holds `{error.key}`, which belongs to no kind of LoRA that "
            f"UnGuide Load LoRA reads. Try {IMPORT_NODE}, which knows more; whole models and other files are not LoRAs."
        ) from None
    except ValueError as error:
        raise ValueError(f"{name} cannot be used as a concept LoRA: {error}") from None
    warn_of_left_out(left_out, name)
    return lora, left_out


def warn_of_left_out(left_out: LeftOut, name: str) -> None:
    """Log what in a file of this name cannot act."""
    if left_out:
        LOGGER.warning("%s: left out, as it cannot act: %s.", name, left_out_phrase(left_out))


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """A safetensors file's tensors by name, and its metadata. Raises ValueError, naming the file, if it is not one."""
    check_file(path, LARGEST_FILE, "LoRA")
    try:
        with path.open("rb") as file:
            return read_safetensors(file, os.fstat(file.fileno()).st_size)
    except Exception as error:  # of the operating system, of the reader, or anything that torch raises
        raise ValueError(
            f"{printable(path.name)} is not a safetensors file of a LoRA, or damaged: {printable(error, 300)}. Get it "
            f"again."
        ) from None


def lora_from_tensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> tuple[ConceptLoRA, LeftOut]:
    """The LoRA in a file's tensors and metadata, and what in them cannot act. Raises ValueError if nothing acts."""
    layers = file_layers(tensors)
    entry = _Metadata.parse(metadata.get(KEY, "{}"))
    lora = ConceptLoRA(
        layers.pairs,
        concept=entry.concept.model_dump(mode="json", exclude_unset=True) if entry.concept else {},
        training=entry.training.model_dump(mode="json", exclude_unset=True),
        target_prompt=_unpack_target_prompt(entry.target_prompt),
        text=_unpack_text(entry.text),
        calibration=entry.calibration,
        other_tensors=layers.other_tensors,
    )
    return lora, layers.left_out


class _Training(BaseModel):
    """What a file says of the LoRA's training: the fields that resuming needs are checked, all others are kept."""

    model_config = ConfigDict(extra="allow")

    iterations_done: int = Field(default=0, ge=0, le=10**9)
    alphas: dict[str, Annotated[float, Field(gt=0, le=FP16_MAX)]] = {}


class _Metadata(BaseModel):
    """The pack's metadata entry."""

    version: int = Field(default=VERSION, ge=1, le=VERSION)
    concept: Annotated[Concept | None, BeforeValidator(lambda concept: concept or None)] = None
    training: _Training = _Training()
    target_prompt: str = ""  # a safetensors file as base64
    text: str = ""  # another one
    calibration: Calibration | None = None

    @classmethod
    def parse(cls, text: str) -> _Metadata:
        """The entry in JSON text. Raises ValueError."""
        check_parts(text.encode(), MOST_PARTS)
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(f"its metadata is malformed: {first_problem(error, KEY)}.") from None


def _packed(tensors: dict[str, torch.Tensor]) -> str:
    """Tensors as base64."""
    return base64.b64encode(save(tensors)).decode()


def _unpacked(text: str, what: str) -> dict[str, torch.Tensor]:
    """The inverse of `_packed`; {} from "". Raises ValueError, naming `what` it is, for what is not finite numbers."""
    try:
        packed = base64.b64decode(text, validate=True)
        tensors = read_safetensors(io.BytesIO(packed), len(packed))[0] if packed else {}
        check_number("numbers", sum(tensor.numel() for tensor in tensors.values()), MOST_PROMPT_NUMBERS)
    except Exception as error:  # of base64, of the reader, or anything that torch raises
        raise ValueError(f"its {what} cannot be read: {printable(error, 300)}") from None
    for name, tensor in tensors.items():
        if not tensor.numel() or tensor.dtype not in (*FLOAT_DTYPES, *INTEGER_DTYPES) or not all_finite(tensor):
            raise ValueError(f"`{printable(name)}` of its {what} is empty, of a wrong type, NaN or infinite.")
    return tensors


def _unpack_target_prompt(text: str) -> dict[str, torch.Tensor]:
    """The encoded target prompt (`host.pack_conditioning`). Raises ValueError."""
    prompt = _unpacked(text, "target prompt")
    if prompt:
        _check_prompt(prompt, "target prompt")
    return prompt


def _unpack_text(text: str) -> ConceptText | None:
    """What a file knows of the concept's text. Raises ValueError."""
    tensors = _unpacked(text, "text")
    if not tensors:
        return None
    try:
        concept_text = ConceptText.from_tensors(tensors)
    except ValueError as error:
        raise ValueError(f"its text cannot be read: {printable(error, 300)}") from None
    _check_prompt(concept_text.reference, "reference prompt")
    _check_prompt(concept_text.empty, "empty prompt")
    return concept_text


def _check_prompt(prompt: Mapping[str, torch.Tensor], what: str) -> None:
    """Raises ValueError for tensors that are no encoded prompt."""
    tokens = prompt.get("cross_attn")
    if tokens is None or tokens.ndim != 3 or len(tokens) != 1 or tokens.dtype not in FLOAT_DTYPES:
        raise ValueError(f"its {what} has no `cross_attn` [1, tokens, width].")
    if tokens.shape[1] > MOST_PROMPT_TOKENS:
        raise ValueError(f"its {what} has {tokens.shape[1]} tokens, and may have {MOST_PROMPT_TOKENS}.")
