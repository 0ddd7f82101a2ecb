"""A concept to erase: its prompts, how they are read from the user's input and prompt files, and their limits."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from .safe_text import printable
from .untrusted import check_file, first_problem, read_json

if TYPE_CHECKING:
    from .host.types import Conditioning

PROMPTS = Path(__file__).parent.parent / "prompts"
EMPTY_PROMPT = ""
LARGEST_FILE = 1_000_000  # bytes
MOST_PROMPTS = 1000  # in each field of a concept
MOST_BRACKETS = 100  # opened in a prompt: text encoders read them as weights nested in weights
WEIGHT = re.compile(r":([^:()]*)\)")  # as in (these words:1.2)
LARGEST_WEIGHT = 100
MOST_LINES = 10_000  # of a multi-line text
LONGEST_LINE = 10_000  # characters
FRAMING_WORDS = {"a", "an", "the", "of", "photo", "picture", "image", "painting", "drawing"}


def _checked(prompt: str) -> str:
    """The prompt itself. Raises ValueError if a text encoder could not read it in bounded time and memory."""
    if "\0" in prompt:
        raise ValueError("holds a NUL character: take it out")
    if prompt.count("(") > MOST_BRACKETS:
        raise ValueError(f"opens more than {MOST_BRACKETS} brackets: take some out")
    if any(not abs(_weight(text)) <= LARGEST_WEIGHT for text in WEIGHT.findall(prompt)):
        raise ValueError(f"gives words a weight beyond {LARGEST_WEIGHT}, or one that is NaN: change it")
    return prompt


def _weight(text: str) -> float:
    """The number that the text stands for, 1 if it does not stand for one, as in "(note: red)"."""
    try:
        return float(text)
    except ValueError:
        return 1.0


_constraints = partial(StringConstraints, strip_whitespace=True, max_length=2000)
Prompt = Annotated[str, _constraints(), AfterValidator(_checked)]
NonEmptyPrompt = Annotated[str, _constraints(min_length=1), AfterValidator(_checked)]
Prompts = Annotated[tuple[Prompt, ...], Field(max_length=MOST_PROMPTS)]
NonEmptyPrompts = Annotated[tuple[NonEmptyPrompt, ...], Field(max_length=MOST_PROMPTS)]


class Concept(BaseModel):
    """A concept to erase, in the layout of the authors' prompt files with two more fields, `near` and `preserve`.

    target: the prompt to erase; reference: the prompt whose predictions replace the target's; synonyms: more prompts
    for the same concept; other: unrelated prompts, for benchmarks only; near: prompts that are close to the concept but
    do not mean it, where it ends; preserve: further prompts whose pictures must not change, as the user wrote them.

    `preserved` are the prompts of `near`, and those of `preserve` that do not name the concept; `retained` is the empty
    prompt and these.
    """

    model_config = ConfigDict(frozen=True)

    target: NonEmptyPrompt
    reference: NonEmptyPrompt
    synonyms: NonEmptyPrompts = ()
    other: Prompts = ()
    near: NonEmptyPrompts = ()
    preserve: NonEmptyPrompts = ()

    @model_validator(mode="after")
    def _target_differs_from_reference(self) -> Concept:
        if self.target.lower() == self.reference.lower():
            raise ValueError(
                f"`target` and `reference` are the same ({printable(self.target)!r}), so there is nothing to forget: "
                f"write under `reference` what should be drawn instead"
            )
        return self

    @cached_property
    def preserved(self) -> tuple[str, ...]:
        """The prompts of `near`, and those of `preserve` that do not name the concept: they cannot be erased as well.

        A prompt names the concept if it has every word of the target or of a synonym, apart from FRAMING_WORDS. So
        "a cat on a sofa" is left out if "a photo of the cat" is erased, but "a photo of a person" is kept if "a photo
        of a nude person" is erased. Those in `near` were chosen: "hot dog" has a dog's name and means another thing.
        """
        erased = [words for words in map(_content_words, self.erased) if words]
        content = {prompt: _content_words(prompt) for prompt in self.preserve}
        unnamed = (prompt for prompt in self.preserve if not any(words <= content[prompt] for words in erased))
        return tuple(dict.fromkeys((*self.near, *unnamed)))

    @property
    def erased(self) -> tuple[str, ...]:
        """The prompts that mean the concept: the target, then the synonyms, each once."""
        return tuple(dict.fromkeys((self.target, *self.synonyms)))

    @property
    def retained(self) -> tuple[str, ...]:
        """The prompts whose predictions training keeps: the empty prompt, then `preserved`, each once."""
        return tuple(dict.fromkeys((EMPTY_PROMPT, *self.preserved)))


def _content_words(prompt: str) -> set[str]:
    """A prompt's words in lower case, without those that only say that it is a picture."""
    return set(re.findall(r"\w+", prompt.lower())) - FRAMING_WORDS


