"""Concept LoRA files: safetensors with the host's key names and what the LoRA was trained on in the metadata.

The encoded target prompt is kept in the metadata too, not as a tensor: loaders that meet a tensor they do not know
refuse the file (diffusers) or warn (the host).
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, BinaryIO

import torch
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from safetensors import safe_open
from safetensors.torch import load, save

from .calibration import Calibration
from .concept import Concept
from .lora import ConceptLoRA, LowRankPair
from .metadata import shown
from .strangers import brief, check_file, check_parts, first_problem

LOGGER = logging.getLogger("unguide")
UNFINISHED = ".unguide-part"  # ends the name of a file that is being written
STALE = 3600.0  # seconds, after which whoever wrote it was killed
KEY = "unguide"  # of our metadata entry: JSON with version, concept, training, target_prompt, calibration
VERSION = 1
LARGEST_FILE = 4_000_000_000  # bytes
LARGEST_HEADER = 60_000_000  # bytes; the encoded target prompt of the largest text encoders is most of it
MOST_TENSORS = 20_000
MOST_PARTS = 500_000  # of the header, or of our metadata: see `check_parts`
LONGEST_NAME = 500  # characters
LARGEST_NUMBER = 65504.0  # a half's
NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
WHOLE_NUMBERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)  # some trainers' alpha
KOHYA = "lora_unet_"
PAIRS = (
    ("lora_down.weight", "lora_up.weight"), ("lora_A.weight", "lora_B.weight"), ("lora.down.weight", "lora.up.weight"),
    ("lora_A.default.weight", "lora_B.default.weight"), ("lora_A", "lora_B"),
    ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
)  # fmt: skip
"""Suffixes of lower and upper halves: kohya's, peft's, and those of diffusers through the years."""
OTHERS = r"lora_mid\.weight|dora_scale|(hada|lokr|oft)_\w+|rescale|diff|diff_b|set_weight|[wb]_norm"
LAYER = re.compile(
    rf"(?P<layer>.+?)\.(?P<suffix>alpha|{'|'.join(re.escape(it) for pair in PAIRS for it in pair)}|{OTHERS})"
)
TEXT_ENCODER = re.compile(r"lora_te|text_encoder|te[12]?\.")


def save_lora(path: Path, lora: ConceptLoRA) -> None:
    """Write `lora` to `path` (made with its folder), whole or not at all, and its preview beside it if it can be."""
    tensors = {f"{name}.{end}": it.contiguous() for name, its in lora.others.items() for end, it in its.items()}
    for name, pair in lora.pairs.items():
        if name.startswith(KOHYA):
            tensors[f"{name}.lora_down.weight"] = pair.down.contiguous()
            tensors[f"{name}.lora_up.weight"] = pair.up.contiguous()
            tensors[f"{name}.alpha"] = torch.tensor(pair.alpha * pair.rank)
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
    whole = _in_order(save(tensors, {KEY: json.dumps(about, sort_keys=True), **shown(lora)}))
    _write(path, whole)
    if lora.preview is not None:  # LoRA managers show it
        pixels = (lora.preview.clamp(0, 1) * 255).round().byte().cpu().numpy()
        picture = io.BytesIO()
        Image.fromarray(pixels).save(picture, "PNG")
        try:
            _write(path.with_suffix(".preview.png"), picture.getvalue())
        except OSError as error:  # the LoRA is there: no reason to say that it is not
            LOGGER.warning("%s is saved, but not its preview: %s", path.name, error)


def _in_order(file: bytes) -> bytes:
    """A safetensors file, its metadata sorted: the library writes it in any order, and equal LoRAs are equal files."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + file[8 + size :]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path.parent)
    part = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the name without the content
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
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
    tensors, metadata = read_tensors(path)
    try:
        return from_tensors(tensors, metadata)
    except ValueError as error:
        raise ValueError(f"{brief(path.name)} cannot be used as a concept LoRA: {error}") from None


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """A safetensors file's tensors by name, and its metadata. Raises ValueError, naming the file, when it is none."""
    check_file(path, LARGEST_FILE, "LoRA")
    try:
        with path.open("rb") as file:
            _check_header(file)
        with safe_open(path, "pt") as file:
            names = file.keys()
            if len(names) > MOST_TENSORS:
                raise ValueError(f"it has {len(names)} tensors, and may have {MOST_TENSORS}")
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except Exception as error:  # of the library, or of torch, which may be any
        raise ValueError(
            f"{brief(path.name)} is no safetensors file of a LoRA, or damaged: {brief(error, 300)}. Get it again."
        ) from None


