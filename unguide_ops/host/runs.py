"""A sampling run of the host, and its prompts."""

from __future__ import annotations

import re

import comfy.hooks
import comfy.sampler_helpers
import torch

from .conditioning import Conditioning
from .counting import EvaluationCounter
from .live import pixels
from .others import placed_on

UNWANTED = re.compile(r"neg|uncond|null|empty|avoid|unwanted", re.IGNORECASE)
"""In the names that guiders give to prompts which say what the picture shall not show ("negative", "nag_negative",
"empty_negative_prompt", "uncond"); the others may open the gate."""


class RunAgain(Exception):  # noqa: N818 # no error
    """Raised in a prediction: begin this sampling run again, from the same noise."""


class Run:
    """A sampling run of the host: its noise levels, and what it has cost, begun again or not."""

    def __init__(self, guider, noise: torch.Tensor, sigmas: torch.Tensor):
        self.guider, self.noise = guider, noise
        self.placed = placed_on(guider.model_patcher.model.diffusion_model)
        self.pictures = len(noise)
        # the host gives each entry of a prompt its number; with areas it adds entries to all prompts, under numbers of
        # others, behind their own
        unwanted = {name for name in guider.conds if UNWANTED.search(name)}
        self.unwanted = {e["uuid"] for name in unwanted for e in guider.conds[name] or ()}
        self.wanted = {e["uuid"] for name, conds in guider.conds.items() if name not in unwanted for e in conds or ()}
        self.sigmas: list[float] = sigmas.tolist()
        self.counter = EvaluationCounter()
        self.memory: dict = {}  # what outlives `RunAgain`
        self.begin()

    def begin(self) -> None:
        """From the first step, once more or for the first time."""
        self.plain_evaluations = 0  # what it would have cost without us
        self.calls = 0  # predictions that were asked for through us
        self.histories: dict = {}  # what others remember of each LoRA's predictions (see `others.Memory`)
        self.beginning: list | None = None  # what they remember before the first prediction
        self._step = 0

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
        return max(0, len(self.sigmas) - 1)

    def step(self, sigma: float) -> int:
        """The number of the step that a prediction at this noise level belongs to, from 0.

        Predictions are asked for in the order of the run. Noise levels may rise again (restart sampling): then the next
        step that begins as high is meant, or, where the sampler raises them by itself, the one that it is in.
        """
        levels, low, high = self.sigmas, 1 - 1e-5, 1 + 1e-5
        if sigma > levels[self._step] * high:
            later = (i for i in range(self._step + 1, self.steps) if levels[i] >= sigma * low)
            self._step = next(later, self._step)
        while self._step + 1 < self.steps and sigma <= levels[self._step + 1] * high <= levels[self._step] * high:
            self._step += 1
        return self._step

    @property
    def changes_weights(self) -> bool:
        """Whether prompts carry hooks under which the host changes the model's weights during the run."""
        hooks = [e["hooks"] for conds in self.guider.conds.values() for e in conds or () if e.get("hooks")]
        return any(it.get_type(comfy.hooks.EnumHookType.Weight) for it in hooks)

    def add(self, name: str, conditioning: Conditioning) -> None:
        """One more prompt for the run, for `Call.instead`. ValueError for one that another text encoder has made."""
        own = conditioning[0][0].shape[-1]
        entries = (e for conds in self.guider.conds.values() for e in conds or ())
        others = {e["cross_attn"].shape[-1] for e in entries if "cross_attn" in e}
        if others and own not in others:
            raise ValueError(
                f"The LoRA's target prompt is {own} numbers wide, this run's prompts {min(others)}: it was encoded for "
                f"another model. Put UnGuide Calibrate behind the LoRA."
            )
        self.guider.conds[name] = comfy.sampler_helpers.convert_cond(conditioning)
