"""Concept LoRA files: safetensors with the host's key names and what the LoRA was trained on in the metadata.

The encoded target prompt is kept in the metadata too, not as a tensor: loaders that meet a tensor they do not know
refuse the file (diffusers) or warn (the host).
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from .calibration import Calibration
from .lora import ConceptLoRA, LowRankPair
from .metadata import shown

KEY = "unguide"  # of our metadata entry: JSON with version, concept, training, target_prompt, calibration
VERSION = 1
LARGEST_FILE = 4_000_000_000  # bytes
LARGEST_METADATA = 50_000_000  # characters
KOHYA = "lora_unet_"
PAIRS = (
    ("lora_down.weight", "lora_up.weight"), ("lora_A.weight", "lora_B.weight"), ("lora.down.weight", "lora.up.weight"),
    ("lora_A.default.weight", "lora_B.default.weight"), ("lora_A", "lora_B"),
    ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
)  # fmt: skip
"""Suffixes of lower and upper halves: kohya's, peft's, and those of diffusers through the years."""
OTHERS = r"lora_mid\.weight|dora_scale|reshape_weight|(hada|lokr|oft)_\w+|rescale|diff|diff_b|set_weight|[wb]_norm"
LAYER = re.compile(
    rf"(?P<layer>.+?)\.(?P<suffix>alpha|{'|'.join(re.escape(it) for pair in PAIRS for it in pair)}|{OTHERS})"
)
TEXT_ENCODER = re.compile(r"lora_te|text_encoder|te[12]?\.")


def save_lora(path: Path, lora: ConceptLoRA) -> None:
    """Write `lora` to `path` (made with its folder), whole or not at all, and its preview beside it."""
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
        _write(path.with_suffix(".preview.png"), picture.getvalue())


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
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def load_lora(path: Path) -> ConceptLoRA:
    """Read a LoRA file, ours or anyone's of a kind that the host can load. Nothing in it is executed.

    Raises ValueError, naming the file, when it is none.
    """
    tensors, metadata = read_tensors(path)
    try:
        return from_tensors(tensors, metadata)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path.name} cannot be used as a concept LoRA: {error}") from None


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """A safetensors file's tensors by name, and its metadata. Raises ValueError, naming the file, when it is none."""
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path.name} is larger than {LARGEST_FILE} bytes: this is not a LoRA.")
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            return tensors, file.metadata() or {}
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path.name} cannot be used as a concept LoRA: {error}") from None


def from_tensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> ConceptLoRA:
    """A LoRA of a file's tensors and metadata. Raises ValueError for what is of no kind that the host can load."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        found = LAYER.fullmatch(key)
        if not found:
            raise ValueError(f"it holds `{key}`, which is of no kind of LoRA that the host can load.")
        if not TEXT_ENCODER.match(key):
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
    about = metadata.get(KEY, "{}")
    if len(about) > LARGEST_METADATA:
        raise ValueError(f"its metadata is longer than {LARGEST_METADATA} characters.")
    about = json.loads(about)
    packed = base64.b64decode(about.get("target_prompt", ""), validate=True)
    return ConceptLoRA(
        pairs,
        concept=dict(about.get("concept", {})),
        training=dict(about.get("training", {})),
        target_prompt=load(packed) if packed else {},
        calibration=about.get("calibration") and _calibration(about["calibration"]),
        others=others,
    )


def _calibration(fields: dict) -> Calibration:
    try:
        return Calibration.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"its calibration is malformed: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None


def _pair(name: str, tensors: dict[str, torch.Tensor]) -> LowRankPair | None:
    """The low-rank pair of a layer; None for what is more or other than the pair of a Linear."""
    for low, high in PAIRS:
        if low not in tensors or not tensors.keys() <= {low, high, "alpha"}:
            continue
        if high not in tensors:
            raise ValueError(f"`{name}` has a lower half and no upper one.")
        down, up, alpha = tensors[low], tensors[high], tensors.get("alpha")
        if down.ndim == up.ndim == 4:
            return None
        if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
            raise ValueError(
                f"`{name}` has shapes {list(down.shape)} and {list(up.shape)}, not [rank, in] and [out, rank]."
            )
        return LowRankPair(down.float(), up.float(), alpha.item() / down.shape[0] if alpha is not None else 1.0)
    return None
