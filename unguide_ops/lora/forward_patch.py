"""`patched_forwards`: wraps the `forward` of modules for a while and restores it afterwards. Pure torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def patched_forwards(wraps: Iterable[tuple[torch.nn.Module, Callable[[Callable], Callable]]]) -> Iterator[None]:
    """For the duration, each module's instance attribute `forward` is `wrap(forward)`; afterwards it is restored.

    A module may occur several times: its last wrap is the outermost. If something else replaces a wrapped `forward` in
    the meantime, that replacement stays.
    """
    replaced: list[tuple[torch.nn.Module, Callable | None, Callable]] = []
    try:
        for module, wrap in wraps:
            wrapped = wrap(module.forward)
            replaced.append((module, vars(module).get("forward"), wrapped))
            module.forward = wrapped
        yield
    finally:
        for module, forward, wrapped in reversed(replaced):
            if vars(module).get("forward", wrapped) is not wrapped:
                continue
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward
