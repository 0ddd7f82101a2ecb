"""How much a change of a weight takes on the way, reckoned before any of it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def outlines(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A layer's tensors without their numbers, by suffix; its factor, on which no size hangs, is 0."""
    return {end: torch.zeros(()) if end == "alpha" else torch.empty_like(it, device="meta")
            for end, it in tensors.items() if end != "reshape_weight"}  # fmt: skip


def numbers_made(work: Callable[[], object]) -> int:
    """How many numbers some work on tensors without numbers would put into memory, all together."""
    with _Counting() as counting:
        work()
    return counting.numbers


class _Counting(TorchDispatchMode):
    """Sees what each operation gives back; a view of what is there, or what is there itself, is not new."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if not any(it.alias_info for it in func._schema.returns):
            several = found if isinstance(found, tuple | list) else (found,)
            self.numbers += sum(it.numel() for it in several if isinstance(it, torch.Tensor))
        return found
