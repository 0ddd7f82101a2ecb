"""What other packs hang on the MODEL of a run, and what they remember from one prediction to the next.

A step cache keeps what the last prediction changed, a token merger draws random numbers, another pack counts calls as
steps. UnGuidance asks for more predictions than plain sampling. So each line of questions (the base's, each LoRA's, the
gate's) is given a memory of its own, as if it ran on a copy of the MODEL with a copy of each of these: the base's never
learns that anything else was asked.
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
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

from .attached import KEY

ASKED_EACH_TIME = (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
OUTSIDE = {"sampler_cfg_function", "sampler_post_cfg_function", "sampler_pre_cfg_function", "denoise_mask_function",
           "disable_cfg1_optimization", "context_handler", "transformer_options", "to_load_options",
           "multigpu_clones"}  # fmt: skip
"""Options of a MODEL that act on what has been predicted, or only hold others."""

PACK = __name__.removesuffix(".unguide_ops.host.others")
CLOSED = (torch.Tensor, comfy.model_patcher.ModelPatcher, comfy.conds.CONDRegular, comfy.controlnet.ControlBase,
          comfy.samplers.CFGGuider, comfy.samplers.Sampler, types.ModuleType, Enum)  # fmt: skip
"""Not looked into: they hold no memory of a pack, or are the host's."""

HOST = {"api_server", "app", "comfy_api", "execution", "folder_paths", "latent_preview", "main", "node_helpers",
        "nodes", "server", "utils"}  # fmt: skip
INSTALLED = {"site-packages", "dist-packages"}  # folders
MOST = 20_000  # things looked at: a pack may hold on to anything


def placed_on(network: torch.nn.Module) -> list[Any]:
    """What other packs have put in place of the forwards of a network's modules; compiled ones compute the same."""
    found: list[Any] = []
    for module in network.modules():
        forward = vars(module).get("forward")
        if forward is not None and not hasattr(module, "_orig_mod"):
            found += [forward, _Attributes(module)]
    return found


def others_of(patcher, model_options: dict, conds: Iterable, placed: list[Any]) -> list[Any]:
    """Whatever of other packs takes part in each prediction of a run: patches, wrappers, hooks, caches, layers.

    `placed` is what they had put on the network before our own branches (see `placed_on`).
    """
    options = model_options.get("transformer_options", {})
    found: list[Any] = [it for name, it in model_options.items() if name not in OUTSIDE and _acts(it)]
    found += [it for name, it in options.items() if name not in ("wrappers", "callbacks") and _acts(it)]
    for kind in ASKED_EACH_TIME:
        for key, its in options.get("wrappers", {}).get(kind, {}).items():
            found += [] if str(key).startswith(KEY) or key == COMPILE_KEY else its
    found += [
        e[key] for its in conds for e in its or () for key in ("hooks", "control", "gligen") if e.get(key) is not None
    ]
    found += [it for name, it in patcher.object_patches.items()
              if name.startswith("diffusion_model") and not hasattr(it, "_orig_mod")]  # fmt: skip
    found += [*placed, *patcher.injections.values()]
    return [*found, model_options, _Attributes(patcher.model.diffusion_model)] if found else []


def _acts(it) -> bool:
    """Whether an option is more than a setting."""
    if isinstance(it, dict):
        return any(map(_acts, it.values()))
    if isinstance(it, list | tuple | set):
        return any(map(_acts, it))
    return callable(it) or hasattr(it, "__dict__") and not isinstance(it, torch.Tensor | Enum)


def _ours(it) -> bool:
    return (getattr(it, "__module__", None) or "").startswith(f"{PACK}.")


def _of_library(it) -> bool:
    """Whether it is of a library or of the host's server, neither of which keeps what a pack remembers."""
    return _is_library(_home(it))


@functools.cache
def _is_library(package: str) -> bool:
    if package in sys.stdlib_module_names or package in HOST:
        return True
    return bool(INSTALLED & {*Path(getattr(sys.modules.get(package), "__file__", None) or "").parts})


def _of_pack(it) -> bool:
    """Whether a function, class or module is another pack's, or of the host's nodes, which may do as packs do."""
    core = _home(it).startswith("comfy") and _home(it) != "comfy_extras"
    return not (_ours(it) or _of_library(it) or core)


