"""The UNet: Stable Diffusion's own objective, on captioned scenes, the text encoder and the autoencoder frozen.

Two processes of one thread each share a step's batch: on two cores that is faster than one process of two threads.
"""

import copy
import io
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save
from torch.nn.functional import mse_loss
from unguide.unguide_ops.files.atomic import write_whole

from dev.console import duration
from dev.device import CPU
from dev.inprocess import start_host
from dev.recipe.pool import Pool, make_pool

CONFIG = {
    "image_size": 32, "model_channels": 64, "num_res_blocks": [1, 1], "channel_mult": [1, 2], "num_heads": 4,
    "use_spatial_transformer": True, "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1, "use_linear_in_transformer": False, "use_checkpoint": False, "legacy": False,
}  # fmt: skip
"""The arguments of the host's UNetModel; its channels and the context's width are those of the encoders."""


@dataclass(frozen=True)
class Phase:
    """A part of the training. `widened`: how far captions are moved in meaning, at most (see `Pool.batch`)."""

    name: str
    steps: int
    learning_rate: float
    cool_down: float  # the share of the steps, at the end, in which the rate falls to 0
    widened: float = 0.0


PHASES = (Phase("learn", 16_500, 1e-3, 0.25), Phase("widen", 6000, 5e-4, 0.7, widened=2.0))
"""The first teaches the UNet the exact meanings of its words; the second widens each of these points to a region."""

PROCESSES, BATCH = 2, 32  # BATCH is that of each process: 64 pictures a step
WARM_UP_STEPS = 500
EMPTY = 0.1  # share of empty captions
EMA = 0.9995
GAMMA = 5.0  # of min-SNR: noise levels with a higher signal-to-noise ratio weigh less
CHECKPOINT_STEPS = 500


def train(folder: Path, pool_size: int = 130_000, seed: int = 0) -> None:
    """Train from the last checkpoint in `folder`, if there is one; writes unet.safetensors there."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29533")
    torch.multiprocessing.spawn(_train, (folder, pool_size, seed), nprocs=PROCESSES)


def _train(rank: int, folder: Path, pool_size: int, seed: int) -> None:
    """Run one process's share of the training."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # or steps take seconds
    start_host(device=CPU)  # so that it can be made again, bit for bit
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    with torch.inference_mode():
        pool = make_pool(folder, pool_size // PROCESSES, seed * PROCESSES + rank, quiet=rank > 0)
    pool = Pool(*(tensor.clone() for tensor in vars(pool).values()))  # autograd refuses tensors of inference mode
    unet = new_unet(folder, seed)
    for number, phase in enumerate(PHASES):
        checkpoint = folder / f"unet.{phase.name}.pt"
        if not (folder / f"unet.{PHASES[-1].name}.pt").is_file() or phase is PHASES[-1]:
            run_phase(phase, unet, pool, checkpoint, seed + 10**6 * number + rank, chief=rank == 0)
    dist.destroy_process_group()


def run_phase(phase: Phase, unet: torch.nn.Module, pool: Pool, checkpoint: Path, seed: int, chief: bool) -> None:
    """Train `unet` in place through a phase, from its checkpoint if there is one; it ends as the average of itself."""
    ema = copy.deepcopy(unet)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=phase.learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    step = 0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        unet.load_state_dict(saved["unet"])
        ema.load_state_dict(saved["ema"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    generator = torch.Generator().manual_seed(seed + 1000 * step)
    alphas = alphas_cumprod()
    began, average, first = time.monotonic(), 0.0, step
    while step < phase.steps:
        remaining = (phase.steps - step) / phase.steps
        rate = phase.learning_rate * min(1.0, (step + 1) / WARM_UP_STEPS, remaining / phase.cool_down)
        optimizer.param_groups[0]["lr"] = rate
        latents, contexts, _ = pool.batch(BATCH, EMPTY, phase.widened, generator)
        loss = diffusion_loss(unet, latents, contexts, alphas, generator)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        average_gradients(unet)
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(EMA, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(unet.parameters()), 1 - decay)
        average = loss.item() if step == first + 1 else 0.99 * average + 0.01 * loss.item()
        if chief and step % 100 == 0:
            seconds = (time.monotonic() - began) / (step - first) * (phase.steps - step)
            progress = f"step {step} of {phase.steps}, loss {average:.4f}, {duration(seconds)} left"
            print(f"{phase.name}: {progress}", flush=True)
        if chief and (step % CHECKPOINT_STEPS == 0 or step == phase.steps):
            state = {"unet": unet.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict()}
            file = io.BytesIO()
            torch.save({**state, "step": step}, file)
            write_whole(checkpoint, file.getvalue())
            weights = {name: value.half().contiguous() for name, value in ema.state_dict().items()}
            write_whole(checkpoint.parent / "unet.safetensors", save(weights))
    unet.load_state_dict(ema.state_dict())


def new_unet(folder: Path, seed: int) -> torch.nn.Module:
    """A freshly initialised UNet of the host's class, ready to train."""
    from unguide.demo_model.loader import load_autoencoder, load_config
    from unguide.demo_model.loader import new_unet as host_model

    torch.manual_seed(seed)
    config = load_config(folder)
    unet = host_model(config["unet"], load_autoencoder(folder, config["vae"])).diffusion_model
    initialise(unet)
    return unet.float().train().requires_grad_(True)


def initialise(unet: torch.nn.Module) -> None:
    """Initialise the host's layers: torch's defaults, and zeros where a block must begin as the identity."""
    for module in unet.modules():
        for kind in (torch.nn.Linear, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm):
            if isinstance(module, kind):
                kind.reset_parameters(module)
    last = [name for name, _ in unet.named_modules() if name.endswith(("out_layers.3", "proj_out"))]
    for module in [unet.get_submodule(name) for name in last] + [unet.out[-1]]:
        torch.nn.init.zeros_(module.weight)
        torch.nn.init.zeros_(module.bias)


def alphas_cumprod() -> torch.Tensor:
    """Stable Diffusion 1's noise schedule, [1000]."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def diffusion_loss(unet, latents, contexts, alphas, generator) -> torch.Tensor:
    """MSE of the predicted noise at random timesteps, weighted by min-SNR (arXiv 2303.09556, eps prediction)."""
    t = torch.randint(len(alphas), (len(latents),), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    alpha = alphas[t].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    with torch.autocast("cpu", torch.bfloat16):
        predicted = unet(noisy, t, context=contexts).float()
    snr = alphas[t] / (1 - alphas[t])
    weights = snr.clamp(max=GAMMA) / snr
    return (weights * mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))).mean()


def average_gradients(unet: torch.nn.Module) -> None:
    """The mean gradient of all processes, in one exchange."""
    gradients = [parameter.grad for parameter in unet.parameters()]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= PROCESSES
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
