"""`LoRAAdapter`: a concept LoRA on a live model, switched on and off for each prediction. Pure torch.

A single model in memory gives the predictions of both the base model (off) and the LoRA (on): the teacher and the
student of training, the pairs that the probe compares and UnGuidance blends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import cast

import torch
from torch.nn.functional import pad

from .effect import NoEffectError, is_changed
from .forward_patch import patched_forwards
from .low_rank import LayerSlice, LowRankPair


class LoRAAdapter:
    """Low-rank pairs and weight changes, bound to a model while `attached` and in effect only while `on`.

    For the pairs, each Linear's instance attribute `forward` is wrapped. Its weight is left alone, since it may be
    quantised, memory-mapped or on another device, and there is no torch hook, since an already compiled model skips
    hooks. What low-rank pairs cannot express, `changes` do: functions from a weight to a changed copy that replaces it.
    """

    def __init__(
        self,
        pairs: Mapping[LayerSlice, LowRankPair],
        changes: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] | None = None,
    ):
        """`changes`: by a weight's name in the model, the function from it to the weight that replaces it."""
        self.pairs = pairs
        self.changes = changes or {}
        self.calls = 0  # of pairs and changes since attached: 0 after a prediction means that the model bypassed them
        self.acted: set[LayerSlice] = set()  # the slices whose pairs were called since attached
        self.unchanged: set[str] = set()  # the names of the weights that `changes` left as they were, since attached
        self.is_on = False
        self._wraps: dict[LayerSlice, tuple] = {}
        self._model: torch.nn.Module | None = None
        self._extra_bytes = 0
        self._changed: dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]] = {}  # (original, changed) by name

    @classmethod
    def of(
        cls, pairs: Mapping[str, LowRankPair], layer_slices: Mapping[str, LayerSlice], changes: Mapping | None = None
    ) -> LoRAAdapter:
        """The adapter for a concept LoRA's pairs on a model with these slices, both by their names in LoRA files.

        Raises ValueError if the model lacks a layer that the LoRA was made for.
        """
        unknown = [name for name in pairs if name not in layer_slices]
        if unknown:
            raise ValueError(
                f"This LoRA does not fit the model: {len(unknown)} of its {len(pairs)} layers are not there, "
                f"`{unknown[0]}` for one. Use it with the model family that it was trained on. A file made elsewhere "
                f"may name them otherwise: try UnGuide Import LoRA."
            )
        return cls({layer_slices[name]: pair for name, pair in pairs.items()}, changes)

    @contextmanager
    def on(self) -> Iterator[None]:
        """For the duration, the model's predictions include the LoRA. May be nested."""
        was_on, self.is_on = self.is_on, True
        try:
            with nullcontext() if was_on else self._changed_weights():
                yield
        finally:
            self.is_on = was_on

    @contextmanager
    def _changed_weights(self) -> Iterator[None]:
        """For the duration, changed weights replace the model's. They are computed once for each weight and kept.

        Raises NoEffectError if the LoRA has no pairs and every changed weight equals the original.
        """
        replaced: list[tuple[torch.nn.Module, str, torch.nn.Parameter]] = []
        try:
            for name, change in self.changes.items() if self._model is not None else ():
                path, _, parameter = name.rpartition(".")
                module = _module(cast(torch.nn.Module, self._model), path)
                weight = cast(torch.nn.Parameter, module._parameters[parameter])
                if name not in self._changed or self._changed[name][0] is not weight:
                    self._change(name, weight, change)
                replaced.append((module, parameter, weight))
                module._parameters[parameter] = self._changed[name][1]
                self.calls += name not in self.unchanged
            if self.unchanged and not self.pairs and len(self.unchanged) == len(self.changes):
                raise NoEffectError(
                    f"This LoRA changes nothing: none of the {len(self.changes)} weights that it was made for "
                    f"(`{next(iter(self.changes))}` for one) is changed. Its numbers are zero or do not fit together, "
                    f"or it was made for another model: use another file."
                )
            yield
        finally:
            for module, parameter, weight in replaced:
                module._parameters[parameter] = weight

    def _change(self, name: str, weight: torch.nn.Parameter, change: Callable) -> None:
        changed = torch.nn.Parameter(change(weight.detach()), requires_grad=False)
        self._changed[name] = (weight, changed)
        self._extra_bytes = sum(copy.nbytes for _, copy in self._changed.values())
        (self.unchanged.discard if is_changed(weight.detach(), changed) else self.unchanged.add)(name)

    def describe(self) -> str:
        """How the LoRA is applied, in words for reports; after a run, with the memory that changed weights took."""
        parts = [f"a low-rank branch on {len(self.pairs)} layers"] if self.pairs else []
        if self.changes:
            parts.append(f"changed copies of {len(self.changes)} weights ({self._extra_bytes / 2**20:.2f} MiB)")
        return " and ".join(parts)

    @contextmanager
    def attached(self, model: torch.nn.Module) -> Iterator[LoRAAdapter]:
        """For the duration, bind the adapter to `model`, switched off; afterwards restore the model, also on errors."""
        self.calls, self.acted, self.unchanged, self._model = 0, set(), set(), model
        try:
            with patched_forwards(self._wraps_of(model)):
                yield self
        finally:
            self._model, self._changed = None, {}

    def _wraps_of(self, model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, Callable]]:
        for layer_slice, pair in self.pairs.items():
            module = _module(model, layer_slice.path)
            _check_shape(layer_slice, module, pair)
            yield module, partial(self._wrapped, layer_slice)

    def _wrapped(self, layer_slice: LayerSlice, forward):
        """`forward` with the slice's pair: always the same object, as a compiled model recompiles for another."""
        if layer_slice not in self._wraps or self._wraps[layer_slice][0] != forward:
            self._wraps[layer_slice] = (forward, self._wrap(forward, layer_slice, self.pairs[layer_slice]))
        return self._wraps[layer_slice][1]

    def _wrap(self, forward, layer_slice: LayerSlice, pair: LowRankPair):
        converted: dict[tuple, LowRankPair] = {}  # the pair, by device and dtype

        @torch.compiler.disable
        def changed(y, x):
            self.calls += 1
            self.acted.add(layer_slice)
            key = (x.device, x.dtype)
            if key not in converted and not pair.up.requires_grad:
                converted[key] = pair.to(device=x.device, dtype=x.dtype)
            change = converted.get(key, pair).change(x)
            if layer_slice.outputs is None:
                return y + change
            return y + pad(change, (layer_slice.first, y.shape[-1] - layer_slice.first - layer_slice.outputs))

        def forward_with_lora(x, *args, **kwargs):
            y = forward(x, *args, **kwargs)
            return changed(y, x) if self.is_on else y

        return forward_with_lora


def _module(model: torch.nn.Module, path: str) -> torch.nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise ValueError(
            f"The model has no layer `{path}` any more: something else on this MODEL has put other modules in "
            f"its place, where no LoRA can act. Remove that patch."
        ) from None


def _check_shape(layer_slice: LayerSlice, module: torch.nn.Module, pair: LowRankPair) -> None:
    shape = (getattr(module, "in_features", None), layer_slice.outputs or getattr(module, "out_features", None))
    if shape != (pair.down.shape[1], pair.up.shape[0]):
        raise ValueError(
            f"The concept LoRA's pair for `{layer_slice}` is made for {pair.down.shape[1]} inputs and "
            f"{pair.up.shape[0]} outputs, the model's layer has {shape[0]} and {shape[1]}: this LoRA belongs to "
            f"another model family."
        )
