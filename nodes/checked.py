"""The base class of all nodes: it checks inputs against the node's limits, and takes markup out of texts.

ComfyUI checks only what is typed in; values that come by a link are passed on unchecked.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any

from comfy_api.latest import io

from ..unguide_ops.safe_text import is_plain, printable, without_markup

LOGGER = logging.getLogger("unguide")
LONGEST_TEXT = 1_000_000  # characters
SURROGATES = ("\ud800", "\udfff")  # the first and the last half of a character


class FileOptions(list):
    """Options of a combo that are names of files, without those that a page could take for markup.

    A choice is not checked against them: that the file exists is checked when it is opened.
    """

    def __init__(self, names: Iterable[str]):
        names = list(names)
        super().__init__(filter(is_plain, names))
        if left_out := [name for name in names if not is_plain(name)]:
            LOGGER.warning("Not listed, as its name has < or > in it, or cannot be shown: %s", printable(left_out[0]))


class CheckedNode(io.ComfyNode):
    """A node whose `execute` receives only values that its schema allows, and whose errors and texts hold no markup."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        method = vars(cls).get("execute")
        if method is not None and not hasattr(method.__func__, "__wrapped__"):  # the host's clones are wrapped already
            cls.execute = classmethod(_checked(method.__func__))


def _checked(execute: Callable) -> Callable:
    """An `execute` that checks its inputs first, and removes markup from its errors and from the node's texts."""
    signature = inspect.signature(execute)
    keywords = next((it.name for it in signature.parameters.values() if it.kind is it.VAR_KEYWORD), "")

    @functools.wraps(execute)
    def checked(cls, *args, **inputs):
        values = dict(signature.bind(cls, *args, **inputs).arguments)
        values |= values.pop(keywords, {})
        try:
            schema = cls.SCHEMA or cls.define_schema()  # the host keeps it; a new one would list all folders anew
            for definition in schema.inputs or ():
                if definition.id in values:
                    check(definition, values[definition.id])
            output = execute(cls, *args, **inputs)
        except Exception as error:
            error.args = tuple(without_markup(arg) if isinstance(arg, str) else arg for arg in error.args)
            raise
        _remove_markup(output)
        return output

    return checked


def check(definition: Any, value: Any) -> None:
    """Check a value against the definition of an input in a schema.

    Raises ValueError, which names input, value and limits, if it is not allowed.
    """
    if value is None and definition.optional:
        return
    if isinstance(definition, io.Int.Input | io.Float.Input):
        is_int = isinstance(definition, io.Int.Input)
        is_number = isinstance(value, Integral if is_int else Real) and math.isfinite(value)
        low, high = definition.min, definition.max
        if not (is_number and (low is None or low <= value) and (high is None or value <= high)):
            kind = "a whole number" if is_int else "a number"
            limits = f" from {low} to {high}" if low is not None and high is not None else ""
            raise ValueError(f"`{definition.id}` is {printable(value)}: use {kind}{limits}.")
    elif isinstance(definition, io.String.Input):
        if not isinstance(value, str):
            raise ValueError(f"`{definition.id}` is {printable(type(value).__name__)}, not text: link a text.")
        if len(value) > LONGEST_TEXT:
            raise ValueError(f"`{definition.id}` has {len(value)} characters: use at most {LONGEST_TEXT}.")
        if any(SURROGATES[0] <= character <= SURROGATES[1] for character in value) or "\0" in value:
            raise ValueError(
                f"`{definition.id}` holds half a character (a lone surrogate) or a NUL: write {printable(value)!r} "
                f"anew."
            )
    elif isinstance(definition, io.Boolean.Input):
        if type(value).__name__ not in ("bool", "bool_") and not (isinstance(value, Integral) and value in (0, 1)):
            raise ValueError(f"`{definition.id}` is {printable(value)}: use true or false.")
    elif isinstance(definition, io.Combo.Input):
        options = definition.options
        if not isinstance(options, FileOptions) and value not in options:
            raise ValueError(f"`{definition.id}` is {printable(value)!r}: use one of {', '.join(map(repr, options))}.")


def _remove_markup(output: Any) -> None:
    """Remove markup from the texts that a node's output shows on it."""
    page_output: Any = getattr(output, "ui", None)
    if isinstance(page_output, dict):
        for name in ("text", "words"):
            if name in page_output:
                page_output[name] = [without_markup(text) for text in page_output[name]]
    elif isinstance(getattr(page_output, "value", None), str):
        page_output.value = without_markup(page_output.value)
