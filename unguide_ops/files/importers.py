"""Import erasing LoRAs made elsewhere: the UnGuide authors', LECO's, sliders', kohya's, diffusers' and peft's files."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .. import host
from ..concept_lora import ConceptLoRA
from ..lora.low_rank import LowRankPair, StoredPair
from ..safe_text import printable
from ..untrusted import check_file
from . import layouts, lora_file
from .layouts import LeftOut
from .torch_pickle import read_torch_pickle

AUTHORS_ALPHA = 8.0  # the paper's (section 3); the authors' files do not hold it
AUTHORS_KEY = re.compile(r".+\.lora\.[AB]")
PREFIXES = re.compile(
    r"((base_model|model|diffusion_model|unet|transformer|dit|prior|module|_orig_mod|pipe)\.|"
    r"lora_unet__?|lora_transformer_|lora_prior_unet_|lycoris_(unet_)?)+"
)
"""What tools write before a layer's own name."""


@dataclass
class ImportedLoRA:
    """A LoRA with this model's layer names, the layout of its file, and what in the file cannot act."""

    lora: ConceptLoRA
    layout: str
    left_out: LeftOut = field(default_factory=dict)

    def report(self) -> dict:
        """The report of an import, as JSON data."""
        ranks = sorted({pair.rank for pair in self.lora.pairs.values()})
        return {"layout": self.layout, "layers": len({*self.lora.pairs, *self.lora.other_tensors}), "ranks": ranks,
                "other_kinds": len(self.lora.other_tensors),
                "text_encoder_left_out": len(self.left_out.get(layouts.TEXT_ENCODERS, ())),
                "embeddings_left_out": len(self.left_out.get(layouts.EMBEDDINGS, ())),
                "left_out": layouts.left_out_report(self.left_out)}  # fmt: skip


def import_lora(path: Path, model_layers: Collection[str], alpha: float = AUTHORS_ALPHA) -> ImportedLoRA:
    """Read a LoRA file of any layout for the model with these names of layers. No code in it is executed.

    `alpha` scales the low-rank change of the authors' files. What cannot act is left out, logged and listed. Raises
    ValueError if the file is not a LoRA, or if the model has none of its layers.
    """
    tensors, metadata = read_tensors(path)
    left_out: LeftOut = {}
    try:
        if tensors and all(AUTHORS_KEY.fullmatch(key) for key in tensors):
            layout, lora = "UnGuide authors", ConceptLoRA(_authors_pairs(tensors, alpha))
        else:
            lora, left_out = lora_file.lora_from_tensors(host.host_key_names(tensors), metadata)
            layout = _layout(next(iter((*lora.pairs, *lora.other_tensors))))
        _rename_layers(lora, model_layers, left_out)
    except ValueError as error:
        raise ValueError(f"{printable(path.name)} cannot be imported: {error}") from None
    lora_file.warn_of_left_out(left_out, printable(path.name))
    return ImportedLoRA(lora, layout, left_out)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of a file by name, and a safetensors file's metadata. Raises ValueError, naming the file."""
    if path.suffix.lower() not in lora_file.PICKLE_SUFFIXES:
        return lora_file.read_tensors(path)
    check_file(path, lora_file.LARGEST_FILE, "LoRA")
    try:
        return read_torch_pickle(path), {}
    except ValueError as error:
        raise ValueError(
            f"{printable(path.name)} is not a file of plain tensors: {printable(error, 300)}. Code in it is never "
            f"executed: ask its maker for a safetensors file."
        ) from None


def _authors_pairs(tensors: Mapping[str, torch.Tensor], alpha: float) -> dict[str, LowRankPair]:
    """The pairs of the authors' layout: y = W x + alpha * (x A) B with A [in, rank] and B [rank, out]."""
    by_layer: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        layouts.check_tensor(key, tensor)
        layer, _, letter = key.removeprefix("model.diffusion_model.").rpartition(".lora.")
        by_layer.setdefault(layer, {})[letter] = tensor
    pairs: dict[str, LowRankPair] = {}
    for layer, matrices in by_layer.items():
        a, b = matrices.get("A"), matrices.get("B")
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
            raise ValueError(f"`{printable(layer)}` has no matching A [in, rank] and B [rank, out].")
        layouts.check_rank(layer, a.shape[1], a.shape[0], b.shape[1])
        pairs[layer] = StoredPair(a.T.contiguous(), b.T.contiguous(), alpha)
    return pairs


def _rename_layers(lora: ConceptLoRA, model_layers: Collection[str], left_out: LeftOut) -> None:
    """Rename a LoRA's layers as the model does, and leave out those that it lacks. Raises ValueError if none remain."""
    # kohya's names first, which most loaders read
    names = sorted(model_layers, key=lambda name: not name.startswith(lora_file.KOHYA_PREFIX))
    exact_names = set(names)
    name_by_bare = {bare_name(name): name for name in reversed(names)}
    file_layers = list(dict.fromkeys((*lora.pairs, *lora.other_tensors)))
    renamed: dict[str, str] = {}  # the model's name -> the file's
    missing, duplicates, bare_names = [], [], set()
    for layer in file_layers:
        bare = bare_name(layer)
        if bare not in name_by_bare:
            missing.append(layer)
        elif bare in bare_names:
            duplicates.append(layer)
        else:
            bare_names.add(bare)
            renamed[layer if layer in exact_names else name_by_bare[bare]] = layer
    if not renamed:
        raise ValueError(
            f"{len(missing)} of its {len(file_layers)} layers are not in this model, `{printable(missing[0])}` for "
            f"one. Connect the model family that it was made for. If that is connected, the file names its layers "
            f"in an unknown way: get it with ComfyUI's, kohya's or diffusers' names."
        )
    reasons = ((layouts.NO_LAYER, missing), (layouts.DUPLICATE_LAYERS, duplicates))
    left_out.update({reason: layers for reason, layers in reasons if layers})
    lora.pairs = {name: lora.pairs[layer] for name, layer in renamed.items() if layer in lora.pairs}
    lora.other_tensors = {
        name: lora.other_tensors[layer] for name, layer in renamed.items() if layer in lora.other_tensors
    }


def bare_name(name: str) -> str:
    """A layer's name without the prefixes and separators of tools: the same for all spellings of it."""
    prefix = PREFIXES.match(name)
    bare = name[prefix.end() if prefix else 0 :].replace(".processor.", ".").replace(".", "_")
    return f"{bare}_0" if bare.endswith("_to_out") else bare


def _layout(key: str) -> str:
    by_prefix = {"lora_unet_": "kohya", "lora_transformer_": "OneTrainer", "lycoris_": "LyCORIS"}
    for prefix, layout in by_prefix.items():
        if key.startswith(prefix):
            return layout
    if "base_model.model." in key:
        return "peft"
    return "diffusers" if key.startswith(("unet.", "transformer.")) else "plain module names"
