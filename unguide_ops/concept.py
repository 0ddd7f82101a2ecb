"""A concept to be forgotten: its prompts, and the prompt files they are read from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

PROMPTS = Path(__file__).parent.parent / "prompts"
NEUTRAL = ""
LARGEST_FILE = 1_000_000  # bytes
FRAME = {"a", "an", "the", "of", "photo", "picture", "image", "painting", "drawing"}  # words that frame a picture

Prompt = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)]
NamedPrompt = Annotated[Prompt, StringConstraints(min_length=1)]


class Concept(BaseModel):
    """The prompts around a concept, in the layout of the authors' prompt files, plus `preserve`.

    target: the prompt to be forgotten; reference: what the model predicts in its place; synonyms: other prompts for
    the same thing; other: prompts a benchmark compares with; preserve: prompts whose pictures must not change.
    """

    model_config = ConfigDict(frozen=True)

    target: NamedPrompt
    reference: NamedPrompt
    synonyms: tuple[NamedPrompt, ...] = ()
    other: tuple[Prompt, ...] = ()
    preserve: tuple[NamedPrompt, ...] = ()

    @model_validator(mode="after")
    def _something_to_erase(self) -> Concept:
        if self.target.lower() == self.reference.lower():
            raise ValueError(
                f"`target` and `reference` are the same ({self.target!r}), so that there is nothing to forget: write "
                f"under `reference` what shall be drawn instead"
            )
        return self

    @cached_property
    def kept(self) -> tuple[str, ...]:
        """`preserve`, without any prompt that says all that the target or a synonym says: that is the concept.

        "a cat on a sofa" for "a photo of the cat"; but not "a photo of a person" for "a photo of a nude person".
        """
        names = [_said(prompt) for prompt in (self.target, *self.synonyms)]
        return tuple(it for it in self.preserve if not any(name <= _said(it) for name in names if name))

    @property
    def erased(self) -> tuple[str, ...]:
        """The prompts that mean the concept, the target first."""
        return tuple(dict.fromkeys((self.target, *self.synonyms)))

    @property
    def retained(self) -> tuple[str, ...]:
        """The prompts whose predictions must stay, the neutral one first."""
        return tuple(dict.fromkeys((NEUTRAL, *self.kept)))


def _said(prompt: str) -> set[str]:
    """A prompt's words, without those that only frame a picture."""
    return set(re.findall(r"\w+", prompt.lower())) - FRAME


@dataclass
class EncodedConcept:
    """A concept, its encoded prompts (the host's CONDITIONING by prompt), and how to encode others."""

    concept: Concept
    prompts: dict[str, list]
    encode: Callable[[str], list]

    @classmethod
    def of(cls, concept: Concept, encode: Callable[[str], list]) -> EncodedConcept:
        """The concept with every prompt that training asks for."""
        prompts = (*concept.erased, concept.reference, *concept.retained)
        return cls(concept, {prompt: encode(prompt) for prompt in prompts}, encode)

    def conditioning(self, prompt: str) -> list:
        """A prompt as the host's CONDITIONING, encoded now unless it is one of `prompts`."""
        return self.prompts[prompt] if prompt in self.prompts else self.encode(prompt)

    def tokens(self, prompt: str) -> torch.Tensor:
        """A prompt's tokens as cross-attention sees them, [tokens, width], fp32 on the CPU."""
        return self.prompts[prompt][0][0][0].float().cpu()


def presets() -> list[str]:
    """The names of the prompt files that ship with the pack."""
    return sorted(path.stem for path in PROMPTS.glob("*.json"))


def read_prompt_file(path: Path) -> Concept:
    """A concept from a JSON file. Raises ValueError that names the file and what is wrong with it."""
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path.name} is larger than {LARGEST_FILE} bytes: this is not a prompt file.")
    try:
        return Concept.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"{path.name}: {place}: {first['msg']}.") from None


def lines(text: str) -> tuple[str, ...]:
    """The prompts of a multi-line text, one a line; blank lines are dropped, `""` is the neutral prompt."""
    return tuple("" if line.strip() == '""' else line.strip() for line in text.splitlines() if line.strip())


def concept_from(preset: str | Path | None, target: str, reference: str, synonyms: str, preserve: str) -> Concept:
    """A preset's concept, or a prompt file's, in which every field that is filled in replaces its own.

    Without a preset, `target` and `reference` are required. A concept that names nothing to preserve preserves
    everyday things. Raises ValueError that names the missing field.
    """
    fields: dict[str, object] = {"target": target.strip(), "reference": reference.strip()}
    fields |= {"synonyms": lines(synonyms), "preserve": lines(preserve)}
    filled = {name: value for name, value in fields.items() if value}
    if preset is not None:
        file = preset if isinstance(preset, Path) else PROMPTS / f"{preset}.json"
        filled = read_prompt_file(file).model_dump() | filled
    for name in ("target", "reference"):
        if name not in filled:
            raise ValueError(f"`{name}` is empty: write a prompt, or choose a `preset`.")
    return Concept.model_validate(filled | {"preserve": filled.get("preserve") or default_preserve()})


def default_preserve() -> tuple[str, ...]:
    """Everyday prompts whose pictures must not change, for concepts that name none."""
    return lines((PROMPTS / "preserve.txt").read_text(encoding="utf-8"))


def neutral_captions() -> tuple[str, ...]:
    """The empty prompt and varied captions of everyday pictures, which mean no concept in particular."""
    return (NEUTRAL, *lines((PROMPTS / "neutral.txt").read_text(encoding="utf-8")))


def spread(prompts: tuple[str, ...], number: int) -> list[str]:
    """So many of the prompts, at most, evenly picked, the first one always."""
    return list(prompts[:: max(1, -(-len(prompts) // max(1, number)))])
