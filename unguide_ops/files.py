"""Concept LoRA files: safetensors with the host's key names and what the LoRA was trained on in the metadata.

The encoded target prompt is kept in the metadata too, not as a tensor: loaders that meet a tensor they do not know
refuse the file (diffusers) or warn (the host).
"""

from __future__ import annotations

import base64
import contextlib
import errno
import io
import json
import logging
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import torch
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from safetensors.torch import save

from .calibration import Calibration
from .concept import Concept
from .layouts import NUMBERS, WHOLE_NUMBERS, LeftOut, UnknownLayoutError, in_words, layers_of
from .lora import ConceptLoRA
from .metadata import shown
from .numbers import LARGEST_NUMBER, all_finite
from .strangers import brief, check_file, check_parts, first_problem
from .tensor_file import LARGEST_HEADER, check_number, read_safetensors

LOGGER = logging.getLogger("unguide")
UNFINISHED = ".unguide-part"  # ends the name of a file that is being written
NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}
"""What file systems say that give a file one name alone."""
STALE = 3600.0  # seconds, after which whoever wrote it was killed
KEY = "unguide"  # of our metadata entry: JSON with version, concept, training, target_prompt, calibration
VERSION = 1
LARGEST_FILE = 4_000_000_000  # bytes
MOST_PARTS = 500_000  # of our metadata: see `check_parts`
MOST_TOKENS = 10_000  # of the target prompt
MOST_IN_PROMPT = 20_000_000  # numbers
KOHYA = "lora_unet_"
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl")
IMPORT = "UnGuide Import LoRA"


def save_lora(path: Path, lora: ConceptLoRA) -> None:
    """Write `lora` to `path` (made with its folder), whole or not at all, and its preview beside it if it can be.

    Raises ValueError for a LoRA that could not be loaded again, before anything is written.
    """
    _write(path, _content(lora))
    _write_preview(path, lora)


def save_new_lora(places: Iterable[tuple[Path, str]], lora: ConceptLoRA) -> str:
    """The same at the first of these places where there is no file, not even one that somebody else writes meanwhile.

    A place is a path and its name; the name is returned.
    """
    content = _content(lora)
    for path, name in places:
        try:
            _write(path, content, new=True)
        except _TakenError:
            continue
        _write_preview(path, lora)
        return name
    raise FileExistsError(errno.EEXIST, "there is a file at every place")


def _content(lora: ConceptLoRA) -> bytes:
    """The LoRA as a file, of which is known that the loader takes it."""
    tensors = {f"{name}.{end}": it.contiguous() for name, its in lora.others.items() for end, it in its.items()}
    for name, pair in lora.pairs.items():
        if abs(pair.alpha * pair.rank) > LARGEST_NUMBER:
            pair = pair.folded()
        if name.startswith(KOHYA):
            tensors |= {f"{name}.{suffix}": it for suffix, it in pair.in_file().items()}
        else:  # these loaders know no alpha
            tensors[f"{name}.lora_A.weight"] = pair.down.contiguous()
            tensors[f"{name}.lora_B.weight"] = (pair.up * pair.alpha).contiguous()
    about = {
        "version": VERSION,
        "concept": lora.concept,
        "training": lora.training,
        "target_prompt": base64.b64encode(save(lora.target_prompt)).decode(),
        "calibration": lora.calibration and lora.calibration.model_dump(mode="json"),
    }
    metadata = {KEY: json.dumps(about, sort_keys=True), **shown(lora)}
    try:
        if tensors:
            from_tensors(tensors, metadata)
        whole = _in_order(save(tensors, metadata))
        check_number("bytes in its header", int.from_bytes(whole[:8], "little"), LARGEST_HEADER)
    except ValueError as error:
        raise ValueError(f"This LoRA is not saved, as it could not be loaded again: {error}") from None
    return whole


def _write_preview(path: Path, lora: ConceptLoRA) -> None:
    """The picture that LoRA managers show beside a file; without it the LoRA is there all the same."""
    if lora.preview is None:
        return
    pixels = (lora.preview.clamp(0, 1) * 255).round().byte().cpu().numpy()
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "PNG")
    try:
        _write(path.with_suffix(".preview.png"), picture.getvalue())
    except OSError as error:
        LOGGER.warning("%s is saved, but not its preview: %s", path.name, error)


