"""A concept LoRA fitted to a MODEL: what it is made of, on the layers that are there."""

from __future__ import annotations

from dataclasses import replace

from . import host
from .branch import Branch
from .lora import ConceptLoRA


def branch_of(model, lora: ConceptLoRA) -> Branch:
    """The branch of a concept LoRA on MODEL: low-rank pairs where they can carry it, changed weights elsewhere.

    Raises ValueError when the model lacks a layer that the LoRA was made for.
    """
    places, lora = host.places(model), _as_carried(model, lora)
    return Branch.of(lora, places, host.weight_changes(model, lora.others) if lora.others else None)


def _as_carried(model, lora: ConceptLoRA) -> ConceptLoRA:
    """The same, with no pair for what is no Linear, such as a convolution of 1 x 1, or no layer's own weight."""
    places, known = host.places(model), {*host.layer_names(model)}
    pairs, others = {}, {name: dict(its) for name, its in lora.others.items()}
    with host.as_in_its_file(model) as network:
        layers = {name: network.get_submodule(it.path) for name, it in places.items() if name in lora.pairs}
    for name, pair in lora.pairs.items():
        linear = hasattr(layers[name], "in_features") if name in layers else name not in known
        if linear:  # or not there, which is said where it is attached
            pairs[name] = pair
        else:
            others[name] = others.get(name, {}) | pair.in_file()
    return replace(lora, pairs=pairs, others=others)
