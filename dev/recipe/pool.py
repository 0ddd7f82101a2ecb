"""A pool of encoded training pictures and captions: drawn and encoded once, trained on many times."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dev.recipe.scenes import Scenes
from dev.recipe.sprites import load_sprites, load_things, styles

CHUNK = 250


@dataclass
class Pool:
    """Latents fp16 [N, C, 8, 8], the number of each one's caption [N], and the captions' contexts bf16 [M, 77, D]."""

    latents: torch.Tensor
    captions: torch.Tensor
    contexts: torch.Tensor

    def batch(self, size: int, empty: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """`size` random latents and contexts, fp32; a share `empty` of the captions is the empty one."""
        chosen = torch.randint(len(self.latents), (size,), generator=generator)
        captions = self.captions[chosen].masked_fill(torch.rand(size, generator=generator) < empty, 0)
        return self.latents[chosen].float(), self.contexts[captions].float()


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
    return Pool(torch.cat(latents), torch.tensor(captions), torch.cat(contexts))
