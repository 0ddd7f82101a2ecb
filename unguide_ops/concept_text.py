"""A concept in encoded prompts: how plainly a prompt names it, and the same prompt with its reference in its place.

Both come from the text encoder alone, without a model call. Pure torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear

from .concept import EMPTY_PROMPT, Concept, evenly_picked
from .lora.initialisation import closed_form_up, concept_directions

if TYPE_CHECKING:
    from .host.types import Conditioning

Encoded = Mapping[str, torch.Tensor]
"""An encoded prompt as `host.pack_conditioning` has it: `cross_attn` [1, tokens, width], and what else there is."""

TOKENS = "cross_attn"
RANK = 4
RIDGE = 1.0
"""See `concept_directions`. Higher than in training: here the directions are to respond to names never seen as well."""

MOST_NAMES = 16  # of the concept; evenly picked
MOST_PRESERVED, MOST_UNRELATED = 32, 80
MOST_ROWS = 20_000  # tokens of prompts that do not mean the concept; language models' are wide


@dataclass(frozen=True)
class TextMap:
    """Directions in which a concept lies in encoded prompts, and what to add for each to have its reference instead.

    directions: [rank, width], fp32. change: [width, rank], fp32. `x + change @ directions @ x` is the token x with the
    reference in the concept's place.
    """

    directions: torch.Tensor
    change: torch.Tensor

    @classmethod
    def fitted(cls, erased: Sequence[torch.Tensor], reference: torch.Tensor, preserved: torch.Tensor) -> TextMap:
        """The map from each prompt in `erased` [tokens, width] to `reference` that leaves `preserved` rows alone."""
        concept = torch.cat([*erased])
        directions = concept_directions(concept, preserved, RANK, RIDGE)
        wanted = torch.cat([stretched(reference, len(tokens)) for tokens in erased]) - concept
        return cls(directions, closed_form_up(linear(concept, directions), linear(preserved, directions), wanted))

    def swapped(self, x: torch.Tensor) -> torch.Tensor:
        """Rows [..., width] with the reference in the concept's place, in their own dtype and on their device."""
        rows = x.float()
        return (rows + linear(linear(rows, self.directions.to(rows)), self.change.to(rows))).to(x)


