"""The memory that a change of weights would take, counted without computing any number."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def meta_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A layer's tensors of a LoRA file, by suffix, as tensors of the same shapes without data ("meta" device).

    `alpha`, whose value no size depends on, is a 0; `reshape_weight` is left out.
    """
    return {suffix: torch.zeros(()) if suffix == "alpha" else torch.empty_like(tensor, device="meta")
            for suffix, tensor in tensors.items() if suffix != "reshape_weight"}  # fmt: skip


def elements_allocated(compute: Callable[[], object]) -> int:
    """The number of elements of all tensors that a computation on meta tensors creates, intermediate ones included."""
    with _AllocationCounter() as counter:
        compute()
    return counter.elements


class _AllocationCounter(TorchDispatchMode):
    """Adds up the sizes of all operations' results, except views of existing tensors and these tensors themselves."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not any(value.alias_info for value in func._schema.returns):
            results = result if isinstance(result, tuple | list) else (result,)
            self.elements += sum(tensor.numel() for tensor in results if isinstance(tensor, torch.Tensor))
        return result
