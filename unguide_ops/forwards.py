"""Modules with another `forward` for a while, and their own again afterwards. Pure torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def wrapped(wraps: Iterable[tuple[torch.nn.Module, Callable[[Callable], Callable]]]) -> Iterator[None]:
    """Each module's instance attribute `forward` is `wrap(forward)` for the duration; restored in any case.

    A module may come several times: what wraps it last is outermost. Where somebody else has put another in the place
    of ours meanwhile, theirs stays.
    """
    before: list[tuple[torch.nn.Module, Callable | None, Callable]] = []
    try:
        for module, wrap in wraps:
            ours = wrap(module.forward)
            before.append((module, vars(module).get("forward"), ours))
            module.forward = ours
        yield
    finally:
        for module, forward, ours in reversed(before):
            if vars(module).get("forward", ours) is not ours:
                continue
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward
