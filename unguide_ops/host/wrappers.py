"""What is hung on a MODEL: its sampling runs steered, its evaluations counted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import comfy.conds
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from .conditioning import Conditioning
from .live import pixels

KEY = "unguide"
NEGATIVES = ("negative", "empty_negative_prompt")
"""What the host's guiders call the prompts that say what the picture shall not show."""
WHERE_AND_WHEN = ("area", "mask", "mask_strength", "set_area_to_bounds", "strength", "default",
                  "timestep_start", "timestep_end")  # fmt: skip
TIED_TO_A_BATCH = ("control", "gligen")

Conds = list[dict]  # the host's: entries that share a prediction, by areas or by weight


class RunAgain(Exception):  # noqa: N818 # no error
    """Raised in a prediction: begin this sampling run again, from the same noise."""


class EvaluationCounter:
    """Counts evaluations: forwards of the diffusion model, times the rows of the batch."""

    def __init__(self):
        self.count = 0

    def around_forward(self, executor, x, *args, **kwargs):
        """The wrapper that counts, for APPLY_MODEL."""
        self.count += x.shape[0]
        return executor(x, *args, **kwargs)

    def watch(self, model):
        """A clone of MODEL whose evaluations are counted here."""
        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self.around_forward)
        return clone


class Run:
    """A sampling run of the host: its noise levels, and what it has cost, begun again or not."""

    def __init__(self, guider, noise: torch.Tensor, sigmas: torch.Tensor):
        self.guider, self.noise = guider, noise
        self.pictures = len(noise)
        # the host gives each entry of a prompt its number; with areas it adds entries to all prompts, under numbers of
        # others, behind their own
        self.unwanted = {e["uuid"] for name in NEGATIVES for e in guider.conds.get(name) or ()}
        self.wanted = {e["uuid"] for name, conds in guider.conds.items() if name not in NEGATIVES for e in conds or ()}
        self.sigmas: list[float] = sigmas.tolist()
        self.counter = EvaluationCounter()
        self.plain_evaluations = 0  # what it would have cost without us
        self.memory: dict = {}  # what outlives `RunAgain`

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its pictures, in pixels."""
        return pixels(self.guider.model_patcher, self.noise)

    @property
    def cfg(self) -> float | None:
        """Its guidance, where its guider has one; of the host's dual guidance what is between the first two prompts."""
        return getattr(self.guider, "cfg1", getattr(self.guider, "cfg", None))

    @property
    def evaluations(self) -> int:
        """What it has cost until now."""
        return self.counter.count

    @property
    def steps(self) -> int:
        """How many."""
        return len(self.sigmas) - 1

    def step(self, sigma: float) -> int:
        """The number of the step that a prediction at this noise level belongs to, from 0."""
        return sum(sigma <= later * (1 + 1e-5) for later in self.sigmas[1:])

    def add(self, name: str, conditioning: Conditioning) -> None:
        """One more prompt for the run, for `Call.of`. Raises ValueError for one that another text encoder has made."""
        own = conditioning[0][0].shape[-1]
        entries = (e for conds in self.guider.conds.values() for e in conds or ())
        others = {e["cross_attn"].shape[-1] for e in entries if "cross_attn" in e}
        if others and own not in others:
            raise ValueError(
                f"The LoRA's target prompt is {own} numbers wide, this run's prompts {min(others)}: it was encoded for "
                f"another model. Put UnGuide Calibrate behind the LoRA."
            )
        self.guider.conds[name] = comfy.sampler_helpers.convert_cond(conditioning)


