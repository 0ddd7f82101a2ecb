"""The UNet: Stable Diffusion's own objective, on captioned scenes, the text encoder and the autoencoder frozen.

Two processes of one thread each share a step's batch: on two cores that is faster than one process of two threads.
"""

import copy
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.nn.functional import mse_loss

from dev.inprocess import start_host
from dev.stages import duration

CONFIG = {
    "image_size": 32, "model_channels": 64, "num_res_blocks": [1, 1], "channel_mult": [1, 2], "num_heads": 4,
    "use_spatial_transformer": True, "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1, "use_linear_in_transformer": False, "use_checkpoint": False, "legacy": False,
}  # fmt: skip
"""Of the host's UNetModel; its channels and the context's width are those of the encoders."""

PROCESSES, BATCH = 2, 32
"""BATCH is each process's: 64 pictures a step."""

LEARNING_RATE, WARM_UP_STEPS, COOL_DOWN = 1e-3, 500, 0.25
"""The rate is constant until the last quarter of the steps, and falls to 0 there: a run can be prolonged until then."""

EMPTY = 0.1  # share of empty captions
EMA = 0.9995
GAMMA = 5.0  # of min-SNR: noise levels with a higher signal-to-noise ratio weigh less
CHECKPOINT_STEPS = 500


def train(folder: Path, steps: int, pool_size: int = 150_000, seed: int = 0) -> None:
    """Train for `steps` from the last checkpoint in `folder`, if there is one; writes unet.safetensors there."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29533")
    torch.multiprocessing.spawn(_train, (folder, steps, pool_size, seed), nprocs=PROCESSES)


def _train(rank: int, folder: Path, steps: int, pool_size: int, seed: int) -> None:
    """One process's share."""
    from dev.recipe.pool import make_pool

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # or steps take seconds
    start_host()
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    chief = rank == 0
    with torch.inference_mode():
        pool = make_pool(folder, pool_size // PROCESSES, seed * PROCESSES + rank, quiet=not chief)
    pool.latents, pool.contexts = pool.latents.clone(), pool.contexts.clone()
    unet = new_unet(folder, seed)
    ema = copy.deepcopy(unet)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01)
    checkpoint = folder / "unet.checkpoint.pt"
    step = 0
    if checkpoint.is_file():
        saved = torch.load(checkpoint, weights_only=True)
        unet.load_state_dict(saved["unet"])
        ema.load_state_dict(saved["ema"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    generator = torch.Generator().manual_seed(seed + 1000 * (step * PROCESSES + rank))
    alphas = alphas_cumprod()
    began, shown, first = time.monotonic(), None, step
    while step < steps:
        lr = LEARNING_RATE * min(1.0, (step + 1) / WARM_UP_STEPS, (steps - step) / (COOL_DOWN * steps))
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = diffusion_loss(unet, *pool.batch(BATCH, EMPTY, generator), alphas, generator)
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        average_gradients(unet)
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        step += 1
        decay = min(EMA, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(unet.parameters()), 1 - decay)
        shown = loss.item() if shown is None else 0.99 * shown + 0.01 * loss.item()
        if chief and step % 100 == 0:
            rate = (time.monotonic() - began) / (step - first)
            left = duration(rate * (steps - step))
            print(f"step {step} of {steps}, loss {shown:.4f}, {rate:.2f} s a step, {left} left", flush=True)
        if chief and (step % CHECKPOINT_STEPS == 0 or step == steps):
            state = {"unet": unet.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "step": step}, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)
            save(ema, folder)
    dist.destroy_process_group()


def new_unet(folder: Path, seed: int) -> torch.nn.Module:
    """A freshly initialised UNet of the host's class, ready to train."""
    from demo_model import load_autoencoder, load_config
    from demo_model import new_unet as host_model

    torch.manual_seed(seed)
    config = load_config(folder)
    unet = host_model(config["unet"], load_autoencoder(folder, config["vae"])).diffusion_model
    initialise(unet)
    return unet.float().train().requires_grad_(True)


def initialise(unet: torch.nn.Module) -> None:
    """The host builds layers uninitialised: torch's defaults, and zeros where a block must begin as the identity."""
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


def save(unet: torch.nn.Module, folder: Path) -> None:
    """unet.safetensors, fp16, whole or not at all."""
    part = folder / "unet.part"
    save_file({name: value.half().contiguous() for name, value in unet.state_dict().items()}, part)
    part.replace(folder / "unet.safetensors")
