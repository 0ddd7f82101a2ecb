"""One prediction of a sampling run, and the further predictions that UnGuidance makes from the same latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch

from .other_packs import may_tell_more_than_words, other_pack_objects
from .pack_state import PackState, Snapshot
from .prompt import AREA_AND_TIME, Cond, Prompt, entry_rows
from .sampling_run import SamplingRun

Within = Callable[[], AbstractContextManager]


class PredictionCall:
    """One prediction of a sampling run: x0 for each cond, from latents [B, ...] at one noise level.

    If other packs take part in predictions, each further prediction is made as the base's is: for all rows and conds of
    the batch in one call and in the same order, since such packs may share attention over the batch, count conds, or
    keep what they see; and each series of predictions has its own state of these packs (see `other_packs`). Otherwise
    only the rows and conds that are needed are predicted.
    """

    def __init__(
        self,
        run: SamplingRun,
        executor: Callable,
        model: Any,
        conds: list[Cond | None],
        x: torch.Tensor,
        timestep: torch.Tensor,
        options: dict,
        *arguments,
    ):
        """All but `run` as the host passes them to a CALC_COND_BATCH wrapper."""
        self.run, self.x = run, x
        self._conds = conds
        self._timestep = timestep
        # without the copies of the model on other devices, to which no adapter is attached
        options = {name: option for name, option in options.items() if name != "multigpu_clones"}
        self._predict = lambda conds, x, timestep: executor(model, conds, x, timestep, options, *arguments)
        self._options = options
        self._initial_state: Snapshot = []

    @cached_property
    def _pack_state(self) -> PackState:
        """The state of the other packs that take part."""
        patcher, forwards = self.run.guider.model_patcher, self.run.replaced_forwards
        return PackState(other_pack_objects(patcher, self._options, self._conds, forwards), self.x.device)

    @cached_property
    def tells_more_than_words(self) -> bool:
        """Whether the model may be told more than the words of the prompts: pictures, or another pack's own text."""
        patcher, forwards = self.run.guider.model_patcher, self.run.replaced_forwards
        return may_tell_more_than_words(patcher, self._options, self._conds, forwards)

    @cached_property
    def sigma(self) -> float:
        """The noise level, fetched from the device once."""
        return self._timestep[0].item()

    @cached_property
    def step(self) -> int:
        """The index of the step that the call belongs to, from 0."""
        return self.run.step(self.sigma)

    @property
    def rows(self) -> list[int]:
        """The indices of the batch's rows."""
        return list(range(len(self.x)))

    @property
    def has_other_packs(self) -> bool:
        """Whether other packs take part in the prediction."""
        return bool(self._pack_state)

    def predict(self, within: Within = nullcontext, changed: str = "") -> list[torch.Tensor]:
        """x0 for each cond, predicted as the host would, inside `within()`.

        `changed`: the name of `SamplingRun.add_changed_prompts` under which the prompts are changed, "" for none.
        """
        self._initial_state = self._pack_state.snapshot()
        if self.run.initial_pack_state is None:
            self.run.initial_pack_state = self._initial_state
        with self._counted_as_plain(), within():
            return self._predict(self._changed(changed), self.x, self._timestep)

    def predict_plainly(self) -> list[torch.Tensor]:
        """x0 for each cond as the host predicts it, in a run in which nothing else is predicted any more."""
        with self._counted_as_plain():
            return self._predict(self._conds, self.x, self._timestep)

    def predict_branches(self, within: Within) -> list[torch.Tensor]:
        """x0 for each cond: the positive ones predicted inside `within()`, the negative ones outside of it.

        Not for runs in which other packs take part: they would see a part of the conds at a time.
        """
        negative = [cond is not None and self._is_negative(cond) for cond in self._conds]
        with self._counted_as_plain():
            with within():
                predictions = self._predict_selected([not it for it in negative])
            if any(negative):
                outside = self._predict_selected(negative)
                predictions = [b if it else a for it, a, b in zip(negative, predictions, outside, strict=True)]
        return predictions

    @contextmanager
    def _counted_as_plain(self) -> Iterator[None]:
        """A context whose model calls plain sampling would have made as well."""
        evaluations = self.run.evaluations
        yield
        self.run.plain_evaluations += self.run.evaluations - evaluations

    def predict_again(
        self, key: Any, within: Within, rows: Sequence[int], negatives: bool, changed: str = ""
    ) -> list[torch.Tensor | None]:
        """x0 for each cond once more, inside `within()`, for the given rows; other rows may hold any values.

        The prediction is one of the series named `key`, which has its own state of other packs. Without `negatives`,
        the negative conds are None. `changed` as in `predict`.
        """
        selected = [cond is not None and (negatives or not self._is_negative(cond)) for cond in self._conds]
        all_conds = self._changed(changed)
        with self._series_state(key), within():
            if self.has_other_packs or list(rows) == self.rows:
                conds = all_conds if self.has_other_packs else self._selected(selected, all_conds)
                predictions = self._predict(conds, self.x, self._timestep)
            else:
                batch = len(self.x)
                conds = [
                    cond and [entry_rows(e, rows, batch) for e in cond] for cond in self._selected(selected, all_conds)
                ]
                index = torch.tensor(rows, device=self.x.device)
                parts = self._predict(conds, self.x[index], self._timestep[index])
                predictions = [torch.zeros_like(self.x).index_copy_(0, index, part.to(self.x)) for part in parts]
        return [x0 if it else None for x0, it in zip(predictions, selected, strict=True)]

    def has_same_batching(self, rows: Sequence[int], negatives: bool) -> bool:
        """Whether `predict_again` makes one call with the rows and conds of `predict`: equal inputs give equal bits."""
        all_conds = negatives or not any(cond and self._is_negative(cond) for cond in self._conds)
        return self.has_other_packs or (list(rows) == self.rows and all_conds)

    @property
    def batching_error(self) -> float:
        """The most that equal predictions may differ by if their batches differ, as a share of their norm."""
        dtype = self.run.guider.model_patcher.model.get_dtype()
        return torch.finfo(dtype).eps ** 0.5 if dtype.is_floating_point else 1.0

    def _predict_selected(self, selected: Sequence[bool]) -> list[torch.Tensor]:
        return self._predict(self._selected(selected, self._conds), self.x, self._timestep)

    @staticmethod
    def _selected(selected: Sequence[bool], conds: Sequence[Cond | None]) -> list[Cond | None]:
        return [cond if it else None for it, cond in zip(selected, conds, strict=True)]

    def _changed(self, name: str) -> list[Cond | None]:
        if not name:
            return self._conds
        return [
            cond if not cond or self._is_negative(cond) else [self.run.changed_prompt(name, it) for it in cond]
            for cond in self._conds
        ]

    @contextmanager
    def _series_state(self, key: Any) -> Iterator[None]:
        """A context with the state of other packs after the last prediction of `key`, and recorded for the next."""
        with self._pack_state.restored(self.run.pack_states.get(key, self._initial_state)):
            yield
            self.run.pack_states[key] = self._pack_state.snapshot()

    def predict_instead(self, cond_index: int, cond: Cond | str, within: Within = nullcontext) -> torch.Tensor:
        """x0 for another cond, or for a prompt of the run by its name, in the place of a cond, inside `within()`.

        It changes no state of other packs.
        """
        with self._pack_state.restored(self._initial_state), within():
            return self._predict(self._with_cond(cond_index, cond), self.x, self._timestep)[cond_index]

    def predict_at(self, x: torch.Tensor, sigma: float, prompt: str) -> torch.Tensor:
        """x0 of other latents [B, ...] at another noise level, for a prompt of the run by its name.

        It changes no state of other packs, and may be called before the call's own prediction.
        """
        index = next(i for i, cond in enumerate(self._conds) if cond)
        with self._pack_state.restored(self._pack_state.snapshot()):
            return self._predict(self._with_cond(index, prompt), x, torch.full_like(self._timestep, sigma))[index]

    def _with_cond(self, cond_index: int, cond: Cond | str) -> list[Cond | None]:
        """The call's conds with another one, or a prompt of the run by its name, in the place of one.

        The others are only there if other packs take part, which may count them.
        """
        conds: list[Cond | None] = list(self._conds) if self.has_other_packs else [None] * len(self._conds)
        conds[cond_index] = self.run.guider.conds[cond] if isinstance(cond, str) else cond
        return conds

    def prompts(self) -> list[Prompt]:
        """The call's positive prompts one by one, wherever in the picture and whenever in the run they count.

        Those of strength 0 are included only if all are.
        """
        weighted = list(self._weighted_prompts())
        return [prompt for prompt, strength in weighted if strength > 0] or [prompt for prompt, _ in weighted]

    def _weighted_prompts(self) -> Iterator[tuple[Prompt, float]]:
        pending = set(self.run.positive_ids)
        for index, cond in enumerate(self._conds):
            if not cond or self._is_negative(cond):
                continue
            for entry in cond:
                if entry["uuid"] in pending:
                    pending.remove(entry["uuid"])
                    everywhere = {key: value for key, value in entry.items() if key not in AREA_AND_TIME}
                    is_whole_cond = len(cond) == 1 and everywhere.keys() == entry.keys()
                    strength = entry.get("strength", 1.0) * entry.get("mask_strength", 1.0)
                    yield Prompt([everywhere], index, is_whole_cond), strength

    def positive_and_negative(self) -> tuple[int | None, int | None]:
        """The indices of the call's first positive and first negative cond; None for one that it has not."""
        is_negative = {i: self._is_negative(cond) for i, cond in enumerate(self._conds) if cond}
        first = {negative: next((i for i, it in is_negative.items() if it == negative), None) for negative in (0, 1)}
        return first[False], first[True]

    @property
    def is_negative(self) -> bool:
        """Whether the call predicts for negative prompts only."""
        return all(self._is_negative(cond) for cond in self._conds if cond)

    def _is_negative(self, cond: Cond) -> bool:
        return cond[0]["uuid"] in self.run.negative_ids
