"""The trained models of other families: each family's own objective, on the embedded model's pictures and captions.

On a GPU of today STEPS from nothing take some minutes a family. `resume` goes on from the weights that are there, at a
lower learning rate: on a CPU as well, where a step of 32 pictures takes about a second.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import nn
from torch.nn.functional import mse_loss
from unguide.unguide_ops.files.atomic import write_whole

from dev.console import duration, say
from dev.device import CPU, chosen
from dev.families import trained
from dev.inprocess import start_host
from dev.recipe.pool import Pool, make_pool
from dev.recipe.unet import EMPTY, GAMMA, alphas_cumprod, initialise

STEPS = {"sd3": 12_000, "wan": 6000, "lumina2": 6000, "sd2v": 6000}
LEARNING_RATE, RESUMED_RATE = 8e-4, 3e-4
WARM_UP, CONSTANT = 0.03, 0.55  # shares of the steps: the rate rises, then stays, then falls to 0 as a cosine
WIDENED_FROM, WIDENED = 0.6, 2.0  # share of the steps from which captions are moved, and how far: see `Pool.batch`
EMA = 0.9995
SHIFT = trained.FLOW["shift"]
ZERO = ("adaLN_modulation", "final_layer.linear", "head.head", "time_projection.1")
"""Parts of the names of layers that begin as zeros, so that each block begins as the identity."""


@dataclass(frozen=True)
class Options:
    """`batch` pictures a step. `resume`: go on from the weights in the repository instead of from new ones."""

    steps: int
    batch: int
    resume: bool
    seed: int = 0


def train(name: str, folder: Path, pool: Pool, options: Options) -> None:
    """Train one of `trained.TRAINED`, and write its weights to `folder`/NAME.safetensors as they are stored."""
    device = torch.device(chosen())
    start_host(device=device.type)
    model = new_model(name, options).to(device)
    average = copy.deepcopy(model.diffusion_model)
    for progress in trained_steps(name, model, average, pool, options):
        say(f"\r{name}: {progress}", end="")
    say("")
    weights = {key: value.cpu().contiguous() for key, value in average.state_dict().items()}
    write_whole(folder / f"{name}.safetensors", save(trained.quantised(weights)))


def draw_pool(size: int, seed: int) -> Pool:
    """The training pictures; processes of their own draw them, whose host runs on the CPU whatever the device."""
    from dev.recipe import FOLDER

    FOLDER.mkdir(parents=True, exist_ok=True)
    processes = os.cpu_count() or 1
    with ProcessPoolExecutor(processes, get_context("spawn")) as workers:
        parts = [workers.submit(_part_of_pool, -(-size // processes), seed * processes + i) for i in range(processes)]
        return Pool.joined([Pool(**load(part.result())) for part in parts])


def _part_of_pool(size: int, seed: int) -> bytes:
    torch.set_num_threads(1)
    start_host(device=CPU)
    with torch.inference_mode():
        pool = make_pool(trained.FOLDER.parents[2] / "demo_model", size, seed, quiet=True)
        return save({name: tensor.contiguous() for name, tensor in vars(pool).items()})


def new_model(name: str, options: Options):
    """The host's BaseModel of the family, ready to train."""
    torch.manual_seed(options.seed)
    with torch.inference_mode(False):
        model = trained.new_model(name)
        if options.resume:
            trained.load_weights(model, name)
        elif trained.TRAINED[name].v_prediction:
            initialise(model.diffusion_model)
        else:
            initialise_transformer(model.diffusion_model)
    model.diffusion_model.float().train().requires_grad_(True)
    return model


