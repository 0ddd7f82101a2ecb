"""Concept LoRA files: safetensors with the host's key names and what the LoRA was trained on in the metadata.

The encoded target prompt is kept in the metadata too, not as a tensor: loaders that meet a tensor they do not know
refuse the file (diffusers) or warn (the host).
"""

from __future__ import annotations

import base64
import json
import os
import re
import tempfile
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save, save_file

from .calibration import Calibration
from .lora import ConceptLoRA, LowRankPair

KEY = "unguide"  # of the one metadata entry: JSON with version, concept, training, target_prompt, calibration
VERSION = 1
LARGEST_FILE = 4_000_000_000  # bytes
LARGEST_METADATA = 50_000_000  # characters
SUFFIXES = ((".lora_down.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_B.weight"))  # kohya, peft


def save_lora(path: Path, lora: ConceptLoRA) -> None:
    """Write `lora` to `path` (made with its folder), whole or not at all."""
    tensors = {}
    for name, pair in lora.pairs.items():
        tensors[f"{name}.lora_down.weight"] = pair.down.contiguous()
        tensors[f"{name}.lora_up.weight"] = pair.up.contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(pair.alpha * pair.rank)
    about = {
        "version": VERSION,
        "concept": lora.concept,
        "training": lora.training,
        "target_prompt": base64.b64encode(save(lora.target_prompt)).decode(),
        "calibration": lora.calibration and lora.calibration.model_dump(mode="json"),
    }
    metadata = {KEY: json.dumps(about, sort_keys=True)}  # a single entry: safetensors writes several in any order
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        save_file(tensors, unfinished, metadata)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def load_lora(path: Path) -> ConceptLoRA:
    """Read a LoRA file, ours or anyone's that holds plain low-rank pairs. Nothing in it is executed.

    Raises ValueError, naming the file, when it is none.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path.name} is larger than {LARGEST_FILE} bytes: this is not a LoRA.")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        return _from_tensors(tensors, metadata)
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path.name} cannot be used as a concept LoRA: {error}") from None


def _from_tensors(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> ConceptLoRA:
    pairs = {}
    for down_suffix, up_suffix in SUFFIXES:
        for key in [key for key in tensors if key.endswith(down_suffix)]:
            name = key.removesuffix(down_suffix)
            pairs[name] = _pair(
                tensors.pop(key), tensors.pop(name + up_suffix, None), tensors.pop(f"{name}.alpha", None), name
            )
    text_encoder = re.compile(r"lora_te|text_encoder")
    tensors = {key: value for key, value in tensors.items() if not text_encoder.match(key)}
    pairs = {name: pair for name, pair in pairs.items() if not text_encoder.match(name)}
    if tensors:
        raise ValueError(f"it holds `{next(iter(tensors))}`, and only plain low-rank pairs can be switched on and off.")
    if not pairs:
        raise ValueError("it holds no low-rank pairs.")
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
    )


def _calibration(fields: dict) -> Calibration:
    try:
        return Calibration.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"its calibration is malformed: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None


def _pair(down: torch.Tensor, up: torch.Tensor | None, alpha: torch.Tensor | None, name: str) -> LowRankPair:
    if up is None:
        raise ValueError(f"`{name}` has a lower half and no upper one.")
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
        raise ValueError(
            f"`{name}` has shapes {list(down.shape)} and {list(up.shape)}, not [rank, in] and [out, rank]."
        )
    rank = down.shape[0]
    return LowRankPair(down.float(), up.float(), alpha.item() / rank if alpha is not None else 1.0)
