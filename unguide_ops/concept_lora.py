"""`ConceptLoRA`, which training makes and LoRA files hold: low-rank pairs, their concept, the gate's calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from .lora.low_rank import LowRankPair
from .magnitude import all_finite, max_abs

if TYPE_CHECKING:
    from .concept_text import ConceptText
    from .gate.calibration import Calibration


@dataclass
class ConceptLoRA:
    """A LoRA that erases a concept: `pairs` by their layers' names in the file, and what it was trained on.

    `concept` (`Concept`) and `training` (`TrainingConfig` and more) are dicts of JSON values, empty for a LoRA that
    another tool trained. `target_prompt` is the encoded target prompt as {"cross_attn": [1, tokens, width], ...}, which
    the gate compares other prompts with; `text` is what the text encoder alone tells of the concept; `calibration`
    holds the gate's scores of known prompts. `other_tensors` holds what low-rank pairs cannot express in LoRAs from
    other tools (convolutions, LoHa, LoKr, DoRA, whole weights): the file's tensors by layer and then by suffix.
    """

    pairs: Mapping[str, LowRankPair]
    concept: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    target_prompt: dict[str, torch.Tensor] = field(default_factory=dict)
    calibration: Calibration | None = None
    other_tensors: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    preview: torch.Tensor | None = None  # [H, W, 3] in [0, 1], stored beside the file
    text: ConceptText | None = None

    def without_prompts(self) -> ConceptLoRA:
        """A copy without the concept's prompts and preview. The encoded target prompt stays: the gate needs it."""
        return replace(self, concept={}, preview=None)

    @property
    def is_zero(self) -> bool:
        """Whether the LoRA changes nothing, as before training."""
        effects = (bool(max_abs(pair.up) and max_abs(pair.down) and pair.scale) for pair in self.pairs.values())
        return not self.other_tensors and not any(effects)

    @property
    def is_finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        tensors = [tensor for pair in self.pairs.values() for tensor in (pair.up, pair.down)]
        tensors += [tensor for by_suffix in self.other_tensors.values() for tensor in by_suffix.values()]
        return all(map(all_finite, tensors))
