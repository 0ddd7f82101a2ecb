"""Erasing LoRAs made elsewhere, made ours: the UnGuide authors', LECO's, sliders', kohya's, diffusers', peft's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from . import files
from .lora import ConceptLoRA, LowRankPair, Place
from .pickles import read_plain
from .strangers import brief, check_file

PICKLES = (".pth", ".pt", ".bin", ".ckpt")
AUTHORS_ALPHA = 8.0  # their files do not say it (paper section 3)
AUTHORS = re.compile(r".+\.lora\.[AB]")
WRAPPERS = re.compile(r"^(((base_model\.)?model\.)?(diffusion_model\.)?|unet\.|transformer\.|lora_unet_)+")


@dataclass
class Imported:
    """A LoRA under the names of this model, and what was found: its layout, and layers of text encoders left out."""

    lora: ConceptLoRA
    layout: str
    left_out: int

    def report(self) -> dict:
        """JSON-like."""
        ranks = sorted({pair.rank for pair in self.lora.pairs.values()})
        return {"layout": self.layout, "layers": len(self.lora.pairs) + len(self.lora.others), "ranks": ranks,
                "other_kinds": len(self.lora.others), "text_encoder_left_out": self.left_out}  # fmt: skip


def import_lora(path: Path, places: Mapping[str, Place], alpha: float = AUTHORS_ALPHA) -> Imported:
    """A LoRA file of any layout for the model whose layers have these `places`. Nothing in it is executed.

    `alpha` multiplies the low-rank change of the authors' files. Raises ValueError when the file is none, or has layers
    that the model lacks.
    """
    tensors, metadata = read_tensors(path)
    try:
        if tensors and all(AUTHORS.fullmatch(key) for key in tensors):
            return Imported(ConceptLoRA(_named(_authors(tensors, alpha), places)), "UnGuide authors", 0)
        dotted = {key.replace("_lora.down.", ".lora.down.").replace("_lora.up.", ".lora.up."): it
                  for key, it in tensors.items()}  # fmt: skip
        lora = files.from_tensors(dotted, metadata)
        left_out = sum(1 for key in dotted if files.TEXT_ENCODER.match(key))
        lora.pairs, lora.others = _named(lora.pairs, places), _named(lora.others, places)
        return Imported(lora, _layout(next(iter(dotted))), left_out)
    except ValueError as error:
        raise ValueError(f"{brief(path.name)} cannot be imported: {error}") from None


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a file by name, and a safetensors file's metadata. Raises ValueError, naming the file."""
    if path.suffix.lower() not in PICKLES:
        return files.read_tensors(path)
    check_file(path, files.LARGEST_FILE, "LoRA")
    try:
        return read_plain(path), {}
    except ValueError as error:
        raise ValueError(
            f"{brief(path.name)} is no file of plain tensors: {brief(error, 300)}. Code in it is never executed: "
            f"ask its maker for a safetensors file."
        ) from None


def _authors(tensors: Mapping[str, torch.Tensor], alpha: float) -> dict[str, LowRankPair]:
    """Y = W x + alpha * (x A) B with A [in, rank] and B [rank, out]."""
    halves: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        files.check_numbers(key, tensor)
        path, _, half = key.removeprefix("model.diffusion_model.").rpartition(".lora.")
        halves.setdefault(path, {})[half] = tensor
    pairs = {}
    for path, its in halves.items():
        a, b = its.get("A"), its.get("B")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
            raise ValueError(f"`{brief(path)}` has no matching A [in, rank] and B [rank, out].")
        pairs[path] = LowRankPair(a.T.float().contiguous(), b.T.float().contiguous(), alpha)
    return pairs


def _named(layers: Mapping[str, object], places: Mapping[str, Place]) -> dict:
    """The layers under names that the model knows."""
    found, unknown = {}, []
    for name, it in layers.items():
        known = next((candidate for candidate in _candidates(name) if candidate in places), None)
        if known is None:
            unknown.append(name)
        else:
            found[known] = it
    if unknown:
        raise ValueError(
            f"{len(unknown)} of its {len(layers)} layers are not in this model, `{brief(unknown[0])}` for one. Connect "
            f"the model family that it was made for."
        )
    return found


def _candidates(name: str) -> Iterator[str]:
    """A layer's name as it stands, and in the spellings of the host."""
    bare = WRAPPERS.sub("", name)
    underscored = bare.replace(".processor", "").replace(".", "_")
    yield from (name, f"lora_unet_{underscored}", f"diffusion_model.{bare}", f"transformer.{bare}", bare)


def _layout(key: str) -> str:
    if key.startswith("lora_unet_"):
        return "kohya"
    if "base_model.model." in key:
        return "peft"
    return "diffusers" if key.startswith(("unet.", "transformer.")) else "plain module names"
