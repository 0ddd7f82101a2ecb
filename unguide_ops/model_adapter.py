"""`adapter_for`: the adapter that applies a concept LoRA to a MODEL."""

from __future__ import annotations

from dataclasses import replace

from . import host
from .concept_lora import ConceptLoRA
from .host.types import Model
from .lora.adapter import LoRAAdapter


def adapter_for(model: Model, lora: ConceptLoRA) -> LoRAAdapter:
    """An adapter for a concept LoRA on MODEL: low-rank pairs on its Linears, changed weights for everything else.

    Raises ValueError if the model lacks a layer that the LoRA was made for.
    """
    lora = _with_pairs_for_linears(model, lora)
    changes = host.weight_changes(model, lora.other_tensors) if lora.other_tensors else None
    return LoRAAdapter.of(lora.pairs, host.layer_slices(model), changes)


def _with_pairs_for_linears(model: Model, lora: ConceptLoRA) -> ConceptLoRA:
    """A copy of the LoRA whose pairs for layers other than Linears are among its `other_tensors`.

    Such layers are 1 x 1 convolutions, for example. Pairs for layers that the model does not have stay pairs:
    `LoRAAdapter.of` refuses them.
    """
    layer_slices, weight_names = host.layer_slices(model), {*host.layer_names(model)}
    pairs, other_tensors = {}, {name: dict(tensors) for name, tensors in lora.other_tensors.items()}
    with host.original_modules(model) as network:
        layers = {name: network.get_submodule(layer_slices[name].path) for name in lora.pairs if name in layer_slices}
    for name, pair in lora.pairs.items():
        if hasattr(layers[name], "in_features") if name in layers else name not in weight_names:
            pairs[name] = pair
        else:
            other_tensors[name] = other_tensors.get(name, {}) | pair.in_file()
    return replace(lora, pairs=pairs, other_tensors=other_tensors)
