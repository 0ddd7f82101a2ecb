"""Writes recorded contents back into the objects that they were read from, for `pack_state`.

An object whose content has not changed is not written to: some are watched by their owners, or read by other threads.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterable
from typing import Any

import torch

STANDARD_ATTRIBUTES = {*vars(torch.nn.Module()), "forward", "weight_function", "bias_function", "comfy_cast_weights"}
"""Instance attributes of a module that torch and the host set."""


def restore_dict(target: dict, content: dict) -> None:
    """Make a dict hold these items."""
    if target.keys() != content.keys() or not _same_objects(target.values(), (content[key] for key in target)):
        target.clear()
        target.update(content)


def restore_sequence(target: list | deque, content: list | deque) -> None:
    """Make a list or deque hold these objects."""
    if len(target) != len(content) or not _same_objects(target, content):
        target.clear()
        target.extend(content)


def restore_set(target: set, content: set) -> None:
    """Make a set hold these objects."""
    if target != content:
        target.clear()
        target.update(content)


def restore_cell(cell: types.CellType, content: tuple) -> None:
    """Give a closure's cell its content, as `cell_content` returned it."""
    if content:
        cell.cell_contents = content[0]
    elif cell_content(cell):
        del cell.cell_contents


def cell_content(cell: types.CellType) -> tuple:
    """The object in a closure's cell as a tuple of one, or an empty tuple for an empty cell."""
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def restore_slots(target: object, content: dict[str, Any]) -> None:
    """Set attributes that are stored in `__slots__`."""
    for name, value in content.items():
        if getattr(target, name, None) is not value:
            setattr(target, name, value)


def restore_global(namespace: dict, name: str, value: Any) -> None:
    """Set one global name of a module."""
    if namespace.get(name) is not value:
        namespace[name] = value


def restore_class(cls: type, content: dict[str, Any]) -> None:
    """Give a class these attributes, and delete those that it has gained."""
    current = class_attributes(cls)
    for name in current.keys() - content.keys():
        delattr(cls, name)
    for name, value in content.items():
        if current.get(name) is not value or name not in current:
            setattr(cls, name, value)


def class_attributes(cls: type) -> dict[str, Any]:
    """The attributes that a class itself defines, except those with two leading underscores."""
    return {name: value for name, value in vars(cls).items() if not name.startswith("__")}


def restore_module(module: torch.nn.Module, content: dict[str, Any]) -> None:
    """Give a module these attributes of another pack, and delete those that the pack has added."""
    attributes = vars(module)
    for name in added_attributes(module).keys() - content.keys():
        del attributes[name]
    attributes.update(content)


def added_attributes(module: torch.nn.Module) -> dict[str, Any]:
    """The instance attributes of a module that neither torch nor the host has set, submodules left out."""
    return {
        name: value for name, value in vars(module).items()
        if name not in STANDARD_ATTRIBUTES and not isinstance(value, torch.nn.Module)
    }  # fmt: skip


def _same_objects(objects: Iterable, expected: Iterable) -> bool:
    return all(a is b for a, b in zip(objects, expected, strict=True))