@dataclass(frozen=True)
class ConceptText:
    """What the text encoder alone tells of a concept.

    maps: by the keys of an encoded prompt, a `TextMap` of its tokens, and of its pooled vector if there is one.
    names: [names, rank], fp32: for each name of the concept, the row whose product with a token's directions is the
        token's response in units of that name's own.
    reference, empty: the encoded reference prompt, and the empty one.
    """

    maps: Mapping[str, TextMap]
    names: torch.Tensor
    reference: Encoded
    empty: Encoded

    @classmethod
    def of(cls, concept: Concept, encode: Callable[[str], Encoded], unrelated: Sequence[str]) -> ConceptText | None:
        """Fitted to a concept's prompts; `unrelated` prompts are left alone as well as those it retains.

        None if the encoder gives more than tokens and a pooled vector, of which the concept could be read too.
        """
        names = [encode(prompt) for prompt in evenly_picked(concept.erased, MOST_NAMES)]
        reference = encode(concept.reference)
        if any(it.is_floating_point() and it.ndim > 3 for it in reference.values()):
            return None
        kept = [*evenly_picked(concept.retained, MOST_PRESERVED), *evenly_picked(tuple(unrelated), MOST_UNRELATED)]
        preserved = [reference, *map(encode, kept)]
        maps = {}
        for key, value in reference.items():
            if value.is_floating_point() and value.ndim >= 2:
                step = -(-sum(len(_rows(it[key])) for it in preserved) // MOST_ROWS)
                rows = torch.cat([_rows(it[key])[::step] for it in preserved])
                maps[key] = TextMap.fitted([_rows(it[key]) for it in names], _rows(value), rows)
        responses = [linear(_rows(it[TOKENS]), maps[TOKENS].directions) for it in names]
        strongest = torch.stack([it[it.norm(dim=1).argmax()] for it in responses])
        return cls(maps, strongest / strongest.square().sum(1, keepdim=True), reference, encode(EMPTY_PROMPT))

    def swapped(self, encoded: Mapping[str, object]) -> dict[str, torch.Tensor] | None:
        """The parts of an encoded prompt that change, with the reference in the concept's place.

        None for another encoder's: if there are no tokens, or a part has another width.
        """
        parts = {key: encoded.get(key) for key in self.maps}
        fitting = {
            key: it
            for key, it in parts.items()
            if isinstance(it, torch.Tensor) and it.shape[-1] == self.maps[key].directions.shape[1]
        }
        if TOKENS not in fitting or any(it is not None and key not in fitting for key, it in parts.items()):
            return None
        return {key: self.maps[key].swapped(it) for key, it in fitting.items()}

    def response(self, tokens: object) -> torch.Tensor | None:
        """How plainly encoded prompts [B, tokens, width] name the concept: 1 as the names it knows, 0 not at all. [B].

        The response of the token that responds most, as a name may be one word of many. None for another encoder's.
        """
        directions = self.maps[TOKENS].directions
        if not isinstance(tokens, torch.Tensor) or tokens.ndim != 3 or tokens.shape[-1] != directions.shape[1]:
            return None
        responses = linear(tokens.float(), directions.to(tokens.device))
        return linear(responses, self.names.to(tokens.device)).amax((1, 2))

    def response_to(self, conditioning: Conditioning) -> float | None:
        """How plainly one encoded prompt names the concept, in the part that does most; None if it cannot be read."""
        responses = [it for it in (self.response(tokens) for tokens, _ in conditioning) if it is not None]
        return max(it.max().item() for it in responses) if len(responses) == len(conditioning) else None

    def listening(
        self, encode: Callable[[str], Conditioning], heard: dict[str, float | None]
    ) -> Callable[[str], Conditioning]:
        """`encode`, which also notes in `heard` how plainly each prompt names the concept, so that none is kept."""

        def encoded(prompt: str) -> Conditioning:
            conditioning = encode(prompt)
            heard[prompt] = self.response_to(conditioning)
            return conditioning

        return encoded

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it as tensors, for a file."""
        of_maps = {
            f"{key}.{name}": tensor.contiguous()
            for key, it in self.maps.items()
            for name, tensor in (("directions", it.directions), ("change", it.change))
        }
        prompts = {"reference": self.reference, "empty": self.empty}
        encoded = {f"{name}.{key}": it for name, prompt in prompts.items() for key, it in prompt.items()}
        return {"names": self.names, **of_maps, **encoded}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> ConceptText:
        """The inverse of `tensors`. Raises ValueError if they do not fit together."""
        reference, empty = (
            {key.removeprefix(prefix): it for key, it in tensors.items() if key.startswith(prefix)}
            for prefix in ("reference.", "empty.")
        )
        keys = [key.removesuffix(".directions") for key in tensors if key.endswith(".directions")]
        try:
            maps = {key: TextMap(tensors[f"{key}.directions"], tensors[f"{key}.change"]) for key in keys}
            names = tensors["names"]
            for key, it in maps.items():
                rank, width = it.directions.shape
                if it.change.shape != (width, rank) or reference[key].shape[-1] != width:
                    raise ValueError(f"`{key}` has parts of different shapes")
            if names.ndim != 2 or names.shape[1] != len(maps[TOKENS].directions):
                raise ValueError("`names` has another rank than the directions of the tokens")
            if any(it.dtype != torch.float32 for key in keys for it in (maps[key].directions, maps[key].change, names)):
                raise ValueError("a part of it is not in single precision")
        except KeyError as error:
            raise ValueError(f"{error} is missing") from None
        return cls(maps, names, reference, empty)


def stretched(rows: torch.Tensor, number: int) -> torch.Tensor:
    """So many rows, each the one at the same share of the way through `rows` [M, width]."""
    return rows[torch.arange(number) * len(rows) // number]


def _rows(encoded: torch.Tensor) -> torch.Tensor:
    """An encoded prompt [1, tokens, width], or a pooled vector [1, width], as rows in fp32."""
    return encoded.float().reshape(-1, encoded.shape[-1])