@dataclass
class EncodedConcept:
    """A concept with its encoded prompts, by prompt, and the function `encode` for any further prompt."""

    concept: Concept
    prompts: dict[str, Conditioning]
    encode: Callable[[str], Conditioning]

    @classmethod
    def of(cls, concept: Concept, encode: Callable[[str], Conditioning]) -> EncodedConcept:
        """The concept with every prompt that training needs encoded."""
        prompts = (*concept.erased, concept.reference, *concept.retained)
        return cls(concept, {prompt: encode(prompt) for prompt in prompts}, encode)

    def with_near(self, prompts: tuple[str, ...]) -> EncodedConcept:
        """The concept with these prompts beside those in its field `near`, encoded if they are new."""
        near = tuple(dict.fromkeys((*self.concept.near, *prompts)))
        concept = Concept(**{**self.concept.model_dump(), "near": near})
        encoded = {prompt: self.conditioning(prompt) for prompt in (*self.prompts, *concept.retained)}
        return EncodedConcept(concept, encoded, self.encode)

    def conditioning(self, prompt: str) -> Conditioning:
        """A prompt as CONDITIONING, encoded now unless it is one of `prompts`."""
        return self.prompts[prompt] if prompt in self.prompts else self.encode(prompt)

    def tokens(self, *prompts: str) -> torch.Tensor:
        """The encoded tokens of some of `prompts`, as cross-attention is given them: [tokens, width], fp32, CPU."""
        return torch.cat([self.prompts[prompt][0][0][0].float().cpu() for prompt in prompts])


def presets() -> list[str]:
    """The names of the prompt files that ship with the pack."""
    return sorted(path.stem for path in PROMPTS.glob("*.json"))


def read_prompt_file(path: Path) -> Concept:
    """The concept in a JSON file. Raises ValueError, naming the file and the problem, if it does not hold one."""
    check_file(path, LARGEST_FILE, "prompt file")
    try:
        return Concept.model_validate_json(read_json(path))
    except ValidationError as error:
        raise ValueError(f"{printable(path.name)}: {first_problem(error)}.") from None


def prompt_lines(text: str) -> tuple[str, ...]:
    """The prompts of a multi-line text, one per line; blank lines are dropped, `""` stands for the empty prompt."""
    return tuple("" if line.strip() == '""' else line.strip() for line in text.splitlines() if line.strip())


def prompts_in(text: str, name: str) -> tuple[str, ...]:
    """The prompts in the text of the node input called `name`, one per line.

    Raises ValueError, naming the input and the limit, if there are too many prompts or one is too long, nests too many
    brackets, or has too large a weight for a text encoder to read it in bounded time and memory.
    """
    prompts = prompt_lines(text)
    if len(prompts) > MOST_LINES:
        raise ValueError(f"`{name}` has {len(prompts)} lines: use at most {MOST_LINES} at once.")
    for number, line in enumerate(prompts, 1):
        try:
            if len(line) > LONGEST_LINE:
                raise ValueError(f"has {len(line)} characters: use at most {LONGEST_LINE}")
            _checked(line)
        except ValueError as error:
            raise ValueError(f"`{name}`: line {number} ({printable(line, 40)!r}) {error}.") from None
    return prompts


def concept_from(preset: str | Path | None, target: str, reference: str, synonyms: str, preserve: str) -> Concept:
    """The concept of the given fields, and, for fields left empty, of a preset (by name) or a prompt file (by path).

    `synonyms` and `preserve` have one prompt per line; if nothing says what to preserve, it is `default_preserve()`.
    Raises ValueError, naming the field, if `target` or `reference` is missing or a field is malformed.
    """
    fields: dict[str, object] = {"target": target.strip(), "reference": reference.strip()}
    fields |= {"synonyms": prompt_lines(synonyms), "preserve": prompt_lines(preserve)}
    filled = {name: value for name, value in fields.items() if value}
    if preset is not None:
        if isinstance(preset, str) and preset not in presets():
            raise ValueError(f"There is no preset {printable(preset)!r}: choose from {', '.join(presets())}.")
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
    """Everyday prompts to preserve, for concepts that do not say what to preserve."""
    return prompt_lines((PROMPTS / "preserve.txt").read_text(encoding="utf-8"))


def everyday_captions() -> tuple[str, ...]:
    """The empty prompt, then varied captions of everyday pictures, on which the gate is calibrated."""
    return (EMPTY_PROMPT, *prompt_lines((PROMPTS / "neutral.txt").read_text(encoding="utf-8")))


def evenly_picked(prompts: tuple[str, ...], number: int) -> list[str]:
    """At most `number` of the prompts, evenly spaced, always with the first."""
    return list(prompts[:: max(1, -(-len(prompts) // max(1, number)))])
