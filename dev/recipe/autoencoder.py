"""Trains the embedded model's autoencoder: PCA of picture patches, then a residual decoder that draws sharp edges."""

import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from unguide.demo_model.autoencoder import PatchAutoencoder

from .scenes import Scenes
from .sprites import load_sprites, load_things, styles

CONFIG = {"channels": 24, "patch": 8, "width": 64, "blocks": 3}
"""The arguments of `PatchAutoencoder`. 16 channels blur whiskers and wheels (2 dB less)."""

TILT = 0.2
"""Latent channel i gets a standard deviation of (variance_i / variance_0) ** TILT, before all are scaled alike."""

POOL, PCA_POOL, BATCH = 12_000, 6_000, 16
LEARNING_RATE = 2e-3
AVERAGING = 0.99
LATENT_NOISE = 0.1  # at most, on the latents that the decoder learns from: a UNet's are never exact
EDGES = 0.5  # weight of the error in differences between neighbours


def train(out_folder: Path, minutes: float, seed: int = 0) -> dict[str, float]:
    """Write `vae.safetensors` (fp16) and `vae.json` to `out_folder`.

    Returns the PSNR in dB on pictures of the training styles ("train") and of styles never seen ("held out").
    """
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    model = PatchAutoencoder(**CONFIG).to(memory_format=torch.channels_last)
    pool = draw("train", POOL, seed)
    fit_pca(model, pool[:PCA_POOL])
    fit_decoder(model, pool, minutes)

    out_folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(state, out_folder / "vae.safetensors")
    (out_folder / "vae.json").write_text(json.dumps(CONFIG, indent=1) + "\n", encoding="utf-8")
    return {use: psnr(model, draw(use, 512, seed + 1)) for use in ("train", "held out")}


def draw(use: str, number: int, seed: int) -> torch.Tensor:
    """Pictures of the styles that serve `use`, uint8 [number, 3, 64, 64]."""
    scenes, rng = Scenes(load_sprites(styles(use)), load_things()), np.random.default_rng(seed)
    return torch.from_numpy(np.stack([scenes.sample(rng)[0] for _ in range(number)])).permute(0, 3, 1, 2).contiguous()


def fit_pca(model: PatchAutoencoder, pictures: torch.Tensor) -> None:
    """Make encoder and linear decoder the first principal components of the patches, latents of unit spread."""
    channels, patch = model.enc.out_channels, model.patch
    patches = _scaled(pictures).unfold(2, patch, patch).unfold(3, patch, patch)
    flat = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * patch * patch)
    mean = flat.mean(0)
    variance, axes = torch.linalg.eigh(torch.cov(flat.T))
    variance, axes = variance.flip(0)[:channels], axes.flip(1)[:, :channels]
    spread = (variance / variance[0]) ** TILT
    gain = spread / spread.square().mean().sqrt() / variance.sqrt()
    with torch.no_grad():
        model.enc.weight.copy_((axes * gain).T.reshape(model.enc.weight.shape))
        model.enc.bias.copy_(-(mean @ axes) * gain)
        model.dec.weight.copy_((axes / gain).T.reshape(model.dec.weight.shape))
        model.dec.bias.copy_(mean.reshape(3, -1).mean(1))
    model.enc.requires_grad_(False)


def fit_decoder(model: PatchAutoencoder, pictures: torch.Tensor, minutes: float) -> None:
    """Train all behind the encoder for so long; `model` ends as the running average of its weights."""
    torch.nn.init.zeros_(model.out.weight)
    torch.nn.init.zeros_(model.out.bias)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING))
    start, progress, step = time.monotonic(), 0.0, 0
    while progress < 1:
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1, (step + 1) / 50) * (0.02 + 0.98 * (1 - progress))
        target = _scaled(pictures[torch.randint(len(pictures), (BATCH,))])
        loss = _loss(_decode_noisy(model, target), target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update_parameters(model)
        step += 1
        progress = (time.monotonic() - start) / (60 * minutes)
    model.load_state_dict(average.module.state_dict())


def psnr(model: PatchAutoencoder, pictures: torch.Tensor) -> float:
    """The mean PSNR of encoded and decoded pictures, in dB."""
    with torch.no_grad():
        target = _scaled(pictures)
        error = (model.decode(model.encode(target)).clamp(-1, 1) - target).square().mean((1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())


def _scaled(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.float() / 127.5 - 1


def _decode_noisy(model: PatchAutoencoder, target: torch.Tensor) -> torch.Tensor:
    latent = model.encode(target)
    latent = latent + LATENT_NOISE * torch.rand(len(latent), 1, 1, 1) * torch.randn_like(latent)
    with torch.autocast("cpu", torch.bfloat16):
        return model.decode(latent.contiguous(memory_format=torch.channels_last)).float()


def _loss(picture: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 and a little L2, of the pictures and of the differences between neighbours."""
    error = picture - target
    across, down = error.diff(dim=3).abs().mean(), error.diff(dim=2).abs().mean()
    return error.abs().mean() + error.square().mean() + EDGES * (across + down)
