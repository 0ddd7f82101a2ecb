"""A concept LoRA as a branch of a live model that is switched on and off per prediction. Pure torch.

One model in memory, no weight is touched: training switches the branch on for the student and off for the teacher,
the probe compares off with on, UnGuidance blends off and on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from .lora import ConceptLoRA, LowRankPair


class Branch:
    """Low-rank pairs, by module path, hung on a model's Linears while `attached`, acting only while `on`.

    Each Linear's instance attribute `forward` is wrapped, not its weight and not by a torch hook: hooks are skipped
    by an already compiled model, weights may be quantised, memory-mapped or on another device.
    """

    def __init__(self, pairs: Mapping[str, LowRankPair]):
        self.pairs = pairs
        self.calls = 0  # of any pair since attached: 0 after a prediction means that something bypassed the branch
        self.is_on = False
        self._wraps: dict[str, tuple] = {}

    @classmethod
    def of(cls, lora: ConceptLoRA, paths: Mapping[str, str]) -> Branch:
        """The branch of a concept LoRA on the model whose layers have these `paths`, by their name in files.

        Raises ValueError when the model lacks a layer that the LoRA was made for.
        """
        unknown = [name for name in lora.pairs if name not in paths]
        if unknown:
            raise ValueError(
                f"This LoRA does not fit the model: {len(unknown)} of its {len(lora.pairs)} layers are not there, "
                f"`{unknown[0]}` for one. Use it with the model family that it was trained on."
            )
        return cls({paths[name]: pair for name, pair in lora.pairs.items()})

    @contextmanager
    def on(self) -> Iterator[None]:
        """Predictions inside include the LoRA."""
        before, self.is_on = self.is_on, True
        try:
            yield
        finally:
            self.is_on = before

    @contextmanager
    def attached(self, model: torch.nn.Module) -> Iterator[Branch]:
        """Hang the pairs on `model`'s Linears for the duration; whatever stood there is restored, also on errors."""
        replaced: list[tuple[torch.nn.Module, dict]] = []
        self.calls = 0
        try:
            for path, pair in self.pairs.items():
                module = model.get_submodule(path)
                _check_shape(path, module, pair)
                replaced.append((module, {"forward": module.forward} if "forward" in vars(module) else {}))
                module.forward = self._wrapped(path, module.forward)
            yield self
        finally:
            for module, before in reversed(replaced):
                vars(module).pop("forward", None)
                vars(module).update(before)

    def _wrapped(self, path: str, forward):
        """`forward` with the pair: the same object whenever it is asked for, or a compiled model compiles again."""
        if path not in self._wraps or self._wraps[path][0] != forward:
            self._wraps[path] = (forward, self._wrap(forward, self.pairs[path]))
        return self._wraps[path][1]

    def _wrap(self, forward, pair: LowRankPair):
        cast: dict[tuple, LowRankPair] = {}

        @torch.compiler.disable
        def changed(y, x):
            self.calls += 1
            if pair.up.requires_grad:
                return y + pair.change(x)
            key = (x.device, x.dtype)
            if key not in cast:
                cast[key] = pair.to(device=x.device, dtype=x.dtype)
            return y + cast[key].change(x)

        def forward_with_branch(x, *args, **kwargs):
            y = forward(x, *args, **kwargs)
            return changed(y, x) if self.is_on else y

        return forward_with_branch


def _check_shape(path: str, module: torch.nn.Module, pair: LowRankPair) -> None:
    shape = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    if shape != (pair.down.shape[1], pair.up.shape[0]):
        raise ValueError(
            f"The concept LoRA's pair for `{path}` is made for {pair.down.shape[1]} inputs and {pair.up.shape[0]} "
            f"outputs, the model's layer has {shape[0]} and {shape[1]}: this LoRA belongs to another model family."
        )
