"""Snapshots of what other node packs keep between predictions, so that extra predictions leave no trace in it.

A step cache keeps what the last prediction changed, a token merger draws random numbers, another pack counts calls as
steps. Everything that can be reached from what they attach to a MODEL is visited, and its content recorded.
"""

from __future__ import annotations

import functools
import random
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import comfy.conds
import comfy.controlnet
import comfy.model_patcher
import comfy.samplers
import numpy
import torch

from .restore import (
    added_attributes,
    cell_content,
    class_attributes,
    restore_cell,
    restore_class,
    restore_dict,
    restore_global,
    restore_module,
    restore_sequence,
    restore_set,
    restore_slots,
)

UNGUIDE = __name__.removesuffix(".unguide_ops.host.pack_state")  # the package that this pack is loaded as
NOT_ENTERED = (torch.Tensor, comfy.model_patcher.ModelPatcher, comfy.conds.CONDRegular, comfy.controlnet.ControlBase,
               comfy.samplers.CFGGuider, comfy.samplers.Sampler, types.ModuleType, Enum)  # fmt: skip
"""Types whose instances are not searched: they hold no state of a pack, or are the host's."""

HOST_PACKAGES = {"api_server", "app", "comfy_api", "execution", "folder_paths", "latent_preview", "main",
                 "node_helpers", "nodes", "server", "utils"}  # fmt: skip
INSTALL_FOLDERS = {"site-packages", "dist-packages"}
MAX_OBJECTS = 20_000  # visited for one snapshot: a pack may refer to anything

Snapshot = list[tuple]  # (function, *arguments) each: the calls that write the recorded contents back


class ModuleAttributes:
    """Stands for the attributes that a pack has added to a module; the module itself is not searched."""

    def __init__(self, module: torch.nn.Module):
        self.module = module


class PackState:
    """The state of other packs' objects together with that of the random number generators.

    It is false, and its snapshots are empty, if there are no such objects. Searched are closures, instances and their
    classes, containers, and the globals that functions use. What is written into a tensor in place is not recorded.
    """

    def __init__(self, objects: list[Any], device: torch.device):
        self._objects, self._device = objects, device

    def __bool__(self) -> bool:
        return bool(self._objects)

    def snapshot(self) -> Snapshot:
        """The present state, for `restore`. Raises RuntimeError for an iterator, which cannot be set back."""
        return [*_random_state(self._device), *_object_state(self._objects)] if self._objects else []

    @staticmethod
    def restore(snapshot: Snapshot) -> None:
        """Set everything recorded in a snapshot back to what it was."""
        for function, *arguments in snapshot:
            function(*arguments)

    @contextmanager
    def restored(self, snapshot: Snapshot) -> Iterator[None]:
        """A context with the state of a snapshot; the present state comes back at its end."""
        present = self.snapshot()
        self.restore(snapshot)
        try:
            yield
        finally:
            self.restore(present)


def _random_state(device: torch.device) -> Iterator[tuple]:
    yield torch.random.set_rng_state, torch.random.get_rng_state()
    if device.type == "cuda":
        yield torch.cuda.set_rng_state, torch.cuda.get_rng_state(device), device
    yield random.setstate, random.getstate()
    yield numpy.random.set_state, numpy.random.get_state()


def _object_state(roots: list[Any]) -> Snapshot:
    """The content of every object that can be reached from the roots and may change."""
    snapshot: Snapshot = []
    visited: set[int] = set()
    pending = list(roots)
    while pending and len(visited) < MAX_OBJECTS:
        obj = pending.pop()
        if id(obj) in visited or obj is None or isinstance(obj, str | bytes | int | float | complex):
            continue
        visited.add(id(obj))
        pending += _record(obj, snapshot)
    return snapshot


