"""What is weighed against the base model's prediction: by the LoRA, or by the base model under another prompt.

In `e = w * e_base + (1 - w) * e_lora`, `e_lora` may also be the base model's own prediction under the prompt with its
concept swapped for the reference, or under the reference prompt. Then the LoRA only tells, in the gate, which prompts
mean the concept.
"""

from __future__ import annotations

from functools import partial

from .. import host
from ..concept_lora import ConceptLoRA
from ..concept_text import TOKENS, ConceptText
from ..gate.calibration import HIGHEST_THRESHOLD
from .config import BLEND, REPLACE


def add_prompts(run: host.SamplingRun, name: str, lora: ConceptLoRA, instead: str, whatever_they_say: bool) -> str:
    """Add the changed prompts of a run to it under a name, and return the name: "" if the LoRA predicts.

    `whatever_they_say`: every prompt is replaced by the reference, as none of the words can be trusted. Raises
    ValueError if the LoRA does not know its reference, or a prompt has no text to change.
    """
    text = lora.text
    if whatever_they_say and text is not None:
        run.add_changed_prompts(name, lambda entry, _: _replaced(text, entry))
        return name
    if instead == BLEND:
        return ""
    if text is None:
        raise ValueError(
            f"`instead` is {instead!r}, but this LoRA does not know what its reference looks like in encoded prompts. "
            f"Put UnGuide Calibrate after it, or set `instead` to {BLEND!r}."
        )
    run.add_changed_prompts(name, partial(_changed, text, instead))
    return name


def _changed(text: ConceptText, instead: str, entry: dict, only_one: bool) -> dict:
    """A prompt's entry with the concept swapped for the reference, or replaced by the reference prompt.

    A prompt that still names the concept after the swap is replaced as well. Of several prompts, only those that name
    the concept are replaced.
    """
    response, swapped = text.response(entry.get(TOKENS)), text.swapped(entry)
    if response is None or swapped is None:
        raise ValueError(
            f"`instead` is {instead!r}, but a prompt of this run has no text that this LoRA can read: it was encoded "
            f"for another model, or by a node of its own. Set `instead` to {BLEND!r}."
        )
    if instead == REPLACE:
        return _replaced(text, entry) if only_one or response.max() > HIGHEST_THRESHOLD else entry
    remaining = text.response(swapped[TOKENS])
    if remaining is not None and remaining.max() > HIGHEST_THRESHOLD:
        return _replaced(text, entry)
    return {**entry, **swapped}


def _replaced(text: ConceptText, entry: dict) -> dict:
    ((tokens, extras),) = host.unpack_conditioning(text.reference)
    return {**entry, **extras, TOKENS: tokens}
