"""Faults at real places in the host, torch and the pack: at the n-th call there, something goes wrong."""

import argparse
import errno
import functools
import importlib
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management
import comfy.utils
import torch

INTERRUPT, ERROR, MEMORY, END = "interrupt", "error", "out of memory", "end of the process"
SHORT = "short of memory"  # once: with smaller batches the work goes on; MEMORY is raised at all later calls, too
FULL, BROKEN, KILL = "full disk", "broken disk", "kill"
LAYER = "middle_block.1.transformer_blocks.0.attn2.to_k"  # of the embedded model; concept LoRAs change it
OPTIMIZER = "torch.optim:Adam.step"
FULL_DISK, READ_ONLY = "size=4k", "ro"


class FaultError(Exception):
    """The error of a fault that is not of a special kind."""


ERRORS = {
    ERROR: lambda: FaultError("an injected fault"),
    MEMORY: lambda: torch.OutOfMemoryError("an injected fault: out of memory"),
    SHORT: lambda: torch.OutOfMemoryError("an injected fault: short of memory"),
    END: lambda: KeyboardInterrupt("an injected fault"),
    FULL: lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    BROKEN: lambda: OSError(errno.EIO, os.strerror(errno.EIO)),
}


class Fault:
    """Something that goes wrong at the `at`-th call of `call`.

    `state`: whether calls count (`armed`), their number, whether it has `occurred`, and what `on_occurrence()` returned
    then. It is of the standard library's type, as host/pack_state.py sets back what other types of packs hold.
    """

    def __init__(self, kind, at=1):
        self.kind, self.at = kind, at
        self.error = ERRORS[kind]() if kind in ERRORS else None
        self.state = argparse.Namespace(armed=True, calls=0, occurred=False, result=None, on_occurrence=lambda: None)

    def call(self):
        state = self.state
        state.calls += state.armed
        is_over = state.occurred and self.kind != MEMORY
        if is_over or not state.armed or state.calls < self.at:
            return
        state.occurred, state.result = True, state.result or state.on_occurrence()
        if self.kind == INTERRUPT:
            comfy.model_management.interrupt_current_processing()
        elif self.kind == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.error:
            raise self.error


def inject(patches, fault, place, network=None, after=""):
    """Have a fault called at `place`, one of PLACES or a function, as `module:name`, until `patches` are undone.

    Modules of the pack are named from its folder on. `network` is the diffusion model whose layers are meant. Calls
    count only when the function `after` has been called; with none, from the start.
    """
    if place in PLACES:
        PLACES[place](patches, fault.call, network)
    elif place:
        call_before(patches, place, fault.call)
    if after:
        fault.state.armed = False
        call_before(patches, after, lambda: setattr(fault.state, "armed", True))


def call_before(patches, function, call):
    """Have every call of a function, `module:name`, preceded by `call()`."""
    module, name = function.split(":")
    *owners, name = name.split(".")
    owner = functools.reduce(getattr, owners, find_module(module))
    patches.setattr(owner, name, preceded(getattr(owner, name), call))


def find_module(name):
    """A module of the pack, by its name in there, wherever the host has loaded it from; else any module."""
    modules = [module for full_name, module in sys.modules.items() if full_name.endswith(f"unguide.{name}")]
    return modules[0] if modules else importlib.import_module(name)


def preceded(function, call):
    @functools.wraps(function)
    def called(*args, **kwargs):
        call()
        return function(*args, **kwargs)

    return called


def in_layer(patches, call, network):
    """In a layer's forward, as another pack would replace it."""
    layer = network.get_submodule(LAYER)
    patches.setitem(vars(layer), "forward", preceded(layer.forward, call))


def in_gradient(patches, call, network):
    """In the backward of a layer whose input is the picture."""
    layer = network.get_submodule(LAYER.replace("to_k", "to_q"))
    original = layer.forward

    def forward(x, *args, **kwargs):
        if x.requires_grad:
            x.register_hook(lambda gradient: call())
        return original(x, *args, **kwargs)

    patches.setitem(vars(layer), "forward", forward)


def in_progress(patches, call, network):
    """Where the host is told of progress, and itself checks whether the user has cancelled."""

    def hook(*args, **kwargs):
        call()
        comfy.model_management.throw_exception_if_processing_interrupted()

    patches.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)


def in_attaching(patches, call, network):
    """Where a layer is given another forward: some layers have theirs by then, others not."""
    layer = network.get_submodule(LAYER)
    original = type(layer)

    def set_attribute(self, name, value):
        if name == "forward":
            call()
        original.__setattr__(self, name, value)

    patches.setattr(layer, "__class__", type(original.__name__, (original,), {"__setattr__": set_attribute}))


PLACES = {"layer": in_layer, "gradient": in_gradient, "progress": in_progress, "attaching": in_attaching}


@contextmanager
def bad_disk(folder: Path, options: str):
    """A folder on a disk of its own with these mount options: without room for a LoRA (FULL_DISK) or READ_ONLY.

    If none can be mounted, no file of this process can become as large as a LoRA, and a read-only folder is forbidden.
    """
    import resource

    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    is_mounted = os.geteuid() == 0 and not subprocess.run(command, capture_output=True).returncode
    limits, mode = resource.getrlimit(resource.RLIMIT_FSIZE), folder.stat().st_mode
    if not is_mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        folder.chmod(0o500 if options == READ_ONLY else mode)
    try:
        yield
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            folder.chmod(mode)
