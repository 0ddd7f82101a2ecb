"""Traps: real places in the host, torch and the pack at which something goes wrong at the n-th visit."""

from __future__ import annotations

import argparse
import errno
import functools
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

INTERRUPT, ERROR, MEMORY, END = "interrupt", "error", "out of memory", "end of the process"
SHORT = "short of memory"  # once: with less at a time it goes on, while MEMORY stays
FULL, BROKEN, KILL = "full disk", "broken disk", "kill"
LAYER = "middle_block.1.transformer_blocks.0.attn2.to_k"  # of the embedded model, where concept LoRAs hang


class TrapError(Exception):
    """What went wrong, where nothing more special did."""


def error_of(fault: str) -> BaseException | None:
    """What a trap raises; None where it does something else."""
    import torch

    made: dict[str, Callable[[], BaseException]] = {
        ERROR: lambda: TrapError("a trap"),
        MEMORY: lambda: torch.OutOfMemoryError("a trap: out of memory"),
        SHORT: lambda: torch.OutOfMemoryError("a trap: short of memory"),
        END: lambda: KeyboardInterrupt("a trap"),
        FULL: lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        BROKEN: lambda: OSError(errno.EIO, os.strerror(errno.EIO)),
    }
    return made[fault]() if fault in made else None


def _aside(name: str) -> property:
    """An attribute that is kept where `host.others` does not look: there a trap on a layer is another pack's patch."""
    return property(lambda it: getattr(it.aside, name), lambda it, value: setattr(it.aside, name, value))


class Trap:
    """Springs at its `at`-th visit; visits count while it is `armed`."""

    armed, sprung, visits, seen = _aside("armed"), _aside("sprung"), _aside("visits"), _aside("seen")

    def __init__(self, fault: str, at: int = 1, look: Callable[[], object] = lambda: None):
        """`look` is called when it springs, and what it returns is `seen`."""
        self.fault, self.at, self.look = fault, at, look
        self.error, self.aside = error_of(fault), argparse.Namespace()
        self.armed, self.sprung, self.visits, self.seen = True, False, 0, None

    def visit(self) -> None:
        """Go wrong, if it is time."""
        self.visits += self.armed
        again = self.sprung and self.fault != MEMORY
        if again or not self.armed or self.visits < self.at:
            return
        self.sprung, self.seen = True, self.seen or self.look()
        if self.fault == INTERRUPT:
            import comfy.model_management

            comfy.model_management.interrupt_current_processing()
        elif self.fault == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.error:
            raise self.error


def set_at(place: str, trap: Trap, network=None):
    """A context in which the trap is visited at `place`: one of PLACES, or a function, as `module:name`.

    A module of the pack is named from its folder on. `network`: the diffusion model whose layers are meant.
    """
    if ":" in place:
        return visited_before(place, trap.visit)
    return PLACES[place](trap, network)


def armed_in(function: str, trap: Trap):
    """A context in which the trap is armed only from the first call of `function` on; of none: from the start."""
    if not function:
        return nullcontext()
    trap.armed = False
    return visited_before(function, functools.partial(setattr, trap, "armed", True))


def visited_before(function: str, visit: Callable[[], None]):
    """A context in which every call of a function, `module:name`, is preceded by `visit()`."""
    name, attribute = function.split(":")
    module = module_named(name)
    plain = getattr(module, attribute)

    def visiting(*args, **kwargs):
        visit()
        return plain(*args, **kwargs)

    return replaced(module, attribute, functools.update_wrapper(visiting, plain))


def module_named(name: str):
    """A module of the pack, by its name in there, wherever the host has loaded it from; else any."""
    found = [it for full, it in sys.modules.items() if full.endswith(f"unguide.{name}")]
    return found[0] if found else importlib.import_module(name)


@contextmanager
def replaced(owner, name: str, value) -> Iterator[None]:
    """An attribute with another value for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def in_layer(trap: Trap, network) -> Iterator[None]:
    """In a layer's forward, as another pack would place one. It must be there again when the work is done."""
    layer = network.get_submodule(LAYER)
    plain = layer.forward

    def forward(*args, **kwargs):
        trap.visit()
        return plain(*args, **kwargs)

    layer.forward = forward
    try:
        yield
        if layer.forward is not forward:
            raise AssertionError("what another pack had placed on a layer is gone")
    finally:
        del layer.forward


@contextmanager
def in_gradient(trap: Trap, network) -> Iterator[None]:
    """In the backward of a layer that reads the picture."""
    layer = network.get_submodule(LAYER.replace("to_k", "to_q"))
    plain = layer.forward

    def forward(x, *args, **kwargs):
        if x.requires_grad:
            x.register_hook(lambda gradient: trap.visit())
        return plain(x, *args, **kwargs)

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward


@contextmanager
def in_optimizer(trap: Trap, network) -> Iterator[None]:
    """In an optimizer's step."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    hook = register_optimizer_step_pre_hook(lambda *_: trap.visit())
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def in_progress(trap: Trap, network) -> Iterator[None]:
    """Where the host is told of progress, and itself looks whether the user has cancelled."""
    import comfy.model_management
    import comfy.utils

    def told(*args, **kwargs):
        trap.visit()
        comfy.model_management.throw_exception_if_processing_interrupted()

    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(told)
    try:
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(before)


@contextmanager
def in_installation(trap: Trap, network) -> Iterator[None]:
    """Where a layer is given another forward: some have theirs by then, others not."""
    layer = network.get_submodule(LAYER)
    own = type(layer)

    def refuse(self, name, value):
        if name == "forward":
            trap.visit()
        own.__setattr__(self, name, value)

    layer.__class__ = type(own.__name__, (own,), {"__setattr__": refuse})
    try:
        yield
    finally:
        layer.__class__ = own


PLACES = {"layer": in_layer, "gradient": in_gradient, "optimizer": in_optimizer, "progress": in_progress,
          "installation": in_installation}  # fmt: skip


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """A folder on a disk without room for a LoRA: a tiny one of its own where we may mount one."""
    with mounted(folder, "size=4k") as done, nullcontext() if done else small_files():
        yield


@contextmanager
def small_files() -> Iterator[None]:
    """No file of this process may grow to a LoRA's size."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder that nothing may be written to, not even by root; where we may not mount one, a file in its place."""
    with mounted(folder, "ro") as done, nullcontext() if done else file_in_place_of(folder):
        yield


@contextmanager
def file_in_place_of(folder: Path) -> Iterator[None]:
    """An empty file where an empty folder was."""
    folder.rmdir()
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    """An empty file system of its own in the folder (made if need be) for a while; False where we may not."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = os.name == "posix" and os.geteuid() == 0 and not subprocess.run(command, capture_output=True).returncode
    try:
        yield done
    finally:
        if done:
            subprocess.run(["umount", "-l", str(folder)], check=True)
