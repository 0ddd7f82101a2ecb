"""A concept LoRA as a branch of a live model that is switched on and off per prediction. Pure torch.

One model in memory, no weight is touched: training switches the branch on for the student and off for the teacher,
the probe compares off with on, UnGuidance blends off and on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import cast

import torch
from torch.nn.functional import pad

from .effect import NoEffectError, is_changed
from .forwards import wrapped
from .lora import ConceptLoRA, LowRankPair, Place


class Branch:
    """Low-rank pairs, each at its place, hung on a model's Linears while `attached`, acting only while `on`.

    What no pair can carry, `changes` of whole weights do. Each Linear's instance attribute `forward` is wrapped, not
    its weight and not by a torch hook: hooks are skipped by an already compiled model, weights may be quantised,
    memory-mapped or on another device.
    """

    def __init__(
        self,
        pairs: Mapping[Place, LowRankPair],
        changes: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] | None = None,
    ):
        """`changes` make of weights, by their names in the model, others that stand in their place while it is on."""
        self.pairs = pairs
        self.changes = changes or {}
        self.calls = 0  # of any pair since attached: 0 after a prediction means that something bypassed the branch
        self.acted: set[Place] = set()  # the places whose pairs were called since attached
        self.unchanged: set[str] = set()  # the weights of which `changes` make nothing else, since attached
        self.is_on = False
        self._wraps: dict[Place, tuple] = {}
        self._model: torch.nn.Module | None = None
        self._extra_bytes = 0
        self._changed: dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]] = {}  # source, and changed

    @classmethod
    def of(cls, lora: ConceptLoRA, places: Mapping[str, Place], changes: Mapping | None = None) -> Branch:
        """The branch of a concept LoRA on the model whose layers have these `places`, by their name in files.

        Raises ValueError when the model lacks a layer that the LoRA was made for.
        """
        unknown = [name for name in lora.pairs if name not in places]
        if unknown:
            raise ValueError(
                f"This LoRA does not fit the model: {len(unknown)} of its {len(lora.pairs)} layers are not there, "
                f"`{unknown[0]}` for one. Use it with the model family that it was trained on. A file made elsewhere "
                f"may name them otherwise: try UnGuide Import LoRA."
            )
        return cls({places[name]: pair for name, pair in lora.pairs.items()}, changes)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Predictions inside include the LoRA."""
        before, self.is_on = self.is_on, True
        try:
            with nullcontext() if before else self._in_place():
                yield
        finally:
            self.is_on = before

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The changed weights in the model's place. They are made once, from the weights that are there then.

        Raises NoEffectError where there is nothing but changes, and all of them make what was there before.
        """
        replaced: list[tuple[torch.nn.Module, str, torch.nn.Parameter]] = []
        try:
            for name, change in self.changes.items() if self._model is not None else ():
                path, _, own = name.rpartition(".")
                module = _module(cast(torch.nn.Module, self._model), path)
                weight = cast(torch.nn.Parameter, module._parameters[own])
                if name not in self._changed or self._changed[name][0] is not weight:
                    self._change(name, weight, change)
                replaced.append((module, own, weight))
                module._parameters[own] = self._changed[name][1]
                self.calls += name not in self.unchanged
            if self.unchanged and not self.pairs and len(self.unchanged) == len(self.changes):
                raise NoEffectError(
                    f"This LoRA changes nothing: of the {len(self.changes)} weights that it was made for "
                    f"(`{next(iter(self.changes))}` for one) each stays what it is. Its numbers are zero or do not fit "
                    f"together, or it was made for another model: use another file."
                )
            yield
        finally:
            for module, own, weight in replaced:
                module._parameters[own] = weight

    def _change(self, name: str, weight: torch.nn.Parameter, change: Callable) -> None:
        changed = torch.nn.Parameter(change(weight.detach()), requires_grad=False)
        self._changed[name] = (weight, changed)
        self._extra_bytes = sum(it.nbytes for _, it in self._changed.values())
        (self.unchanged.discard if is_changed(weight.detach(), changed) else self.unchanged.add)(name)

    def path(self) -> str:
        """How it acts, in words; after a run, with the memory that changed weights took."""
        ways = [f"a low-rank branch on {len(self.pairs)} layers"] if self.pairs else []
        if self.changes:
            ways.append(f"changed copies of {len(self.changes)} weights ({self._extra_bytes / 2**20:.2f} MiB)")
        return " and ".join(ways)

    @contextmanager
    def attached(self, model: torch.nn.Module) -> Iterator[Branch]:
        """Hang the pairs on `model`'s Linears for the duration; whatever stood there is restored, also on errors."""
        self.calls, self.acted, self.unchanged, self._model = 0, set(), set(), model
        try:
            with wrapped(self._wraps_of(model)):
                yield self
        finally:
            self._model, self._changed = None, {}

    def _wraps_of(self, model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, Callable]]:
        for place, pair in self.pairs.items():
            module = _module(model, place.path)
            _check_shape(place, module, pair)
            yield module, partial(self._wrapped, place)

    def _wrapped(self, place: Place, forward):
        """`forward` with the pair: the same object whenever it is asked for, or a compiled model compiles again."""
        if place not in self._wraps or self._wraps[place][0] != forward:
            self._wraps[place] = (forward, self._wrap(forward, place, self.pairs[place]))
        return self._wraps[place][1]

    def _wrap(self, forward, place: Place, pair: LowRankPair):
        cast: dict[tuple, LowRankPair] = {}

        @torch.compiler.disable
        def changed(y, x):
            self.calls += 1
            self.acted.add(place)
            key = (x.device, x.dtype)
            if key not in cast and not pair.up.requires_grad:
                cast[key] = pair.to(device=x.device, dtype=x.dtype)
            change = cast.get(key, pair).change(x)
            if place.outputs is None:
                return y + change
            return y + pad(change, (place.first, y.shape[-1] - place.first - place.outputs))

        def forward_with_branch(x, *args, **kwargs):
            y = forward(x, *args, **kwargs)
            return changed(y, x) if self.is_on else y

        return forward_with_branch


def _module(model: torch.nn.Module, path: str) -> torch.nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise ValueError(
            f"The model has no layer `{path}` any more: something else on this MODEL has put other modules in "
            f"its place, where no LoRA can act. Leave that patch out."
        ) from None


def _check_shape(place: Place, module: torch.nn.Module, pair: LowRankPair) -> None:
    shape = (getattr(module, "in_features", None), place.outputs or getattr(module, "out_features", None))
    if shape != (pair.down.shape[1], pair.up.shape[0]):
        raise ValueError(
            f"The concept LoRA's pair for `{place}` is made for {pair.down.shape[1]} inputs and {pair.up.shape[0]} "
            f"outputs, the model's layer has {shape[0]} and {shape[1]}: this LoRA belongs to another model family."
        )
