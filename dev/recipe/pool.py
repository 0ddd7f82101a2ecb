"""A pool of encoded training pictures and captions: drawn and encoded once, trained on many times."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize
from tqdm import tqdm

from dev.recipe import text_corpus
from dev.recipe.scenes import Scenes
from dev.recipe.sprites import load_sprites, load_things, styles

CHUNK = 250
WORDS = 3000


@dataclass
class Pool:
    """Latents fp16 [N, C, 8, 8], the number of each one's caption [N], and the captions' contexts bf16 [M, 77, D].

    `meanings` [W, D] are those of common words, none of them held out: outputs at the last token, less their mean.
    """

    latents: torch.Tensor
    captions: torch.Tensor
    contexts: torch.Tensor
    meanings: torch.Tensor

    def batch(
        self, size: int, empty: float, widened: float, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`size` random latents and contexts, fp32; a share `empty` of the captions is the empty one.

        Every other caption is moved by up to `widened` times the meaning of a random word, or as far in a random
        direction, so that its picture answers to a region of meanings, and not to a point that was learnt by heart.
        """
        chosen = torch.randint(len(self.latents), (size,), generator=generator)
        captions = self.captions[chosen].masked_fill(torch.rand(size, generator=generator) < empty, 0)
        contexts = self.contexts[captions].float()
        if widened:
            words = self.meanings[torch.randint(len(self.meanings), (size,), generator=generator)]
            anywhere = normalize(torch.randn(words.shape, generator=generator), dim=1) * words.norm(dim=1, keepdim=True)
            moves = torch.where(torch.rand(size, 1, generator=generator) < 0.5, words, anywhere)
            reach = widened * torch.rand(size, 1, generator=generator)
            reach[(torch.rand(size, 1, generator=generator) < 0.5) | (captions == 0)[:, None]] = 0
            moved = contexts + (reach * moves)[:, None]
            moved = moved * (contexts.norm(dim=2, keepdim=True) / moved.norm(dim=2, keepdim=True))
            contexts = torch.cat([contexts[:, :1], moved[:, 1:]], 1)  # the start token means nothing
        return self.latents[chosen].float(), contexts

    def clone(self) -> Pool:
        """A copy that autograd may use, if this one was made in inference mode."""
        return Pool(*(getattr(self, it.name).clone() for it in fields(self)))


def make_pool(folder: Path, size: int, seed: int, quiet: bool = False) -> Pool:
    """Draw `size` pictures and encode them, and their captions, with the finished encoders in `folder`."""
    from demo_model import load_autoencoder, load_config, load_text_encoder

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
    contexts = [
        clip.encode_from_tokens(clip.tokenize(caption)).to(torch.bfloat16)
        for caption in tqdm(numbers, desc="captions", disable=quiet)
    ]
    words = torch.cat(
        [clip.encode_from_tokens(clip.tokenize(f"a photo of the {word}"))[:, -1] for word in some_words()]
    )
    return Pool(torch.cat(latents), torch.tensor(captions), torch.cat(contexts), words - words.mean(0))


def some_words() -> list[str]:
    """Common English words, without any that the benchmark holds out."""
    held_out = {
        word
        for entry in text_corpus.benchmark()["classes"].values()
        for split in entry["unseen"].values()
        for phrase in split
        for word in phrase.split()
    }
    return [word for word in text_corpus.english() if word not in held_out][:WORDS]
