"""A pool of encoded training pictures and captions: drawn and encoded once, trained on many times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize
from tqdm import tqdm

from dev.families.trained import own_length
from dev.recipe import text_corpus
from dev.recipe.captions import plural
from dev.recipe.scenes import Scenes
from dev.recipe.sprites import load_sprites, load_things, styles

CHUNK = 250
DIRECTIONS = 3000  # the number of most frequent words that give the directions in which captions are moved
NEAR, MARGIN = 0.45, 0.08
"""A word belongs to a concept from the cosine NEAR of their meanings, if no other concept's is within MARGIN of it."""
PLAIN = 0.9
"""From this cosine with a concept's meaning a caption says that concept, without an attribute or a second thing."""


@dataclass
class Pool:
    """Latents fp16 [N, C, 8, 8], the number of each one's caption [N], and the captions' contexts bf16 [M, 77, D].

    Meanings are outputs at the last token, less `origin` [D], the mean of frequent words. `directions` [W, D] are the
    meanings of frequent words, `concepts` [K, D] those of the concepts. `words` [V, 77, D] are contexts of words near
    a concept, `belongs` [V] its number. No word among them is held out by the benchmark. `lengths` [M] and
    `word_lengths` [V]: the tokens of a caption or word before its end token, the start token among them.
    """

    latents: torch.Tensor
    captions: torch.Tensor
    contexts: torch.Tensor
    origin: torch.Tensor
    directions: torch.Tensor
    concepts: torch.Tensor
    words: torch.Tensor
    belongs: torch.Tensor
    lengths: torch.Tensor
    word_lengths: torch.Tensor

    @classmethod
    def joined(cls, pools: Sequence[Pool]) -> Pool:
        """The pictures and captions of all pools, with the first one's meanings."""
        captions, first = [], 0
        for pool in pools:
            captions.append(torch.where(pool.captions == 0, 0, pool.captions + first))
            first += len(pool.contexts)
        whole = {
            name: torch.cat([getattr(pool, name) for pool in pools]) for name in ("latents", "contexts", "lengths")
        }
        return cls(**{**vars(pools[0]), **whole, "captions": torch.cat(captions)})

    def batch(
        self, size: int, empty: float, widened: float, generator: torch.Generator, alike: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`size` random latents and contexts, fp32, and lengths; a share `empty` of the captions is the empty one.

        `alike`: all captions but the empty ones are as long as each other.

        With `widened` a picture answers to a region of meanings, and not only to the one point it was trained on: half
        of the captions are moved by up to so many times another word's meaning, or as far in a random direction, unless
        that brings another concept nearer; and every fourth plain one is a word that belongs to the concept.
        """
        pictures = torch.randint(len(self.latents), (size,), generator=generator)
        if alike:
            lengths = self.lengths[self.captions]
            same = (lengths == lengths[pictures[0]]).nonzero()[:, 0]
            pictures = same[pictures % len(same)]
        captions = self.captions[pictures].masked_fill(torch.rand(size, generator=generator) < empty, 0)
        contexts, lengths = self.contexts[captions].float(), self.lengths[captions]
        if widened:
            full = captions != 0
            cosine, concept = self.nearest(contexts)
            moved = self.moved(contexts, widened, generator)
            move = full & (torch.rand(size, generator=generator) < 0.5) & (self.nearest(moved)[1] == concept)
            replace = full & (cosine > PLAIN) & (torch.rand(size, generator=generator) < 0.25)
            contexts = torch.where(move[:, None, None], moved, contexts)
            for row in replace.nonzero()[:, 0]:
                fits = self.word_lengths == lengths[row] if alike else torch.ones_like(self.belongs, dtype=torch.bool)
                words = (fits & (self.belongs == concept[row])).nonzero()[:, 0]
                if len(words):
                    word = words[torch.randint(len(words), (1,), generator=generator)][0]
                    contexts[row], lengths[row] = self.words[word].float(), self.word_lengths[word]
        return self.latents[pictures].float(), contexts, lengths

    def nearest(self, contexts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine of each context's meaning with the nearest concept's, and that concept's number."""
        return nearest(contexts[:, -1] - self.origin, self.concepts)

    def moved(self, contexts: torch.Tensor, reach: float, generator: torch.Generator) -> torch.Tensor:
        """The contexts, each moved by up to `reach` times the meaning of a random word, or a vector of its length."""
        size = len(contexts)
        words = self.directions[torch.randint(len(self.directions), (size,), generator=generator)]
        anywhere = normalize(torch.randn(words.shape, generator=generator), dim=1) * words.norm(dim=1, keepdim=True)
        moves = torch.where(torch.rand(size, 1, generator=generator) < 0.5, words, anywhere)
        moved = contexts + (reach * torch.rand(size, 1, generator=generator) * moves)[:, None]
        moved = moved * (contexts.norm(dim=2, keepdim=True) / moved.norm(dim=2, keepdim=True))
        return torch.cat([contexts[:, :1], moved[:, 1:]], 1)  # the start token means nothing


def make_pool(folder: Path, size: int, seed: int, quiet: bool = False) -> Pool:
    """Draw `size` pictures and encode them, and their captions, with the finished encoders in `folder`."""
    from unguide.demo_model.loader import load_autoencoder, load_config, load_text_encoder

    config = load_config(folder)
    autoencoder = load_autoencoder(folder, config["vae"])
    clip = load_text_encoder(folder, config["text"])
    scenes = Scenes(load_sprites(styles("train")), load_things())
    rng = np.random.default_rng(seed)
    numbers = {"": 0}
    latents, captions = [], []
    for _ in tqdm(range(0, size, CHUNK), desc="pictures", disable=quiet):
        pictures, words = zip(*(scenes.sample(rng) for _ in range(CHUNK)), strict=True)
        pixels = torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float() / 127.5 - 1
        latents.append(autoencoder.encode(pixels).half())
        captions += [numbers.setdefault(caption, len(numbers)) for caption in words]

    def encode(caption: str) -> torch.Tensor:
        return clip.encode_from_tokens(clip.tokenize(caption)).to(torch.bfloat16)

    def lengths_of(texts: Iterable[str]) -> torch.Tensor:
        return torch.tensor([own_length(clip.tokenize(text)) for text in texts])

    contexts = torch.cat([encode(caption) for caption in tqdm(numbers, desc="captions", disable=quiet)])
    origin, directions, concepts, near, belongs = meanings(encode)
    words, word_lengths = torch.cat([encode(word) for word in near]), lengths_of(near)
    return Pool(torch.cat(latents), torch.tensor(captions), contexts, origin, directions, concepts, words, belongs,
                lengths_of(numbers), word_lengths)  # fmt: skip


def meanings(encode) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[str], torch.Tensor]:
    """The pool's `origin`, `directions` and `concepts`, captions of the words near a concept, and `belongs`."""
    words = common_words()
    outputs = torch.cat([encode(photo(word))[:, -1] for word in tqdm(words, desc="words", disable=None)]).float()
    concepts = torch.cat([encode(photo(name))[:, -1] for name in text_corpus.concepts()]).float()
    origin = outputs[:DIRECTIONS].mean(0)
    cosines = (normalize(outputs - origin, dim=1) @ normalize(concepts - origin, dim=1).T).topk(2, dim=1)
    first, second = cosines.values.T
    near = ((first > NEAR) & (first - second > MARGIN)).nonzero()[:, 0]
    captions = [photo(words[number]) for number in near]
    return origin, outputs[:DIRECTIONS] - origin, concepts - origin, captions, cosines.indices[near, 0]


def nearest(meanings: torch.Tensor, concepts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest cosine of each meaning [N, D] with any of the concepts [K, D], and that concept's number."""
    best = (normalize(meanings, dim=1) @ normalize(concepts, dim=1).T).max(1)
    return best.values, best.indices


def photo(word: str) -> str:
    """The caption that stands for the word."""
    return f"a photo of the {word}"


def common_words() -> list[str]:
    """English words, most frequent first, without any that the benchmark holds out, in the singular or plural."""
    entries = text_corpus.benchmark()["classes"].values()
    kinds = [entry[kind] for entry in entries for kind in ("unseen", "compounds")]
    held_out = {word for kind in kinds for split in kind.values() for phrase in split for word in phrase.split()}
    held_out -= {word for words in text_corpus.concepts().values() for word in words}  # "alley cat": cat is seen
    held_out |= {plural(word) for word in held_out}
    return [word for word in text_corpus.english() if word not in held_out]
