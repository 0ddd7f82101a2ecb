"""What all nodes have in common: inputs within their own limits, whoever gives them, and words that are no markup.

ComfyUI holds only what is typed in against a node's limits: what comes by a link passes.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
from numbers import Integral, Real

from comfy_api.latest import io

from ..unguide_ops.page import for_page, is_safe
from ..unguide_ops.strangers import brief

LOGGER = logging.getLogger("unguide")
LONGEST_TEXT = 1_000_000  # characters
HALVES = ("\ud800", "\udfff")  # the first and the last that are half a character


class Files(list):
    """A combo's options of which some are names of files: without those that a page might take for markup.

    Whether a chosen file is there is looked at when it is opened.
    """

    def __init__(self, names):
        super().__init__(filter(is_safe, names))
        if left_out := [name for name in names if not is_safe(name)]:
            LOGGER.warning("Not listed, as its name has < or > in it, or cannot be shown: %s", brief(left_out[0]))


class CheckedNode(io.ComfyNode):
    """A node whose `execute` is given only what its schema allows, and whose words are made harmless."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        own = vars(cls).get("execute")
        if own is not None and not hasattr(own.__func__, "__wrapped__"):  # the host's clones of a node have it already
            cls.execute = classmethod(_checked(own.__func__))


def _checked(execute):
    signature = inspect.signature(execute)

    @functools.wraps(execute)
    def within_limits(cls, *args, **inputs):
        given = dict(signature.bind(cls, *args, **inputs).arguments)
        rest = next((it.name for it in signature.parameters.values() if it.kind is it.VAR_KEYWORD), "")
        given |= given.pop(rest, {})
        try:
            for it in cls.define_schema().inputs or ():
                if it.id in given:
                    check(it, given[it.id])
            output = execute(cls, *args, **inputs)
        except Exception as error:
            error.args = tuple(for_page(it) if isinstance(it, str) else it for it in error.args)
            raise
        _make_harmless(output)
        return output

    return within_limits


def check(it, value) -> None:
    """Raises ValueError, naming input, value and limits, for a value that an input of a schema does not allow."""
    if value is None and it.optional:
        return
    if isinstance(it, io.Int.Input | io.Float.Input):
        whole = isinstance(it, io.Int.Input)
        number = isinstance(value, Integral if whole else Real) and math.isfinite(value)
        low, high = (-math.inf if it.min is None else it.min), (math.inf if it.max is None else it.max)
        if not (number and low <= value <= high):
            kind = "a whole number" if whole else "a number"
            limits = f" from {low} to {high}" if it.min is not None and it.max is not None else ""
            raise ValueError(f"`{it.id}` is {brief(value)}: use {kind}{limits}.")
    elif isinstance(it, io.String.Input):
        if not isinstance(value, str):
            raise ValueError(f"`{it.id}` is {brief(type(value).__name__)}, not text: link a text.")
        if len(value) > LONGEST_TEXT:
            raise ValueError(f"`{it.id}` has {len(value)} characters: use at most {LONGEST_TEXT}.")
        if any(HALVES[0] <= letter <= HALVES[1] for letter in value) or "\0" in value:
            raise ValueError(
                f"`{it.id}` holds half a character (a lone surrogate) or a NUL: write {brief(value)!r} anew."
            )
    elif isinstance(it, io.Boolean.Input):
        if type(value).__name__ not in ("bool", "bool_") and not (isinstance(value, Integral) and value in (0, 1)):
            raise ValueError(f"`{it.id}` is {brief(value)}: use true or false.")
    elif isinstance(it, io.Combo.Input) and not isinstance(it.options, Files) and value not in it.options:
        raise ValueError(f"`{it.id}` is {brief(value)!r}: use one of {', '.join(map(repr, it.options))}.")


def _make_harmless(output) -> None:
    """The words that a node's output shows on it."""
    shown = getattr(output, "ui", None)
    if isinstance(shown, dict):
        for name in ("text", "words"):
            if name in shown:
                shown[name] = [for_page(it) for it in shown[name]]
    elif isinstance(getattr(shown, "value", None), str):
        shown.value = for_page(shown.value)