def initialise_transformer(network: nn.Module) -> None:
    """Initialise the host's layers: Linears by Xavier, ZERO as zeros, tables of positions and modulation near zero."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if any(part in name for part in ZERO):
                nn.init.zeros_(module.weight)
        for kind in (nn.Conv2d, nn.Conv3d, nn.LayerNorm):
            if isinstance(module, kind):
                kind.reset_parameters(module)  # torch's own: the host's does nothing
        if "RMSNorm" in type(module).__name__ and module.weight is not None:
            nn.init.ones_(module.weight)
    for name, parameter in network.named_parameters():
        if name.endswith(("modulation", "pos_embed", "pad_token", "_pad")):
            nn.init.normal_(parameter, std=0.02)
    for name, buffer in network.named_buffers():
        if name.endswith("pos_embed"):
            nn.init.normal_(buffer, std=0.02)


def trained_steps(name: str, model, average: nn.Module, pool: Pool, options: Options) -> Iterator[str]:
    """Train `model` in place, `average` being the running average of its weights; yields the progress in words."""
    from comfy import model_management

    model_management.in_training = True  # newer hosts: without kernels that gradients cannot pass through
    network, family = model.diffusion_model, trained.TRAINED[name]
    device = next(network.parameters()).device
    rate = RESUMED_RATE if options.resume else LEARNING_RATE
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    generator = torch.Generator().manual_seed(options.seed)
    began, mean = time.monotonic(), math.nan
    for step in range(options.steps):
        progress = step / options.steps
        optimizer.param_groups[0]["lr"] = rate * rate_at(progress)
        widened = WIDENED if options.resume or progress >= WIDENED_FROM else 0.0
        batch = pool.batch(options.batch, EMPTY, widened, generator, alike=family.own_words)
        loss = sum(
            len(latents) / options.batch * loss_of(family, model, latents.to(device), contexts.to(device), generator)
            for latents, contexts in (by_length(*batch) if family.own_words else [batch[:2]])
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            decay = min(EMA, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
        mean = loss.item() if math.isnan(mean) else 0.99 * mean + 0.01 * loss.item()
        left = (time.monotonic() - began) / (step + 1) * (options.steps - step - 1)
        yield f"step {step + 1} of {options.steps}, loss {mean:.4f}, {duration(left)} left   "


def rate_at(progress: float) -> float:
    """The learning rate's share of its peak after this share of the steps."""
    fall = max(0.0, progress - CONSTANT) / (1 - CONSTANT)
    return min(1.0, (progress + 1e-3) / WARM_UP) * (1 + math.cos(math.pi * fall)) / 2


def by_length(
    latents: torch.Tensor, contexts: torch.Tensor, lengths: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batch in parts whose captions have as many tokens as each other, without what comes after them."""
    for length in lengths.unique().tolist():
        rows = lengths == length
        yield latents[rows], contexts[rows, :length]


def loss_of(family: trained.TrainedFamily, model, latents, contexts, generator) -> torch.Tensor:
    """MSE of what the family predicts: the velocity noise - x0 (flow), or alpha noise - sigma x0 by min-SNR."""
    axes = [1] * (latents.ndim - 1)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    if family.v_prediction:
        t = torch.randint(1000, (len(latents),), generator=generator)
        alphas = alphas_cumprod()[t]
        snr, alpha = alphas / (1 - alphas), alphas.view(-1, *axes).to(latents)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        wanted, timesteps = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents, t.to(latents)
        weights = (snr.clamp(max=GAMMA) / (snr + 1)).to(latents)  # arXiv 2303.09556, v-prediction
    else:
        u = torch.sigmoid(torch.randn(len(latents), generator=generator)).to(latents)
        sigmas = SHIFT * u / (1 + (SHIFT - 1) * u)
        level = sigmas.view(-1, *axes)
        noisy, wanted = (1 - level) * latents + level * noise, noise - latents
        timesteps, weights = model.model_sampling.timestep(sigmas), torch.ones_like(u)
    extras = {"y": contexts[:, -1]} if family.pooled else {}
    if family.config == "Lumina2":
        extras["num_tokens"] = contexts.shape[1]
    noisy = noisy.unsqueeze(2) if family.time_axis else noisy
    with torch.autocast(latents.device.type, torch.bfloat16):
        predicted = model.diffusion_model(noisy, timesteps, context=contexts, **extras).float()
    predicted = predicted.squeeze(2) if family.time_axis else predicted
    return (weights * mse_loss(predicted, wanted, reduction="none").flatten(1).mean(1)).mean()
