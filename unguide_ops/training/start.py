"""The LoRA that a training starts from: the paper's, which changes nothing, or one that already means the concept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from .. import host
from ..concept import Concept
from ..concept_text import stretched
from ..lora.initialisation import closed_form_up, concept_directions, output_scale
from ..lora.low_rank import LayerSlice, LowRankPair
from ..lora.target_layers import TargetLayers, reads_text
from .config import TrainingConfig
from .layer_inputs import LayerInputs


def create_pairs(
    selection: TargetLayers, slices: Iterable[LayerSlice], config: TrainingConfig, generator: torch.Generator
) -> dict[LayerSlice, LowRankPair]:
    """A new pair for each slice to train, which changes nothing yet, with random directions; fp32 on the CPU."""
    pairs = {}
    for layer_slice in slices:
        linear = selection.linears[layer_slice.path]
        outputs = layer_slice.outputs or linear.out_features
        pairs[layer_slice] = LowRankPair.create(linear.in_features, outputs, config.rank, config.alpha, generator)
    return pairs


def start_from_concept(
    pairs: Mapping[LayerSlice, LowRankPair], selection: TargetLayers, layer_inputs: LayerInputs, concept: Concept,
    config: TrainingConfig,
) -> None:  # fmt: skip
    """Give new pairs the concept's directions in what their layers read, and a change that is right to begin with.

    It takes what a layer gives for the concept's prompts to what it gives for the reference (`closed_form_up`). That is
    for layers that read the text. Those that read the picture keep random directions: in the mean over a picture the
    concept's directions were no better than these, and training wrecked other prompts from there. Scales are adapted to
    the layers' outputs.
    """
    readers = readers_of_text(selection, layer_inputs, concept)
    erased = [layer_inputs.under(prompt, readers) for prompt in config.erased(concept)] if readers else [{}]
    told = {path for path in erased[0] if any(inputs[path].any() for inputs in erased)}
    for layer_slice, pair in pairs.items():
        if layer_slice.path not in told:  # the response of random rows to any input is N(0, 1) times its norm
            weight = host.weight_of(selection.linears[layer_slice.path])[layer_slice.rows]
            pair.scale *= weight.square().mean().sqrt().item()
            pair.down *= config.rank**0.5
    if not told:
        return
    reference = layer_inputs.under(concept.reference, readers)
    preserved = [reference, *(layer_inputs.under(prompt, readers) for prompt in concept.retained)]

    def read_by(path: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What a layer reads of the concept [N, width], its directions, and their responses to what is preserved."""
        of_concept, of_preserved = (torch.cat([it[path] for it in inputs]).float() for inputs in (erased, preserved))
        where = layer_inputs.device_for_products
        directions = concept_directions(of_concept, of_preserved.to(where), config.rank, config.ridge)
        return of_concept, directions, of_preserved @ directions.T

    read: dict[int, tuple] = {}  # by the input, which many layers share
    for layer_slice, pair in pairs.items():
        if (path := layer_slice.path) not in told:
            continue
        key = id(erased[0][path])
        if key not in read:
            read[key] = read_by(path)
        of_concept, directions, to_preserved = read[key]
        pair.down = directions.clone()
        linear, rows = readers[path], layer_slice.rows
        outputs = host.layer_outputs(linear, of_concept)[:, rows]
        pair.scale *= output_scale(outputs, of_concept, pair.down)
        of_reference = host.layer_outputs(linear, reference[path])[:, rows]
        wanted = torch.cat([stretched(of_reference, len(inputs[path])) for inputs in erased]) - outputs
        change = closed_form_up(of_concept @ directions.T, to_preserved, wanted)
        pair.up = (1 + config.negative_guidance) * change / pair.scale


def readers_of_text(selection: TargetLayers, layer_inputs: LayerInputs, concept: Concept) -> dict[str, torch.nn.Linear]:
    """The selected Linears that read the text: as the model's family is known to, or as the model itself shows."""
    known = {path: it for path, it in selection.linears.items() if reads_text(selection.family, path)}
    others = {path: it for path, it in selection.linears.items() if path not in known}
    if others:
        known |= layer_inputs.that_read_text_alone(others, concept.target, concept.reference)
    return known
