"""Gradient checkpointing: blocks compute their activations a second time instead of keeping them. Pure torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from ..lora.adapter import LoRAAdapter
from ..lora.forward_patch import patched_forwards

CONTAINERS = (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.Sequential)


@contextmanager
def checkpointed(model: torch.nn.Module, adapter: LoRAAdapter, enabled: Callable[[], bool]) -> Iterator[None]:
    """For the duration, every block of `model` is checkpointed when gradients are recorded and `enabled()` is true.

    The second computation happens in `backward`, when the adapter may be off: it is switched as in the first one.
    """
    with patched_forwards((block, partial(_checkpointed, adapter, enabled)) for block in blocks(model)):
        yield


def blocks(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The outermost modules that are neither containers nor single layers."""
    for child in model.children():
        if isinstance(child, CONTAINERS):
            yield from blocks(child)
        elif next(child.children(), None) is not None:
            yield child


def _checkpointed(adapter: LoRAAdapter, enabled: Callable[[], bool], forward: Callable) -> Callable:
    def checkpointed_forward(*args, **kwargs):
        if not (torch.is_grad_enabled() and enabled()):
            return forward(*args, **kwargs)
        as_now = adapter.on if adapter.is_on else nullcontext

        def on_copies(*args, **kwargs):  # a block may change its inputs in place, but must get the same ones again
            return forward(*map(_copy, args), **{name: _copy(value) for name, value in kwargs.items()})

        return checkpoint(
            on_copies, *args, use_reentrant=False, preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), as_now()), **kwargs,
        )  # fmt: skip

    return checkpointed_forward


def _copy(value):
    return value.clone() if isinstance(value, torch.Tensor) else value