def _home(it) -> str:
    """The package of a function, class or module."""
    name = it.__name__ if isinstance(it, types.ModuleType) else getattr(it, "__module__", None)
    return (name or "").partition(".")[0]


class _Attributes:
    """What a pack keeps on a module beside what torch and the host keep there."""

    def __init__(self, module: torch.nn.Module):
        self.module = module


class Memory:
    """What others remember, together with the state of random numbers. Nothing where there are no others.

    Followed are closures, instances and their classes, containers, and the globals that functions use. What is written
    into a tensor in place is not. Raises RuntimeError for an iterator, which cannot be put back.
    """

    def __init__(self, others: list[Any], device: torch.device):
        self._others, self._device = others, device

    def __bool__(self) -> bool:
        return bool(self._others)

    def taken(self) -> list[tuple]:
        """What they remember now, to be put back by `put`."""
        return [*_random_state(self._device), *_state(self._others)] if self._others else []

    @staticmethod
    def put(snapshot: list[tuple]) -> None:
        """Let them remember that and nothing else."""
        for put, *its in snapshot:
            put(*its)

    @contextmanager
    def as_of(self, snapshot: list[tuple]) -> Iterator[None]:
        """Within, they remember what a snapshot says; afterwards what they do now."""
        now = self.taken()
        self.put(snapshot)
        try:
            yield
        finally:
            self.put(now)


def _random_state(device: torch.device) -> Iterator[tuple]:
    yield torch.random.set_rng_state, torch.random.get_rng_state()
    if device.type == "cuda":
        yield torch.cuda.set_rng_state, torch.cuda.get_rng_state(device), device
    yield random.setstate, random.getstate()
    yield numpy.random.set_state, numpy.random.get_state()


def _state(others: list[Any]) -> list[tuple]:
    """All that can change in what is reachable from there, as (function, holder, content)."""
    kept: list[tuple] = []
    seen: set[int] = set()
    left = list(others)
    while left and len(seen) < MOST:
        it = left.pop()
        if id(it) in seen or it is None or isinstance(it, str | bytes | int | float | complex):
            continue
        seen.add(id(it))
        left += _inside(it, kept)
    return kept


def _inside(it, kept: list[tuple]) -> Iterable[Any]:
    """What a thing holds; what of it may change is noted."""
    if isinstance(it, dict):
        kept.append((_put_dict, it, dict(it)))
        return it.values()
    if isinstance(it, list | deque | set):
        kept.append((_put_list if not isinstance(it, set) else _put_set, it, it.copy()))
        return it.copy()
    if isinstance(it, tuple | frozenset):
        return it
    if isinstance(it, Iterator) and type(it).__module__ in ("builtins", "itertools"):
        _check_iterator(it)
        return ()
    if isinstance(it, torch.Generator):
        kept.append((it.set_state, it.get_state()))
        return ()
    if isinstance(it, _Attributes):
        its = {name: value for name, value in vars(it.module).items() if _of_a_pack(name, value)}
        kept.append((_put_attributes, it.module, its))
        return its.values()
    if isinstance(it, types.SimpleNamespace):
        return (vars(it),)
    if isinstance(it, types.MethodType):
        return it.__self__, it.__func__
    if isinstance(it, functools.partial):
        return it.func, it.args, it.keywords
    if isinstance(it, types.FunctionType):
        return _of_function(it, kept) if not _ours(it) else ()
    if isinstance(it, types.CellType):
        kept.append((_put_cell, it, _content(it)))
        return _content(it)
    if isinstance(it, type):
        return _of_class(it, kept) if _of_pack(it) else ()
    if isinstance(it, torch.nn.Module):
        own = [module for module in it.modules() if _of_pack(type(module))]
        return [*map(_Attributes, own), *map(type, own)]
    if isinstance(it, CLOSED) or _ours(type(it)) or _of_library(type(it)):
        return ()
    slots = {name: getattr(it, name) for kind in type(it).__mro__ for name in _slots(kind) if hasattr(it, name)}
    if slots:
        kept.append((_put_slots, it, slots))
    return (*slots.values(), vars(it) if hasattr(it, "__dict__") else None, *type(it).__mro__)


