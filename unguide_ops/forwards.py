"""Modules with another `forward` for a while, and their own again afterwards. Pure torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def wrapped(wraps: Iterable[tuple[torch.nn.Module, Callable[[Callable], Callable]]]) -> Iterator[None]:
    """Each module's instance attribute `forward` is `wrap(forward)` for the duration; restored in any case.

    A module may come several times: what wraps it last is outermost.
    """
    before: list[tuple[torch.nn.Module, Callable | None]] = []
    try:
        for module, wrap in wraps:
            before.append((module, vars(module).get("forward")))
            module.forward = wrap(module.forward)
        yield
    finally:
        for module, forward in reversed(before):
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward
