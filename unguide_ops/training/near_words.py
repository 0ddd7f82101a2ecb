"""Words near a concept, where it ends: of common nouns, those that a LoRA would move most without meaning the concept.

Found from encoded prompts alone, without a model call.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import torch
from torch.nn.functional import cosine_similarity

from .. import host
from ..concept import FRAMING_WORDS, PROMPTS, EncodedConcept, prompt_lines
from ..lora.initialisation import concept_directions
from .config import TrainingConfig

ROUNDS = 2
"""In the second one, the LoRA would already leave the words of the first alone: others are then moved most."""

MEANS_IT = 0.5
"""The likeness from which a word is taken to mean a concept of which no synonym is known."""

MOST_KEPT = 4  # encoders and wordings whose encoded nouns are kept in memory
SHOWN_EVERY = 20  # nouns
PROBES = 3  # nouns that tell one encoder from another


@dataclass(frozen=True)
class NearWord:
    """A prompt near a concept.

    response: how strongly the concept's directions respond to it, in units of their response to the target.
    likeness: the cosine between its encoded prompt and the target's, both less the mean of all nouns.
    means_it: it is at least as like the target as the concept's least like synonym is, so it is not to be retained.
    """

    prompt: str
    response: float
    likeness: float
    means_it: bool


@functools.cache
def nouns() -> tuple[str, ...]:
    """The nouns that ship with the pack."""
    lines = prompt_lines((PROMPTS / "nouns.txt").read_text(encoding="utf-8"))
    return tuple(line for line in lines if not line.startswith("#"))


def with_near_words(
    concept: EncodedConcept, config: TrainingConfig, progress: host.ProgressReporter
) -> tuple[EncodedConcept, list[NearWord]]:
    """The concept with the `config.near_words` nouns nearest to it in its field `near`, and what was found.

    Found are also as many words that mean the concept, which are not added. `progress` shows how many nouns have been
    encoded, and raises the host's interrupt after Cancel.
    """
    if not config.near_words:
        return concept, []
    prompts = [_frame_of(concept.concept.target) + noun for noun in nouns()]
    means = _encoded_means(concept, prompts, progress)
    centre = means.mean(0)

    def likeness(encoded: torch.Tensor) -> torch.Tensor:
        return cosine_similarity(encoded - centre, of_target - centre, dim=-1)

    of_target = concept.tokens(concept.concept.target).mean(0)
    likenesses = likeness(means)
    synonyms = [likeness(concept.tokens(prompt).mean(0)).item() for prompt in concept.concept.erased[1:]]
    means_it = likenesses >= min(synonyms, default=MEANS_IT)
    found: dict[str, NearWord] = {}
    for number in range(1, ROUNDS + 1):
        responses = _responses(concept, config, means, of_target)
        wanted = config.near_words * number // ROUNDS
        order = responses.argsort(descending=True).tolist()
        for group in (True, False):
            known = {*concept.concept.erased, *concept.concept.retained, *found}
            room = wanted - sum(word.means_it == group for word in found.values())
            chosen = [i for i in order if means_it[i] == group and prompts[i] not in known][:room]
            found |= {
                prompts[i]: NearWord(prompts[i], responses[i].item(), likenesses[i].item(), group) for i in chosen
            }
        concept = concept.with_near(tuple(word.prompt for word in found.values() if not word.means_it))
    return concept, sorted(found.values(), key=lambda word: -word.response)


def _responses(
    concept: EncodedConcept, config: TrainingConfig, means: torch.Tensor, of_target: torch.Tensor
) -> torch.Tensor:
    """How strongly the concept's directions respond to encoded prompts [N, width], in units of the target's: [N]."""
    erased = concept.tokens(*config.erased(concept.concept))
    preserved = concept.tokens(*concept.concept.retained, concept.concept.reference)
    directions = concept_directions(erased, preserved, config.rank, config.ridge)
    return (means @ directions.T).norm(dim=1) / (of_target @ directions.T).norm()


def _frame_of(target: str) -> str:
    """The words at a prompt's beginning that only say that it is a picture, such as "a photo of the "."""
    words = target.split()
    framing = next((i for i, word in enumerate(words) if word.lower() not in FRAMING_WORDS), len(words))
    return "".join(f"{word} " for word in words[:framing])


_kept: dict[str, torch.Tensor] = {}


def _encoded_means(concept: EncodedConcept, prompts: list[str], progress: host.ProgressReporter) -> torch.Tensor:
    """The mean token of each encoded prompt, [prompts, width], fp32 on the CPU.

    Encoding takes a few milliseconds a prompt and is the same for every concept, so the last results are kept. They are
    known again by the encoded prompts themselves, whatever has been done to the text encoder.
    """

    def mean(prompt: str) -> torch.Tensor:
        return concept.encode(prompt)[0][0][0].float().cpu().mean(0)

    probes = torch.stack([mean(prompt) for prompt in prompts[:PROBES]])
    key = hashlib.sha256(probes.numpy().tobytes() + prompts[0].encode()).hexdigest()
    if key not in _kept:
        progress.begin(len(prompts))
        rows = []
        for number, prompt in enumerate(prompts, 1):
            rows.append(mean(prompt))
            if number % SHOWN_EVERY == 0:
                progress.update(number, "looking for words near the concept")
        while len(_kept) >= MOST_KEPT:
            _kept.pop(next(iter(_kept)))
        _kept[key] = torch.stack(rows)
    return _kept[key]
