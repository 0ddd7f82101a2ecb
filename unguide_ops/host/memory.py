"""What the machine has memory for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import comfy.model_management
import torch

OutOfMemory = comfy.model_management.OOM_EXCEPTION
empty_cache = comfy.model_management.soft_empty_cache

KEPT, CHECKPOINTED = 20.0, 4.0
"""Memory of a row with gradients, in units of the host's own estimate without: SDXL at 1024 pixels in fp16 took 18 and
2.4 on an H200."""

ROOM = 0.9  # share of the free memory that training plans with
FEWEST = 2  # rows at once that are worth the memory of kept activations; below, they are computed twice


def rows_that_fit(model, latent: torch.Tensor, most: int = 64) -> int:
    """How many latents of this shape may be predicted at once, cond and uncond, in the memory that will be free.

    That is what is free now, less what of the model is still to be loaded.
    """
    needed = model.model.memory_required([2, *latent.shape[1:]]) * 1.5
    return max(1, min(most, int((_free(model) - (model.model_size() - model.loaded_size())) / needed)))


@dataclass
class TrainingMemory:
    """How much of a batch is predicted with gradients at once: as much as fits. Rounding apart, the result is the same.

    `rows` share a forward; with `checkpointing` blocks compute their activations twice instead of keeping them.
    """

    rows: int
    checkpointing: bool

    @classmethod
    def of(cls, model, latent: torch.Tensor, batch: int, checkpointing: bool) -> TrainingMemory:
        """For a loaded MODEL, from the memory that is free when the host has unloaded all else.

        At most `batch` rows of latents like this one, else a power of two, so that the number seldom changes from run
        to run. Checkpointing is switched on where fewer than FEWEST rows fit without.
        """
        row = model.model.memory_required([1, *latent.shape[1:]])
        wanted = min(batch, FEWEST) * KEPT if not checkpointing else batch * CHECKPOINTED
        _unload_others(model, row * max(wanted, batch * CHECKPOINTED) / ROOM)
        room = _free(model) * ROOM
        if not checkpointing and (rows := int(room / (row * KEPT))) >= min(batch, FEWEST):
            return cls(_round(rows, batch), False)
        return cls(_round(int(room / (row * CHECKPOINTED)), batch), True)

    def shrink(self) -> bool:
        """After running out of memory: plan with less. False when that is not possible."""
        if self.rows > 1:
            self.rows = _round(self.rows // 2, self.rows)
        elif not self.checkpointing:
            self.checkpointing = True
        else:
            return False
        empty_cache()
        return True


def _round(rows: int, batch: int) -> int:
    """The whole batch, or the largest power of two."""
    return batch if rows >= batch else 1 << max(1, rows).bit_length() - 1


def _free(model) -> float:
    """Bytes. Newer hosts count what they can free."""
    return getattr(model, "get_free_memory", comfy.model_management.get_free_memory)(model.load_device)


def _unload_others(model, needed: float) -> None:
    """Ask the host for so many bytes, at the cost of all but this model."""
    ours = [
        it for it in comfy.model_management.current_loaded_models if it.model is not None and model.is_clone(it.model)
    ]
    comfy.model_management.free_memory(needed, model.load_device, keep_loaded=ours)


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