def _check_header(file: BinaryIO) -> None:
    size = int.from_bytes(file.read(8), "little")
    if size > LARGEST_HEADER:
        raise ValueError(f"its header claims {size} bytes, and may have {LARGEST_HEADER}")
    check_parts(file.read(size), MOST_PARTS, "{[")  # commas are many in the metadata of others


def from_tensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> ConceptLoRA:
    """A LoRA of a file's tensors and metadata. Raises ValueError for what is of no kind that the host can load."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        found = LAYER.fullmatch(key) if len(key) <= LONGEST_NAME else None
        if not found:
            raise ValueError(f"it holds `{brief(key)}`, which is of no kind of LoRA that the host can load.")
        if not TEXT_ENCODER.match(key):
            check_numbers(key, tensor)
            layers.setdefault(found["layer"], {})[found["suffix"]] = tensor
    if not layers:
        raise ValueError("it holds nothing for the diffusion model.")
    pairs, others = {}, {}
    for name, its in layers.items():
        pair = _pair(name, its)
        if pair is None:
            others[name] = its
        else:
            pairs[name] = pair
    about = _About.of(metadata.get(KEY, "{}"))
    return ConceptLoRA(
        pairs,
        concept=about.concept.model_dump(mode="json", exclude_unset=True) if about.concept else {},
        training=about.training.model_dump(mode="json", exclude_unset=True),
        target_prompt=_unpacked(about.target_prompt),
        calibration=about.calibration,
        others=others,
    )


def check_numbers(key: str, tensor: torch.Tensor) -> None:
    """Raises ValueError for a tensor that a LoRA cannot be calculated with, on any device: pictures would be lost."""
    name, one = brief(key), key.endswith(".alpha")
    if not tensor.numel() or (one and tensor.numel() > 1):
        raise ValueError(f"`{name}` has {tensor.numel()} numbers{', and must be one' if one else ''}.")
    if tensor.dtype not in (*NUMBERS, *(WHOLE_NUMBERS if one else ())):
        raise ValueError(f"`{name}` is of type {tensor.dtype}: a LoRA has floating-point numbers.")
    if any(not abs(it.item()) <= LARGEST_NUMBER for it in tensor.float().aminmax()):
        raise ValueError(
            f"`{name}` has weights that are no numbers (NaN or infinite), or beyond {LARGEST_NUMBER:g}: the file is "
            f"damaged, or its training went wrong. Get or train it again."
        )


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
        _check_header(io.BytesIO(packed))
        prompt = load(packed) if packed else {}
    except Exception as error:  # as in `read_tensors`
        raise ValueError(f"its target prompt cannot be read: {brief(error, 300)}") from None
    tokens = prompt.get("cross_attn")
    if prompt and (tokens is None or tokens.ndim != 3 or len(tokens) != 1 or tokens.dtype not in NUMBERS):
        raise ValueError("its target prompt has no `cross_attn` [1, tokens, width].")
    for name, tensor in prompt.items():
        if not tensor.numel() or not tensor.float().isfinite().all():
            raise ValueError(f"`{brief(name)}` of its target prompt is empty, or holds what is no number.")
    return prompt


def _pair(name: str, tensors: dict[str, torch.Tensor]) -> LowRankPair | None:
    """The low-rank pair of a layer; None for what is more or other than the pair of a Linear."""
    for low, high in PAIRS:
        if low not in tensors or not tensors.keys() <= {low, high, "alpha"}:
            continue
        if high not in tensors:
            raise ValueError(f"`{brief(name)}` has a lower half and no upper one.")
        down, up, alpha = tensors[low], tensors[high], tensors.get("alpha")
        if down.ndim == up.ndim == 4:
            return None
        if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
            raise ValueError(
                f"`{brief(name)}` has shapes {brief(list(down.shape))} and {brief(list(up.shape))}, not [rank, in] and "
                f"[out, rank]."
            )
        return LowRankPair(down.float(), up.float(), alpha.item() / down.shape[0] if alpha is not None else 1.0)
    return None
