"""Every part with UnGuidance: by the gate and with a fixed w, one picture and a batch of two prompts."""

from __future__ import annotations

import functools
import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_patcher
import torch
from comfy.patcher_extension import merge_nested_dicts

from dev.bench.side_by_side import draw_blended
from dev.bench.two_copies import relative_error
from dev.composition.parts import Part
from dev.composition.stage import CAT, DOG, Scene, Stage
from dev.composition.verdicts import REFUSED, RIGHT, WRONG

W = -1.0
GATE, FIXED = "gate", f"w = {W:g}"
WAYS = (GATE, FIXED)
BATCHES = ((CAT,), (DOG,), (CAT, DOG))
CASES = [(GATE, batch) for batch in BATCHES] + [(FIXED, batch) for batch in BATCHES if CAT in batch]
STEERED = 0.01  # a steered picture is at least this far from the base's


@dataclass
class Outcome:
    """What came of one combination: a verdict, and in words what was wrong or refused."""

    part: str
    way: str
    prompts: tuple[str, ...]
    verdict: str
    words: str = ""
    another_picture: str = ""  # the reason, where unrelated pictures of a mixed batch differ as expected
    ws: list[float] = field(default_factory=list)
    error: float | None = None  # from two merged copies

    @property
    def name(self) -> str:
        """The combination's."""
        return f"{self.part}, {self.way}, {' | '.join(self.prompts)}"


def try_part(stage: Stage, part: Part, cases: Sequence[tuple[str, tuple[str, ...]]] = CASES) -> list[Outcome]:
    """The outcome of each case, (way, prompts). Raises what the part raises without UnGuidance."""
    trial = Trial(stage, part)
    return [_try(trial, *case) for case in cases if len(case[1]) == 1 or not part.expected.alone]


class Trial:
    """A part, and the pictures that ours are compared with, each drawn once."""

    def __init__(self, stage: Stage, part: Part):
        self.stage, self.part = stage, part
        self._plain: dict[tuple[str, ...], torch.Tensor] = {}
        self._copies: dict[tuple[tuple[str, ...], tuple[float, ...]], torch.Tensor] = {}

    def plain(self, prompts: tuple[str, ...]) -> torch.Tensor:
        """By the part without us."""
        if prompts not in self._plain:
            self._plain[prompts] = draw(self.stage, self.part, prompts, lambda model: model)
        return self._plain[prompts]

    def two_copies(self, prompts: tuple[str, ...], ws: tuple[float, ...]) -> torch.Tensor:
        """By two models, the LoRA merged into one, each with a part of its own."""
        if (prompts, ws) not in self._copies:
            base = self.part.model(self.stage, self.stage.model)
            draws = [scene_of(self.stage, self.part, prompts).draw for _ in range(2)]
            self._copies[prompts, ws] = draw_blended((draws[0], base), (draws[1], self._merged()), ws)
        return self._copies[prompts, ws]

    def _merged(self):
        merged = self.part.model(self.stage, self.stage.merged)
        return self._merged_behind if merged.patches else merged

    @functools.cached_property
    def _merged_behind(self):
        """Where the part changes weights: the LoRA is merged into those that it has changed."""
        return self.stage.merged_behind(lambda model: self.part.model(self.stage, model))


def draw(stage: Stage, part: Part, prompts: Sequence[str], ours, steps: int | None = None) -> torch.Tensor:
    """Latents, with `ours(MODEL)` behind the part where there is one picture, in front of it where there are more."""
    scene = scene_of(stage, part, prompts, steps)
    if len(prompts) > 1:
        return scene.draw(part.model(stage, ours(stage.model)))
    return scene.draw(ours(part.model(stage, stage.model)))


def scene_of(stage: Stage, part: Part, prompts: Sequence[str], steps: int | None = None) -> Scene:
    """What the part makes of what is given to a sampler."""
    scene = Scene(stage, prompts, steps or part.steps)
    part.scene(scene)
    return scene


def _try(trial: Trial, way: str, prompts: tuple[str, ...]) -> Outcome:
    from unguide.unguide_ops.steering import SteeringSettings
    from unguide.unguide_ops.unguidance import unguide

    stage, part = trial.stage, trial.part
    trial.plain(prompts)
    outcome = Outcome(part.name, way, prompts, WRONG)
    settings = SteeringSettings(w=None if way == GATE else W, sides="cond and uncond", eta=1.0)
    courses: list[Any] = []
    expected = part.expected
    refused = bool(expected.refusal) and way in (expected.refused or WAYS)
    refused = refused and (not expected.refused_with or expected.refused_with in prompts)
    try:
        drawn = draw(stage, part, prompts, lambda model: unguide(model, stage.lora, settings, courses.append))
    except (RuntimeError, ValueError) as error:
        outcome.words = f"{type(error).__name__}: {error}"
        if refused and re.search(expected.refusal, str(error)) and _raised_by_us(error):
            outcome.verdict = REFUSED
        return outcome
    except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong
        outcome.words = f"{type(error).__name__}: {error}"
        return outcome
    outcome.ws = [it.w for it in courses[-1].decisions] if courses else []
    outcome.words = "not refused" if refused else _fault(trial, way, drawn, outcome)
    outcome.verdict = WRONG if outcome.words else RIGHT
    return outcome


def _fault(trial: Trial, way: str, drawn: torch.Tensor, outcome: Outcome) -> str:
    """What is wrong with a picture, in words."""
    part, plain = trial.part, trial.plain(outcome.prompts)
    means = [prompt == CAT and part.expected.erased for prompt in outcome.prompts]
    right = [W if it or way == FIXED else 1.0 for it in means]
    if outcome.ws and outcome.ws != right:
        return f"decided {outcome.ws}, right is {right}"
    same = [torch.equal(one, other) for one, other in zip(drawn, plain, strict=True)]
    mixed = len(set(right)) > 1
    if not all(it for it, w in zip(same, right, strict=True) if w == 1):
        if not mixed or not part.expected.another_picture:
            return f"an unrelated picture is {relative_error(drawn, plain):.1e} off"
        outcome.another_picture = part.expected.another_picture
    if set(right) == {1.0}:
        return ""
    outcome.error = relative_error(drawn, trial.two_copies(outcome.prompts, tuple(right)))
    if not outcome.error < part.expected.close:
        return f"{outcome.error:.1e} from two merged copies"
    steered = [i for i, w in enumerate(right) if w != 1]
    if outcome.ws and any(relative_error(drawn[i], plain[i]) < STEERED for i in steered):
        return "the unsteered picture"
    return ""


def acts(stage: Stage, part: Part) -> bool:
    """Whether the part changes a picture at all."""
    plain = Scene(stage, (CAT,), part.steps)
    return not torch.equal(plain.draw(stage.model), draw(stage, part, (CAT,), lambda model: model))


def costs_more(stage: Stage, part: Part) -> bool:
    """Whether it is something that takes part in predictions, so that each question is asked whole."""
    from unguide.unguide_ops.host.others import others_of, placed_on

    model, scene = part.model(stage, stage.model), scene_of(stage, part, (CAT,))
    options = comfy.model_patcher.create_model_options_clone(model.model_options)
    wrappers = options.setdefault("transformer_options", {}).setdefault("wrappers", {})
    merge_nested_dicts(wrappers, model.wrappers, copy_dict1=False)  # as a run of the host does
    with scene.around(model):
        placed = placed_on(model.model.diffusion_model)
        return bool(others_of(model, options, [[more for _, more in scene.positive]], placed))


def _raised_by_us(error: Exception) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals["__name__"].startswith("unguide.")
