"""The slices of layers that a training changes, and the pairs that they become in the file.

Loaders expect certain names in LoRA files, and a name may stand for more outputs than are trained. So the pair of a
slice in training may differ from the pair in the file by outputs that stay unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..concept_lora import ConceptLoRA
from ..lora.adapter import LoRAAdapter
from ..lora.low_rank import LayerSlice, LowRankPair
from ..lora.target_layers import TargetLayers
from .config import TrainingConfig


@dataclass(frozen=True)
class TrainedSlice:
    """What the pair of a slice in training becomes in the file.

    There it is called `name` and changes `layer_slice`, whose number of outputs is `outputs`. Of these, `trained` from
    `first` on are trained.
    """

    name: str
    layer_slice: LayerSlice
    first: int
    outputs: int
    trained: int

    def widened(self, pair: LowRankPair) -> LowRankPair:
        """The pair for the file from the one in training."""
        return pair if self.trained == self.outputs else pair.widened(self.first, self.outputs)

    def narrowed(self, pair: LowRankPair) -> LowRankPair:
        """The pair to train from the one in a file."""
        return pair if self.trained == self.outputs else pair.narrowed(self.first, self.trained)


def trained_slices(selection: TargetLayers, names: dict[LayerSlice, str]) -> dict[LayerSlice, TrainedSlice]:
    """The slices to train, in the order of the selected layers, and what each becomes in the file.

    `names` are those of the model's slices in LoRA files (`host.names_in_files`).
    """
    slices = {}
    for layer_slice, name in names.items():
        path = layer_slice.path
        if path not in selection.linears:
            continue
        layer_outputs = selection.linears[path].out_features
        outputs = layer_slice.outputs or layer_outputs
        first, number = selection.trained_outputs(path)
        start, stop = max(first, layer_slice.first), min(first + number, layer_slice.first + outputs)
        if start < stop:
            trained = LayerSlice(path) if stop - start == layer_outputs else LayerSlice(path, start, stop - start)
            slices[trained] = TrainedSlice(name, layer_slice, start - layer_slice.first, outputs, stop - start)
    order = list(selection.linears)
    return dict(sorted(slices.items(), key=lambda item: (order.index(item[0].path), item[0].first)))


def resumed_pairs(
    slices: Mapping[LayerSlice, TrainedSlice],
    resume: ConceptLoRA,
    layer_slices: Mapping[str, LayerSlice],
    config: TrainingConfig,
) -> dict[LayerSlice, LowRankPair]:
    """The pairs of a LoRA for training it further, fp32 on the CPU, with the scales that they were trained with.

    `layer_slices` are the model's, by their names in LoRA files. Raises ValueError if the LoRA changes other layers
    than `config` selects, or has other tensors than low-rank pairs.
    """
    if resume.other_tensors:
        raise ValueError(
            "The LoRA to resume has parts that are not low-rank pairs, which cannot be trained here: leave `resume` "
            "unconnected."
        )
    alphas = dict(resume.training.get("alphas", {}))
    rescaled = {name: pair.with_scale(alphas.get(name) or pair.scale) for name, pair in resume.pairs.items()}
    pairs = LoRAAdapter.of(rescaled, layer_slices).pairs
    if set(pairs) != {trained.layer_slice for trained in slices.values()}:
        raise ValueError(
            f"The LoRA to resume changes {len(pairs)} layers, but `targets` = {config.targets!r} means "
            f"{len(slices)}: choose the `targets` that it was trained with, or leave `resume` unconnected."
        )
    return {
        layer_slice: trained.narrowed(pairs[trained.layer_slice].to("cpu", torch.float32))
        for layer_slice, trained in slices.items()
    }
