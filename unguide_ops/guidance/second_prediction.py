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
from .config import BLEND, SWAP

NAMES_IT = 0.5
"""Of several prompts of a run, those name the concept whose words respond as much, or more than all the others do."""


def add_prompts(run: host.SamplingRun, name: str, lora: ConceptLoRA, instead: str, whatever_they_say: bool) -> str:
    """Add the changed prompts of a run to it under a name, and return the name: "" if the LoRA predicts.

    `whatever_they_say`: every prompt is replaced by the reference, as none of the words can be trusted. Raises
    ValueError if the LoRA does not know its reference, or a prompt has no text to change.
    """
    known = lora.text
    if whatever_they_say and known is not None:
        run.add_changed_prompts(name, lambda entry: _replaced(known, entry))
        return name
    if instead == BLEND:
        return ""
    text = text_of_concept(lora, "instead")
    named = min(NAMES_IT, max((_response(text, entry) for entry in run.positive_entries), default=NAMES_IT))

    def changed(entry: dict) -> dict:
        return _replaced(text, entry) if _response(text, entry) >= named else entry

    run.add_changed_prompts(name, partial(_swapped, text) if instead == SWAP else changed)
    return name


def text_of_concept(lora: ConceptLoRA, setting: str) -> ConceptText:
    """What the LoRA knows of its concept's text. Raises ValueError, naming the setting that needs it, if nothing."""
    if lora.text is None:
        raise ValueError(
            f"`{setting}` needs what the concept looks like in encoded prompts, which this LoRA does not know. Put "
            f"UnGuide Calibrate after it, or leave `{setting}` at its default."
        )
    return lora.text


def _response(text: ConceptText, entry: dict) -> float:
    """How plainly a prompt names the concept, in the picture where it does most. Raises ValueError without a text."""
    response = text.response(entry.get(TOKENS))
    if response is None:
        raise _no_text_error()
    return response.max().item()


def _swapped(text: ConceptText, entry: dict) -> dict:
    """A prompt's entry with the reference in the concept's place; the reference prompt, if that still names it."""
    swapped = text.swapped(entry)
    if swapped is None:
        raise _no_text_error()
    changed = {**entry, **swapped}
    return _replaced(text, entry) if _response(text, changed) >= NAMES_IT else changed


def _no_text_error() -> ValueError:
    return ValueError(
        f"A prompt of this run has no text that this LoRA can read: it was encoded for another model, or by a node of "
        f"its own. Set `instead` to {BLEND!r}."
    )


def _replaced(text: ConceptText, entry: dict) -> dict:
    """A prompt's entry with the text of the reference prompt."""
    ((tokens, extras),) = host.unpack_conditioning(text.reference)
    return {**entry, **extras, TOKENS: tokens}
