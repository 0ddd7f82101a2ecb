"""Where the pairs of a training hang, what they begin as, and what each becomes in the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from . import host, targets
from .branch import Branch
from .concept import EncodedConcept
from .initialisation import concept_directions, loudness
from .lora import ConceptLoRA, LowRankPair, Place
from .settings import CONCEPT_DIRECTIONS, TrainingSettings


@dataclass(frozen=True)
class Site:
    """What a pair in training becomes in the file: `name` at `place`, with `outputs`, its own from `first` on."""

    name: str
    place: Place
    first: int
    outputs: int
    trained: int

    def widened(self, pair: LowRankPair) -> LowRankPair:
        """The pair in training as the file's."""
        return pair if self.trained == self.outputs else pair.widened(self.first, self.outputs)

    def narrowed(self, pair: LowRankPair) -> LowRankPair:
        """The file's as the one in training."""
        return pair if self.trained == self.outputs else pair.narrowed(self.first, self.trained)


def training_sites(selection: targets.Selection, names: dict[Place, str]) -> dict[Place, Site]:
    """Where pairs hang in training, and what each becomes: the selected outputs of every place that has a name."""
    sites = {}
    for place, name in names.items():
        if place.path not in selection.linears:
            continue
        all_of_them = selection.linears[place.path].out_features
        outputs = place.outputs or all_of_them
        first, number = selection.rows(place.path)
        start, stop = max(first, place.first), min(first + number, place.first + outputs)
        if start < stop:
            at = Place(place.path) if stop - start == all_of_them else Place(place.path, start, stop - start)
            sites[at] = Site(name, place, start - place.first, outputs, stop - start)
    order = list(selection.linears)
    return dict(sorted(sites.items(), key=lambda it: (order.index(it[0].path), it[0].first)))


def create_pairs(
    selection: targets.Selection, sites: Iterable[Place], concept: EncodedConcept, settings: TrainingSettings,
    generator: torch.Generator,
) -> dict[Place, LowRankPair]:  # fmt: skip
    """A fresh pair at every site; those that read the prompt look at the concept."""
    linears, pairs = selection.linears, {}
    for place in sites:
        linear = linears[place.path]
        outputs = place.outputs or linear.out_features
        pairs[place] = LowRankPair.create(linear.in_features, outputs, settings.rank, settings.alpha, generator)
    if settings.initialisation == CONCEPT_DIRECTIONS:
        it = concept.concept
        meant, kept = (torch.cat([concept.tokens(prompt) for prompt in some])
                       for some in (settings.erased(it), (*it.retained, it.reference)))  # fmt: skip
        reading = any(selection.reads_the_prompt(place.path) for place in pairs)
        directions = concept_directions(meant, kept, settings.rank, settings.ridge) if reading else meant[:0]
        for place, pair in pairs.items():
            linear = linears[place.path]
            if selection.reads_the_prompt(place.path):
                said = host.layer_outputs(linear, meant)[:, place.rows]
                pair.alpha *= loudness(said, meant, directions)
                pair.down = directions.clone()
            else:  # random rows, as loud: their response to any input is N(0, 1) times its length
                pair.alpha *= host.weight_of(linear)[place.rows].square().mean().sqrt().item()
                pair.down *= settings.rank**0.5
    return pairs


def resumed_pairs(
    sites: Mapping[Place, Site], resume: ConceptLoRA, places: Mapping[str, Place], settings: TrainingSettings
) -> dict[Place, LowRankPair]:
    """The pairs to go on with, with the alphas that they were trained with.

    Raises ValueError when they hang on other layers than the settings say, or are more than pairs.
    """
    if resume.others:
        raise ValueError(
            "The LoRA to resume has parts of other kinds than low-rank pairs, which are not trained here: "
            "leave `resume` unconnected."
        )
    alphas = dict(resume.training.get("alphas", {}))
    unfolded = {name: it.unfolded(alphas.get(name) or it.alpha) for name, it in resume.pairs.items()}
    pairs = Branch.of(replace(resume, pairs=unfolded), places).pairs
    if set(pairs) != {site.place for site in sites.values()}:
        raise ValueError(
            f"The LoRA to resume hangs on {len(pairs)} layers, but `targets` = {settings.targets!r} means "
            f"{len(sites)}: choose the `targets` that it was trained with, or leave `resume` unconnected."
        )
    return {at: site.narrowed(pairs[site.place].to("cpu", torch.float32)) for at, site in sites.items()}
