"""What the machine has memory for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import torch

KEPT, CHECKPOINTED = 12.0, 4.0  # memory of a row with gradients, in units of the host's own estimate without

ROOM = 0.6  # share of the device's memory that training may fill


def rows_that_fit(model, latent: torch.Tensor, most: int = 64) -> int:
    """How many latents of this shape may be predicted at once, cond and uncond, in the memory that is free now."""
    needed = model.model.memory_required([2, *latent.shape[1:]]) * 1.5
    free = getattr(model, "get_free_memory", comfy.model_management.get_free_memory)  # newer hosts': what can be freed
    return max(1, min(most, int(free(model.load_device) / needed)))


def rows_to_train(model, latent: torch.Tensor, checkpointing: bool) -> int:
    """How many rows may be predicted with gradients at once. It depends on the machine and not on what is free now,
    since another number would round differently: the same seed, the same LoRA.
    """
    device = model.load_device
    row = model.model.memory_required([1, *latent.shape[1:]]) * (CHECKPOINTED if checkpointing else KEPT)
    room = comfy.model_management.get_total_memory(device) * ROOM - model.model_size()
    return max(1, int(room / row))


@contextmanager
def at_the_device(network: torch.nn.Module) -> Iterator[None]:
    """While it lasts, a network that is no MODEL is on the host's device, which makes room for it."""
    device = comfy.model_management.get_torch_device()
    needed = comfy.model_management.module_size(network) + comfy.model_management.minimum_inference_memory()
    comfy.model_management.free_memory(1.1 * needed, device)
    network.to(device)
    try:
        yield
    finally:
        network.to("cpu")