def _in_order(file: bytes) -> bytes:
    """A safetensors file, its metadata sorted: the library writes it in any order, and equal LoRAs are equal files."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + file[8 + size :]


class _TakenError(Exception):
    """There is a file of that name."""


def _write(path: Path, content: bytes, new: bool = False) -> None:
    """A file, whole or not at all: in place of an older one, or else raising _TakenError where there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path.parent)
    part = path.with_name(f"{path.name}.{secrets.token_hex(6)}{UNFINISHED}")  # equal pids are in two containers
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the name without the content
        if new:
            _name(part, path)
        else:
            os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _name(part: Path, path: Path) -> None:
    """Give a file its name, unless there is one of that name."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise _TakenError from None
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _claim(part, path)
    else:
        part.unlink(missing_ok=True)


def _claim(part: Path, path: Path) -> None:
    """The same where a file cannot have two names (FAT, some networks): an empty one holds its place for a moment."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        raise _TakenError from None
    try:
        os.replace(part, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _clear(folder: Path) -> None:
    """Remove what processes that were killed have left here."""
    for part in folder.glob(f"*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE:
                part.unlink()


def load_lora(path: Path) -> ConceptLoRA:
    """Read a LoRA file, ours or anyone's of a kind that the host can load. Nothing in it is executed.

    Raises ValueError, naming the file, when it is none.
    """
    return read_lora(path)[0]


def read_lora(path: Path) -> tuple[ConceptLoRA, LeftOut]:
    """The same, and what in the file acts nowhere, which is logged as well."""
    name = brief(path.name)
    if path.suffix.lower() in PICKLES:
        raise ValueError(f"{name} is no safetensors file: read it with {IMPORT}, which takes {', '.join(PICKLES)} too.")
    tensors, metadata = read_tensors(path)
    try:
        lora, left_out = from_tensors(tensors, metadata)
    except UnknownLayoutError as error:
        raise ValueError(
            f"{name} cannot be used as a concept LoRA: it holds `{error.key}`, which is of no kind of LoRA that "
            f"UnGuide Load LoRA reads. Try {IMPORT}, which knows more; whole models and other files are no LoRAs."
        ) from None
    except ValueError as error:
        raise ValueError(f"{name} cannot be used as a concept LoRA: {error}") from None
    warn_of(left_out, name)
    return lora, left_out


def warn_of(left_out: LeftOut, name: str) -> None:
    """Log what in a file of this name acts nowhere."""
    if left_out:
        LOGGER.warning("%s: left out, as it cannot act: %s.", name, in_words(left_out))


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """A safetensors file's tensors by name, and its metadata. Raises ValueError, naming the file, when it is none."""
    check_file(path, LARGEST_FILE, "LoRA")
    try:
        with path.open("rb") as file:
            return read_safetensors(file, os.fstat(file.fileno()).st_size)
    except Exception as error:  # of the system, or of torch, which may be any
        raise ValueError(
            f"{brief(path.name)} is no safetensors file of a LoRA, or damaged: {brief(error, 300)}. Get it again."
        ) from None


def from_tensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> tuple[ConceptLoRA, LeftOut]:
    """A LoRA of a file's tensors and metadata, and what in them acts nowhere. Raises ValueError where nothing acts."""
    layers = layers_of(tensors)
    about = _About.of(metadata.get(KEY, "{}"))
    lora = ConceptLoRA(
        layers.pairs,
        concept=about.concept.model_dump(mode="json", exclude_unset=True) if about.concept else {},
        training=about.training.model_dump(mode="json", exclude_unset=True),
        target_prompt=_unpacked(about.target_prompt),
        calibration=about.calibration,
        others=layers.others,
    )
    return lora, layers.left_out


class _Training(BaseModel):
    """What of it is gone on with; the rest is only told."""

    model_config = ConfigDict(extra="allow")

    iterations_done: int = Field(default=0, ge=0, le=10**9)
    alphas: dict[str, Annotated[float, Field(gt=0, le=LARGEST_NUMBER)]] = {}


class _About(BaseModel):
    """Our metadata entry."""

    version: int = Field(default=VERSION, ge=1, le=VERSION)
    concept: Annotated[Concept | None, BeforeValidator(lambda it: it or None)] = None
    training: _Training = _Training()
    target_prompt: str = ""  # a safetensors file as base64
    calibration: Calibration | None = None

    @classmethod
    def of(cls, text: str) -> _About:
        check_parts(text.encode(), MOST_PARTS)
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ValueError(f"its metadata is malformed: {first_problem(error, KEY)}.") from None


def _unpacked(text: str) -> dict[str, torch.Tensor]:
    """The encoded target prompt, as `host.pack_conditioning` makes it; or nothing."""
    try:
        packed = base64.b64decode(text, validate=True)
        prompt = read_safetensors(io.BytesIO(packed), len(packed))[0] if packed else {}
        check_number("numbers", sum(it.numel() for it in prompt.values()), MOST_IN_PROMPT)
    except Exception as error:  # as in `read_tensors`
        raise ValueError(f"its target prompt cannot be read: {brief(error, 300)}") from None
    tokens = prompt.get("cross_attn")
    if prompt and (tokens is None or tokens.ndim != 3 or len(tokens) != 1 or tokens.dtype not in NUMBERS):
        raise ValueError("its target prompt has no `cross_attn` [1, tokens, width].")
    if tokens is not None and tokens.shape[1] > MOST_TOKENS:
        raise ValueError(f"its target prompt has {tokens.shape[1]} tokens, and may have {MOST_TOKENS}.")
    for name, tensor in prompt.items():
        if not tensor.numel() or tensor.dtype not in (*NUMBERS, *WHOLE_NUMBERS) or not all_finite(tensor):
            raise ValueError(f"`{brief(name)}` of its target prompt is empty, or holds what is no number.")
    return prompt
