"""A concept to be forgotten: its prompts, and the prompt files they are read from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from .strangers import brief, check_file, first_problem, read_json

PROMPTS = Path(__file__).parent.parent / "prompts"
NEUTRAL = ""
LARGEST_FILE = 1_000_000  # bytes
MOST_PROMPTS = 1000  # of a kind
MOST_BRACKETS = 100  # that a prompt opens: text encoders read them as weights within weights
WEIGHT = re.compile(r":([^:()]*)\)")  # as in (these words:1.2)
HEAVIEST = 100
MOST_LINES, LONGEST_LINE = 10_000, 10_000  # prompts of a text, and characters of one
FRAME = {"a", "an", "the", "of", "photo", "picture", "image", "painting", "drawing"}  # words that frame a picture


def _readable(prompt: str) -> str:
    if "\0" in prompt:
        raise ValueError("holds a NUL character: take it out")
    if prompt.count("(") > MOST_BRACKETS:
        raise ValueError(f"opens more than {MOST_BRACKETS} brackets: take some out")
    if any(not abs(_number(it)) <= HEAVIEST for it in WEIGHT.findall(prompt)):
        raise ValueError(f"gives words a weight beyond {HEAVIEST}, or one that is no number: change it")
    return prompt


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # no weight
        return 1.0


_constraints = partial(StringConstraints, strip_whitespace=True, max_length=2000)
Prompt = Annotated[str, _constraints(), AfterValidator(_readable)]
NamedPrompt = Annotated[str, _constraints(min_length=1), AfterValidator(_readable)]
Prompts = Annotated[tuple[Prompt, ...], Field(max_length=MOST_PROMPTS)]
NamedPrompts = Annotated[tuple[NamedPrompt, ...], Field(max_length=MOST_PROMPTS)]


class Concept(BaseModel):
    """The prompts around a concept, in the layout of the authors' prompt files, plus `preserve`.

    target: the prompt to be forgotten; reference: what the model predicts in its place; synonyms: other prompts for
    the same thing; other: prompts a benchmark compares with; preserve: prompts whose pictures must not change.
    """

    model_config = ConfigDict(frozen=True)

    target: NamedPrompt
    reference: NamedPrompt
    synonyms: NamedPrompts = ()
    other: Prompts = ()
    preserve: NamedPrompts = ()

    @model_validator(mode="after")
    def _something_to_erase(self) -> Concept:
        if self.target.lower() == self.reference.lower():
            raise ValueError(
                f"`target` and `reference` are the same ({brief(self.target)!r}), so that there is nothing to forget: "
                f"write under `reference` what shall be drawn instead"
            )
        return self

    @cached_property
    def kept(self) -> tuple[str, ...]:
        """`preserve`, without any prompt that says all that the target or a synonym says: that is the concept.

        "a cat on a sofa" for "a photo of the cat"; but not "a photo of a person" for "a photo of a nude person".
        """
        names = [name for name in map(_said, (self.target, *self.synonyms)) if name]
        said = {it: _said(it) for it in self.preserve}
        return tuple(it for it in self.preserve if not any(name <= said[it] for name in names))

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
    check_file(path, LARGEST_FILE, "prompt file")
    try:
        return Concept.model_validate_json(read_json(path))
    except ValidationError as error:
        raise ValueError(f"{brief(path.name)}: {first_problem(error)}.") from None


def lines(text: str) -> tuple[str, ...]:
    """The prompts of a multi-line text, one a line; blank lines are dropped, `""` is the neutral prompt."""
    return tuple("" if line.strip() == '""' else line.strip() for line in text.splitlines() if line.strip())


def prompts_in(text: str, name: str) -> tuple[str, ...]:
    """The prompts in the text of input `name`, one a line.

    Raises ValueError, naming input and limit, for too many, and for what no text encoder takes apart in bounded time
    and memory.
    """
    found = lines(text)
    if len(found) > MOST_LINES:
        raise ValueError(f"`{name}` has {len(found)} lines: use at most {MOST_LINES} at once.")
    for number, line in enumerate(found, 1):
        try:
            if len(line) > LONGEST_LINE:
                raise ValueError(f"has {len(line)} characters: use at most {LONGEST_LINE}")
            _readable(line)
        except ValueError as error:
            raise ValueError(f"`{name}`: line {number} ({brief(line, 40)!r}) {error}.") from None
    return found


def concept_from(preset: str | Path | None, target: str, reference: str, synonyms: str, preserve: str) -> Concept:
    """A preset's concept, or a prompt file's, in which every field that is filled in replaces its own.

    Without a preset, `target` and `reference` are required. A concept that names nothing to preserve preserves
    everyday things. Raises ValueError that names the missing field.
    """
    fields: dict[str, object] = {"target": target.strip(), "reference": reference.strip()}
    fields |= {"synonyms": lines(synonyms), "preserve": lines(preserve)}
    filled = {name: value for name, value in fields.items() if value}
    if preset is not None:
        if isinstance(preset, str) and preset not in presets():
            raise ValueError(f"There is no preset {brief(preset)!r}: choose from {', '.join(presets())}.")
        file = preset if isinstance(preset, Path) else PROMPTS / f"{preset}.json"
        filled = read_prompt_file(file).model_dump() | filled
    for name in ("target", "reference"):
        if name not in filled:
            raise ValueError(f"`{name}` is empty: write a prompt, or choose a `preset`.")
    try:
        return Concept.model_validate(filled | {"preserve": filled.get("preserve") or default_preserve()})
    except ValidationError as error:
        raise ValueError(f"{first_problem(error, 'the concept')}.") from None


def default_preserve() -> tuple[str, ...]:
    """Everyday prompts whose pictures must not change, for concepts that name none."""
    return lines((PROMPTS / "preserve.txt").read_text(encoding="utf-8"))


def neutral_captions() -> tuple[str, ...]:
    """The empty prompt and varied captions of everyday pictures, which mean no concept in particular."""
    return (NEUTRAL, *lines((PROMPTS / "neutral.txt").read_text(encoding="utf-8")))


def spread(prompts: tuple[str, ...], number: int) -> list[str]:
    """So many of the prompts, at most, evenly picked, the first one always."""
    return list(prompts[:: max(1, -(-len(prompts) // max(1, number)))])
