"""Gradient checkpointing: blocks compute their activations a second time instead of keeping them. Pure torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from .branch import Branch
from .forwards import wrapped

CONTAINERS = (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.Sequential)


@contextmanager
def checkpointed(model: torch.nn.Module, branch: Branch, enabled: Callable[[], bool]) -> Iterator[None]:
    """Checkpoint every block of `model` for the duration, where gradients are wanted, whenever `enabled()`.

    The second computation happens in `backward`, when the branch may be off: it is switched as it was in the first.
    """
    with wrapped((block, partial(_checkpointed, branch, enabled)) for block in blocks(model)):
        yield


def blocks(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The outermost modules that are neither containers nor single layers."""
    for child in model.children():
        if isinstance(child, CONTAINERS):
            yield from blocks(child)
        elif next(child.children(), None) is not None:
            yield child


def _checkpointed(branch: Branch, enabled: Callable[[], bool], forward):
    def compute_twice(*args, **kwargs):
        if not (torch.is_grad_enabled() and enabled()):
            return forward(*args, **kwargs)
        again = branch.on if branch.is_on else nullcontext

        def on_copies(*args, **kwargs):  # a block may add to its input in place, and is to find it again
            return forward(*map(_copy, args), **{name: _copy(it) for name, it in kwargs.items()})

        return checkpoint(
            on_copies, *args, use_reentrant=False, preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), again()), **kwargs,
        )  # fmt: skip

    return compute_twice


def _copy(it):
    return it.clone() if isinstance(it, torch.Tensor) else it
