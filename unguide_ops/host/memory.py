"""Decides how many rows fit into the device's memory, and makes the host free what is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import comfy.model_management
import torch

from .types import Model

OutOfMemory = comfy.model_management.OOM_EXCEPTION
empty_cache = comfy.model_management.soft_empty_cache

KEPT, CHECKPOINTED = 20.0, 4.0
"""Memory of a row with gradients, activations kept or computed twice, as a multiple of the host's estimate for a row
without gradients. SDXL at 1024 pixels in fp16 took 18 and 2.4 on an H200."""

USABLE = 0.9  # the share of the free memory that training plans with
MIN_ROWS_KEPT = 2  # if fewer rows fit with their activations kept, these are computed twice


def rows_that_fit(model: Model, latent: torch.Tensor, limit: int = 64) -> int:
    """The number of latents of this shape, from 1 to `limit`, that fit into one forward with cond and uncond.

    The part of the model that is not loaded yet is subtracted from the free memory.
    """
    needed = model.model.memory_required([2, *latent.shape[1:]]) * 1.5
    return max(1, min(limit, int((_free(model) - (model.model_size() - model.loaded_size())) / needed)))


@dataclass
class TrainingMemory:
    """How a batch is predicted with gradients: `rows` at a time, which changes the result by rounding only.

    With `checkpointing`, blocks compute their activations twice instead of keeping them.
    """

    rows: int
    checkpointing: bool

    @classmethod
    def of(cls, model: Model, latent: torch.Tensor, batch: int, checkpointing: bool) -> TrainingMemory:
        """The plan for a loaded MODEL and a batch of latents of this shape, after the host has unloaded other models.

        `rows` is `batch` if that fits, else a power of two, so that it seldom differs between runs. Checkpointing is
        switched on if fewer than MIN_ROWS_KEPT rows fit without it.
        """
        row = model.model.memory_required([1, *latent.shape[1:]])
        least = min(batch, MIN_ROWS_KEPT) * KEPT if not checkpointing else batch * CHECKPOINTED
        _unload_others(model, row * max(least, batch * CHECKPOINTED) / USABLE)
        usable = _free(model) * USABLE
        if not checkpointing and (rows := int(usable / (row * KEPT))) >= min(batch, MIN_ROWS_KEPT):
            return cls(_round(rows, batch), False)
        return cls(_round(int(usable / (row * CHECKPOINTED)), batch), True)

    def shrink(self) -> bool:
        """Plan with less after running out of memory. Returns False if there is nothing left to reduce."""
        if self.rows > 1:
            self.rows = _round(self.rows // 2, self.rows)
        elif not self.checkpointing:
            self.checkpointing = True
        else:
            return False
        empty_cache()
        return True


def _round(rows: int, batch: int) -> int:
    """The batch if that many rows fit, else the largest power of two that does."""
    return batch if rows >= batch else 1 << max(1, rows).bit_length() - 1


def _free(model: Model) -> float:
    """Free memory on MODEL's device in bytes; newer hosts include what they can free."""
    return getattr(model, "get_free_memory", comfy.model_management.get_free_memory)(model.load_device)


def _unload_others(model: Model, needed: float) -> None:
    """Make the host free this number of bytes by unloading other models than this one."""
    loaded = comfy.model_management.current_loaded_models
    clones = [it for it in loaded if it.model is not None and model.is_clone(it.model)]
    comfy.model_management.free_memory(needed, model.load_device, keep_loaded=clones)


@contextmanager
def on_device(network: torch.nn.Module) -> Iterator[None]:
    """A context in which a network that is not a MODEL is on the host's device; the host frees memory for it."""
    device = comfy.model_management.get_torch_device()
    needed = comfy.model_management.module_size(network) + comfy.model_management.minimum_inference_memory()
    comfy.model_management.free_memory(1.1 * needed, device)
    network.to(device)
    try:
        yield
    finally:
        network.to("cpu")
