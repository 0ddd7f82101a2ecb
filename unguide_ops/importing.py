"""Erasing LoRAs made elsewhere, made ours: the UnGuide authors', LECO's, sliders', kohya's, diffusers', peft's."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from . import files, host, layouts
from .layouts import LeftOut
from .lora import ConceptLoRA, LowRankPair, StoredPair
from .pickles import read_plain
from .strangers import brief, check_file

AUTHORS_ALPHA = 8.0  # their files do not say it (paper section 3)
AUTHORS = re.compile(r".+\.lora\.[AB]")
WRAPPERS = re.compile(
    r"((base_model|model|diffusion_model|unet|transformer|dit|prior|module|_orig_mod|pipe)\.|"
    r"lora_unet__?|lora_transformer_|lora_prior_unet_|lycoris_(unet_)?)+"
)
"""What tools write before a layer's own name."""


@dataclass
class Imported:
    """A LoRA under the names of this model, and what was found: its layout, and by reason what cannot act and why."""

    lora: ConceptLoRA
    layout: str
    left_out: LeftOut = field(default_factory=dict)

    def report(self) -> dict:
        """JSON-like."""
        ranks = sorted({pair.rank for pair in self.lora.pairs.values()})
        return {"layout": self.layout, "layers": len({*self.lora.pairs, *self.lora.others}), "ranks": ranks,
                "other_kinds": len(self.lora.others),
                "text_encoder_left_out": len(self.left_out.get(layouts.TEXT_ENCODERS, ())),
                "embeddings_left_out": len(self.left_out.get(layouts.EMBEDDINGS, ())),
                "left_out": layouts.in_report(self.left_out)}  # fmt: skip


def import_lora(path: Path, names: Collection[str], alpha: float = AUTHORS_ALPHA) -> Imported:
    """A LoRA file of any layout for the model that knows its layers by these `names`. Nothing in it is executed.

    `alpha` multiplies the low-rank change of the authors' files. What cannot act is left out, logged and listed. Raises
    ValueError when the file is no LoRA, or the model has none of its layers.
    """
    tensors, metadata = read_tensors(path)
    left_out: LeftOut = {}
    try:
        if tensors and all(AUTHORS.fullmatch(key) for key in tensors):
            layout, lora = "UnGuide authors", ConceptLoRA(_authors(tensors, alpha))
        else:
            lora, left_out = files.from_tensors(host.converted(tensors), metadata)
            layout = _layout(next(iter((*lora.pairs, *lora.others))))
        _rename(lora, names, left_out)
    except ValueError as error:
        raise ValueError(f"{brief(path.name)} cannot be imported: {error}") from None
    files.warn_of(left_out, brief(path.name))
    return Imported(lora, layout, left_out)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a file by name, and a safetensors file's metadata. Raises ValueError, naming the file."""
    if path.suffix.lower() not in files.PICKLES:
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
        layouts.check_numbers(key, tensor)
        path, _, half = key.removeprefix("model.diffusion_model.").rpartition(".lora.")
        halves.setdefault(path, {})[half] = tensor
    pairs: dict[str, LowRankPair] = {}
    for path, its in halves.items():
        a, b = its.get("A"), its.get("B")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
            raise ValueError(f"`{brief(path)}` has no matching A [in, rank] and B [rank, out].")
        layouts.check_rank(path, a.shape[1], a.shape[0], b.shape[1])
        pairs[path] = StoredPair(a.T.contiguous(), b.T.contiguous(), alpha)
    return pairs


def _rename(lora: ConceptLoRA, names: Collection[str], left_out: LeftOut) -> None:
    """Give layers names that the model knows, and leave out what it does not have. Raises ValueError if that is all."""
    known = sorted(names, key=lambda it: not it.startswith(files.KOHYA))  # which most loaders read
    spelt = {_bare(name): name for name in reversed(known)}
    exact = set(known)
    layers = list(dict.fromkeys((*lora.pairs, *lora.others)))
    found: dict[str, str] = {}  # the file's names by the model's
    lacking, twice, seen = [], [], set()
    for layer in layers:
        bare = _bare(layer)
        if bare not in spelt:
            lacking.append(layer)
        elif bare in seen:
            twice.append(layer)
        else:
            seen.add(bare)
            found[layer if layer in exact else spelt[bare]] = layer
    if not found:
        raise ValueError(
            f"{len(lacking)} of its {len(layers)} layers are not in this model, `{brief(lacking[0])}` for one. Connect "
            f"the model family that it was made for. If that is connected, its maker's names for "
            f"layers are not known here: get it in ComfyUI's, kohya's or diffusers' names."
        )
    left_out.update({why: its for why, its in ((layouts.NO_LAYER, lacking), (layouts.TWICE, twice)) if its})
    lora.pairs = {name: lora.pairs[layer] for name, layer in found.items() if layer in lora.pairs}
    lora.others = {name: lora.others[layer] for name, layer in found.items() if layer in lora.others}


def _bare(name: str) -> str:
    """A layer's name without what tools write before it and between its parts: one for all spellings of a model."""
    wrapped = WRAPPERS.match(name)
    bare = name[wrapped.end() if wrapped else 0 :].replace(".processor.", ".").replace(".", "_")
    return f"{bare}_0" if bare.endswith("_to_out") else bare


def _layout(key: str) -> str:
    layouts_of = {"lora_unet_": "kohya", "lora_transformer_": "OneTrainer", "lycoris_": "LyCORIS"}
    for start, layout in layouts_of.items():
        if key.startswith(start):
            return layout
    if "base_model.model." in key:
        return "peft"
    return "diffusers" if key.startswith(("unet.", "transformer.")) else "plain module names"
