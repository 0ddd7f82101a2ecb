"""A prediction of a sampling run, and what else is asked at the same latents."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import comfy.conds
import comfy.utils
import torch
from comfy.hooks import EnumHookType

from .others import Memory, others_of
from .runs import Run

WHERE_AND_WHEN = ("area", "mask", "mask_strength", "set_area_to_bounds", "strength", "default",
                  "timestep_start", "timestep_end")  # fmt: skip
TEXT = ("c_crossattn", "y")
"""What the host calls an encoded prompt and its pooled vector; the first that a model has tells prompts apart."""

Conds = list[dict]  # the host's: entries that share a prediction, by areas or by weight


@dataclass(frozen=True)
class Prompt:
    """What the picture shall show: one prompt of a call, asked for everywhere and always.

    `number` is that of its cond among the call's. `alone`: the cond is nothing else, so its prediction is known.
    """

    conds: Conds
    number: int
    alone: bool

    @property
    def has_hooked_parts(self) -> bool:
        """Whether hooks may bring texts of their own, picture by picture."""
        hooks = self.conds[0].get("hooks")
        return hooks is not None and any(it.hook_type != EnumHookType.Weight for it in hooks.hooks)

    def text(self, rows: int) -> torch.Tensor | None:
        """The encoded prompt of each picture, [rows, ...], or None where the model reads none."""
        return text_of(self.conds, rows)


def text_of(conds: Conds, rows: int) -> torch.Tensor | None:
    """The encoded prompt of each of so many pictures, or None."""
    known = (conds[0]["model_conds"].get(name) for name in TEXT)
    found = next((it.cond for it in known if it is not None and isinstance(it.cond, torch.Tensor)), None)
    return None if found is None else comfy.utils.repeat_to_batch_size(found, rows)


class Call:
    """One prediction of a sampling run: x0 for each cond, from latents [B, ...] at one noise level.

    Where other packs take part in predictions, whatever is asked is asked as the base is: for all rows and conds of the
    batch at once, in the same order, and each line of questions with a memory of its own (see `others`). They may share
    attention over the batch, go by a cond's number, or keep what they see. Without them only what is needed is asked.
    """

    def __init__(self, run: Run, executor, model, conds: list[Conds | None], x, timestep, options: dict, *rest):
        self.run, self.x = run, x
        self._conds = conds
        self._timestep = timestep
        options = {name: it for name, it in options.items() if name != "multigpu_clones"}  # no branch hangs on those
        self._predict = lambda conds, x, timestep: executor(model, conds, x, timestep, options, *rest)
        self._memory = Memory(others_of(run.guider.model_patcher, options, conds, run.placed), x.device)
        self._before: list[tuple] = []

    @cached_property
    def sigma(self) -> float:
        """The noise level, fetched from the device once."""
        return self._timestep[0].item()

    @cached_property
    def step(self) -> int:
        """The number of the step that it belongs to, from 0."""
        return self.run.step(self.sigma)

    @property
    def rows(self) -> list[int]:
        """The numbers of the batch's rows."""
        return list(range(len(self.x)))

    @property
    def has_others(self) -> bool:
        """Whether other packs take part."""
        return bool(self._memory)

    def evaluate(self, within: Callable[[], AbstractContextManager] = nullcontext) -> list[torch.Tensor]:
        """What would have been predicted, for each cond, inside `within()`."""
        before = self.run.evaluations
        self._before = self._memory.taken()
        self.run.beginning = self._before if self.run.beginning is None else self.run.beginning
        with within():
            predictions = self._predict(self._conds, self.x, self._timestep)
        self.run.plain_evaluations += self.run.evaluations - before
        return predictions

    def evaluate_sides(self, within: Callable[[], AbstractContextManager]) -> list[torch.Tensor]:
        """The same with the conds that say what the picture shall not show predicted outside of `within()`.

        Not where other packs take part: they would be asked for a part of the conds.
        """
        outside = [its is not None and self._is_negative(its) for its in self._conds]
        before = self.run.evaluations
        with within():
            predictions = self._of_some([not it for it in outside])
        if any(outside):
            rest = self._of_some(outside)
            predictions = [b if it else a for it, a, b in zip(outside, predictions, rest, strict=True)]
        self.run.plain_evaluations += self.run.evaluations - before
        return predictions

    def _of_some(self, wanted: Sequence[bool]) -> list[torch.Tensor]:
        conds = [its if it else None for it, its in zip(wanted, self._conds, strict=True)]
        return self._predict(conds, self.x, self._timestep)

    def evaluate_again(
        self, key, within: Callable[[], AbstractContextManager], rows: Sequence[int], negatives: bool
    ) -> list[torch.Tensor | None]:
        """The same once more, inside `within()`, for some rows of the batch. Other rows may hold anything.

        It is one of the predictions of `key`, which have a history of their own. Without `negatives` the conds that say
        what the picture shall not show are None.
        """
        wanted = [its is not None and (negatives or not self._is_negative(its)) for its in self._conds]
        with self._history(key), within():
            if self.has_others or list(rows) == self.rows:
                conds = self._conds if self.has_others else self._chosen(wanted)
                predictions = self._predict(conds, self.x, self._timestep)
            else:
                some = [its and [_of_rows(e, rows, len(self.x)) for e in its] for its in self._chosen(wanted)]
                index = torch.tensor(rows, device=self.x.device)
                found = self._predict(some, self.x[index], self._timestep[index])
                predictions = [torch.zeros_like(self.x).index_copy_(0, index, it.to(self.x)) for it in found]
        return [it if chosen else None for it, chosen in zip(predictions, wanted, strict=True)]

    def is_batched_alike(self, rows: Sequence[int], negatives: bool) -> bool:
        """Whether `evaluate_again` asks for these as `evaluate` does, so that the same gives the same bits."""
        without = negatives or not any(its and self._is_negative(its) for its in self._conds)
        return self.has_others or (list(rows) == self.rows and without)

    @property
    def batching_error(self) -> float:
        """What equal predictions may differ by, as a share of their length, when they were batched otherwise."""
        dtype = self.run.guider.model_patcher.model.get_dtype()
        return torch.finfo(dtype).eps ** 0.5 if dtype.is_floating_point else 1.0

    def _chosen(self, wanted: Sequence[bool]) -> list[Conds | None]:
        return [its if it else None for it, its in zip(wanted, self._conds, strict=True)]

    @contextmanager
    def _history(self, key) -> Iterator[None]:
        """Others remember the predictions of `key`, and what they remember then is kept for the next of them."""
        with self._memory.as_of(self.run.histories.get(key, self._before)):
            yield
            self.run.histories[key] = self._memory.taken()

    def instead(
        self, number: int, conds: Conds | str, within: Callable[[], AbstractContextManager] = nullcontext
    ) -> torch.Tensor:
        """x0 for other conds, or a prompt of the run by its name, in the place of cond `number`, inside `within()`.

        Asked aside: nobody remembers it.
        """
        its = self.run.guider.conds[conds] if isinstance(conds, str) else conds
        others = self._conds if self.has_others else [None] * len(self._conds)
        asked = [its if i == number else it for i, it in enumerate(others)]
        with self._memory.as_of(self._before), within():
            return self._predict(asked, self.x, self._timestep)[number]

    def prompts(self) -> list[Prompt]:
        """The call's prompts, one by one: what the picture shall show, wherever in it and whenever in the run.

        Those of no strength count only if there are no others.
        """
        found = list(self._prompts())
        return [it for it, strength in found if strength > 0] or [it for it, _ in found]

    def _prompts(self) -> Iterator[tuple[Prompt, float]]:
        left = set(self.run.wanted)
        for number, its in enumerate(self._conds):
            if not its or self._is_negative(its):
                continue
            for entry in its:
                if entry["uuid"] in left:
                    left.remove(entry["uuid"])
                    everywhere = {key: it for key, it in entry.items() if key not in WHERE_AND_WHEN}
                    alone = len(its) == 1 and everywhere.keys() == entry.keys()
                    strength = entry.get("strength", 1.0) * entry.get("mask_strength", 1.0)
                    yield Prompt([everywhere], number, alone), strength

    @property
    def is_negative(self) -> bool:
        """Whether it asks only for what the picture shall not show."""
        return all(self._is_negative(its) for its in self._conds if its)

    def _is_negative(self, conds: Conds) -> bool:
        """Whether this is what the picture shall not show."""
        return conds[0]["uuid"] in self.run.unwanted


def _of_rows(entry: dict, rows: Sequence[int], batch: int) -> dict:
    """A cond's entry for some rows of the batch."""

    def some(it):
        if isinstance(it, list):
            return [some(each) for each in it]
        if isinstance(it, torch.Tensor) and it.ndim and len(it) > 1:
            return comfy.utils.repeat_to_batch_size(it, batch)[list(rows)]
        return it

    def cond(it):
        chosen = copy.copy(it)
        chosen.cond = it.cond if isinstance(it, comfy.conds.CONDConstant) else some(it.cond)
        return chosen

    return {
        **{key: some(it) if key == "mask" else it for key, it in entry.items()},
        "model_conds": {name: cond(it) for name, it in entry["model_conds"].items()},
    }