def _record(obj: Any, snapshot: Snapshot) -> Iterable[Any]:
    """Add an object's content to the snapshot if it may change, and return the objects that it refers to."""
    if isinstance(obj, dict):
        snapshot.append((restore_dict, obj, dict(obj)))
        return obj.values()
    if isinstance(obj, list | deque | set):
        snapshot.append((restore_sequence if not isinstance(obj, set) else restore_set, obj, obj.copy()))
        return obj.copy()
    if isinstance(obj, tuple | frozenset):
        return obj
    if isinstance(obj, Iterator) and type(obj).__module__ in ("builtins", "itertools"):
        _check_iterator(obj)
        return ()
    if isinstance(obj, torch.Generator):
        snapshot.append((obj.set_state, obj.get_state()))
        return ()
    if isinstance(obj, ModuleAttributes):
        attributes = added_attributes(obj.module)
        snapshot.append((restore_module, obj.module, attributes))
        return attributes.values()
    if isinstance(obj, types.SimpleNamespace):
        return (vars(obj),)
    if isinstance(obj, types.MethodType):
        return obj.__self__, obj.__func__
    if isinstance(obj, functools.partial):
        return obj.func, obj.args, obj.keywords
    if isinstance(obj, types.FunctionType):
        return _record_function(obj, snapshot) if not _from_unguide(obj) else ()
    if isinstance(obj, types.CellType):
        snapshot.append((restore_cell, obj, cell_content(obj)))
        return cell_content(obj)
    if isinstance(obj, type):
        return _record_class(obj, snapshot) if _from_other_pack(obj) else ()
    if isinstance(obj, torch.nn.Module):
        modules = [module for module in obj.modules() if _from_other_pack(type(module))]
        return [*map(ModuleAttributes, modules), *map(type, modules)]
    if isinstance(obj, NOT_ENTERED) or _from_unguide(type(obj)) or _from_library(type(obj)):
        return ()
    slots = {name: getattr(obj, name) for cls in type(obj).__mro__ for name in _slot_names(cls) if hasattr(obj, name)}
    if slots:
        snapshot.append((restore_slots, obj, slots))
    return (*slots.values(), vars(obj) if hasattr(obj, "__dict__") else None, *type(obj).__mro__)


def _record_function(function: types.FunctionType, snapshot: Snapshot) -> list[Any]:
    references = [*(function.__closure__ or ()), function.__defaults__, function.__kwdefaults__, vars(function)]
    if _from_other_pack(function):
        references += _record_globals(_names_in_code(function.__code__), function.__globals__, snapshot)
    return references


def _record_globals(names: set[str], namespace: dict, snapshot: Snapshot) -> list[Any]:
    """The objects that code reaches by these global names; those in other modules of a pack are included."""
    references = []
    for name in names & namespace.keys():
        value = namespace[name]
        if not isinstance(value, types.ModuleType):
            snapshot.append((restore_global, namespace, name, value))
            references.append(value)
        elif _from_other_pack(value) and vars(value) is not namespace:
            references += _record_globals(names - {name}, vars(value), snapshot)
    return references


def _record_class(cls: type, snapshot: Snapshot) -> list[Any]:
    attributes = class_attributes(cls)
    snapshot.append((restore_class, cls, attributes))
    functions = [value for value in vars(cls).values() if isinstance(value, types.FunctionType)]
    return [*functions, *(getattr(value, "__func__", value) for value in attributes.values())]


def _check_iterator(iterator: Iterator) -> None:
    """Raises RuntimeError unless it is a generator that has ended, or is running: that one holds no pack's state."""
    if isinstance(iterator, types.GeneratorType) and (iterator.gi_frame is None or iterator.gi_running):
        return
    raise RuntimeError(
        f"Something else on this MODEL reads from an iterator "
        f"(`{getattr(iterator, '__qualname__', type(iterator).__name__)}`), which cannot be rewound: UnGuidance calls "
        f"the model more often than plain sampling, so the picture would change. Remove that patch."
    )


def _names_in_code(code: types.CodeType) -> set[str]:
    """The global names that code uses; some names of attributes are among them."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return {*code.co_names, *(name for const in inner for name in _names_in_code(const))}


def _slot_names(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    return tuple(name for name in ((slots,) if isinstance(slots, str) else slots) if not name.startswith("__"))


def _from_unguide(obj: Any) -> bool:
    """Whether a function or class is defined in UnGuide."""
    return (getattr(obj, "__module__", None) or "").startswith(f"{UNGUIDE}.")


def _from_library(obj: Any) -> bool:
    """Whether a function, class or module belongs to a library or the host's server, which hold no pack's state."""
    return _is_library_name(_top_package(obj))


@functools.cache
def _is_library_name(package: str) -> bool:
    if package in sys.stdlib_module_names or package in HOST_PACKAGES:
        return True
    return bool(INSTALL_FOLDERS & {*Path(getattr(sys.modules.get(package), "__file__", None) or "").parts})


def _from_other_pack(obj: Any) -> bool:
    """Whether a function, class or module belongs to another pack, or to the host's own nodes (`comfy_extras`)."""
    package = _top_package(obj)
    is_core = package.startswith("comfy") and package != "comfy_extras"
    return not (_from_unguide(obj) or _from_library(obj) or is_core)


def _top_package(obj: Any) -> str:
    """The name of the top package of a function, class or module."""
    name = obj.__name__ if isinstance(obj, types.ModuleType) else getattr(obj, "__module__", None)
    return (name or "").partition(".")[0]