class Call:
    """One prediction of a sampling run: x0 for each cond, from latents [B, ...] at one noise level."""

    def __init__(self, run: Run, executor, model, conds: list[Conds | None], x, timestep, options: dict, *rest):
        self.run, self.x = run, x
        self._conds = conds
        self._timestep = timestep
        options = {name: it for name, it in options.items() if name != "multigpu_clones"}  # no branch hangs on those
        self._predict = lambda conds, x, timestep: executor(model, conds, x, timestep, options, *rest)

    @cached_property
    def sigma(self) -> float:
        """The noise level, fetched from the device once."""
        return self._timestep[0].item()

    @property
    def rows(self) -> list[int]:
        """The numbers of the batch's rows."""
        return list(range(len(self.x)))

    def evaluate(self, within: Callable = nullcontext, negatives: bool = True) -> list[torch.Tensor]:
        """What would have been predicted, for each cond, inside `within()`.

        Without `negatives` the conds that say what the picture shall not show are predicted outside it.
        """
        before = self.run.evaluations
        outside = [not negatives and its is not None and self._is_negative(its) for its in self._conds]
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

    def evaluate_again(self, rows: Sequence[int], negatives: bool) -> list[torch.Tensor | None]:
        """The same for some rows of the batch, None for a cond that is left out. Other rows may hold anything.

        Without `negatives` the conds are left out that say what the picture shall not show.
        """
        conds = [its if its and (negatives or not self._is_negative(its)) else None for its in self._conds]
        if list(rows) != self.rows and not any(key in e for its in conds for e in its or () for key in TIED_TO_A_BATCH):
            some = [None if its is None else [_of_rows(e, rows, len(self.x)) for e in its] for its in conds]
            index = torch.tensor(rows, device=self.x.device)
            found = self._predict(some, self.x[index], self._timestep[index])
            predictions = [torch.zeros_like(self.x).index_copy_(0, index, it.to(self.x)) for it in found]
        else:
            predictions = self._predict(conds, self.x, self._timestep)
        return [it if cond else None for it, cond in zip(predictions, conds, strict=True)]

    def prompts(self) -> list[tuple[Conds, int | None]]:
        """The call's prompts, one by one: what the picture shall show, wherever in it and whenever in the run.

        With each, the number of the cond that is nothing else: its prediction is known already.
        """
        left = set(self.run.wanted)
        found: list[tuple[Conds, int | None]] = []
        for number, its in enumerate(self._conds):
            if not its or self._is_negative(its):
                continue
            for entry in its:
                if entry["uuid"] in left:
                    left.remove(entry["uuid"])
                    everywhere = {key: it for key, it in entry.items() if key not in WHERE_AND_WHEN}
                    alone = len(its) == 1 and everywhere.keys() == entry.keys()
                    found.append(([everywhere], number if alone else None))
        return found

    @property
    def is_negative(self) -> bool:
        """Whether it asks only for what the picture shall not show."""
        return all(self._is_negative(its) for its in self._conds if its)

    def _is_negative(self, conds: Conds) -> bool:
        """Whether this is what the picture shall not show."""
        return conds[0]["uuid"] in self.run.unwanted

    def of(self, *prompts: Conds | str) -> list[torch.Tensor]:
        """x0 for conds, and for prompts of the run by their name."""
        conds = [self.run.guider.conds[it] if isinstance(it, str) else it for it in prompts]
        return self._predict(conds, self.x, self._timestep)


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


Around = Callable[[Run, torch.nn.Module, Sequence[Any]], AbstractContextManager[Callable[[Call], list[torch.Tensor]]]]


def steer(model, item, around: Around):
    """A clone of MODEL with `item` hung on it: its sampling runs are inside `around(run, diffusion_model, items)`.

    `around` is told all that hangs there, and yields what is asked for every prediction: x0 for each cond, from a Call.

    Works with every sampler, and inside the host's own guidance: pre- and post-CFG functions see the result.
    """

    def around_run(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        items = guider.model_patcher.get_attachment(KEY)
        diffusion_model = guider.model_patcher.model.diffusion_model
        before, random = dict(guider.conds), torch.random.get_rng_state()
        run = Run(guider, noise, sigmas)
        while True:
            guider.conds = {name: [entry.copy() for entry in conds] for name, conds in before.items()}
            try:
                with around(run, diffusion_model, items) as predict, _in_run(run, predict):
                    return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
            except RunAgain:
                run.plain_evaluations = 0
                torch.random.set_rng_state(random)

    clone = model.clone()
    hung = clone.get_attachment(KEY) or ()
    clone.set_attachments(KEY, (*hung, item))
    if not hung:
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, around_run)
    return clone


@contextmanager
def _in_run(run: Run, predict: Callable[[Call], list[torch.Tensor]]) -> Iterator[None]:
    """Wrappers on the guider's own options for the run."""

    def around_prediction(executor, *args):
        return predict(Call(run, executor, *args))

    kept = run.guider.model_options
    options = run.guider.model_options = comfy.model_patcher.create_model_options_clone(kept)
    add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, around_prediction, options, is_model_options=True)
    add_wrapper_with_key(
        WrappersMP.APPLY_MODEL, f"{KEY} in run", run.counter.around_forward, options, is_model_options=True
    )
    try:
        yield
    finally:
        run.guider.model_options = kept