def _of_function(it: types.FunctionType, kept: list[tuple]) -> list[Any]:
    inside = [*(it.__closure__ or ()), it.__defaults__, it.__kwdefaults__, vars(it)]
    if _of_pack(it):
        inside += _of_names(_names(it.__code__), it.__globals__, kept)
    return inside


def _of_names(names: set[str], space: dict, kept: list[tuple]) -> list[Any]:
    """Globals, and functions and classes that code uses by these names, those of other modules of a pack as well."""
    inside = []
    for name in names & space.keys():
        value = space[name]
        if not isinstance(value, types.ModuleType):
            kept.append((_put_global, space, name, value))
            inside.append(value)
        elif _of_pack(value) and vars(value) is not space:
            inside += _of_names(names - {name}, vars(value), kept)
    return inside


def _of_class(it: type, kept: list[tuple]) -> list[Any]:
    """What a class keeps in its attributes, and what its functions use."""
    its = _attributes_of_class(it)
    kept.append((_put_class, it, its))
    functions = [value for value in vars(it).values() if isinstance(value, types.FunctionType)]
    return [*functions, *(getattr(value, "__func__", value) for value in its.values())]


def _attributes_of_class(it: type) -> dict[str, Any]:
    return {name: value for name, value in vars(it).items() if not name.startswith("__")}


def _check_iterator(it: Iterator) -> None:
    """Raises RuntimeError for one that goes on; a generator that has ended, or is running, is nobody's memory."""
    if isinstance(it, types.GeneratorType) and (it.gi_frame is None or it.gi_running):
        return
    raise RuntimeError(
        f"Something else on this MODEL takes what to do next from an "
        f"iterator (`{getattr(it, '__qualname__', type(it).__name__)}`), which cannot be put back: UnGuidance asks the "
        f"model more often than plain sampling, and the picture would be another. Leave that patch out."
    )


def _names(code: types.CodeType) -> set[str]:
    """The global names that code uses, and some of attributes."""
    inner = (it for it in code.co_consts if isinstance(it, types.CodeType))
    return {*code.co_names, *(name for it in inner for name in _names(it))}


def _content(cell: types.CellType) -> tuple:
    try:
        return (cell.cell_contents,)
    except ValueError:  # empty
        return ()


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return tuple(it for it in ((slots,) if isinstance(slots, str) else slots) if not it.startswith("__"))


OF_TORCH = set(vars(torch.nn.Module())) | {"forward", "weight_function", "bias_function", "comfy_cast_weights"}


def _of_a_pack(name: str, value) -> bool:
    return name not in OF_TORCH and not isinstance(value, torch.nn.Module)


def _same(one: Iterable, other: Iterable) -> bool:
    return all(a is b for a, b in zip(one, other, strict=True))


def _put_dict(it: dict, content: dict) -> None:
    if it.keys() != content.keys() or not _same(it.values(), (content[key] for key in it)):
        it.clear()
        it.update(content)


def _put_list(it, content) -> None:
    if len(it) != len(content) or not _same(it, content):
        it.clear()
        it.extend(content)


def _put_set(it: set, content: set) -> None:
    if it != content:
        it.clear()
        it.update(content)


def _put_cell(it: types.CellType, content: tuple) -> None:
    if content:
        it.cell_contents = content[0]
    elif _content(it):
        del it.cell_contents


def _put_slots(it, content: dict) -> None:
    for name, value in content.items():
        if getattr(it, name, None) is not value:
            setattr(it, name, value)


def _put_global(it: dict, name: str, value) -> None:
    if it.get(name) is not value:
        it[name] = value


def _put_class(it: type, content: dict) -> None:
    now = _attributes_of_class(it)
    for name in now.keys() - content.keys():
        delattr(it, name)
    for name, value in content.items():
        if now.get(name) is not value or name not in now:
            setattr(it, name, value)


def _put_attributes(module: torch.nn.Module, content: dict) -> None:
    now = vars(module)
    for name in [name for name, value in now.items() if _of_a_pack(name, value) and name not in content]:
        del now[name]
    now.update(content)
