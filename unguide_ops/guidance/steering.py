"""One concept LoRA in one sampling run: pictures whose prompt touches the concept are steered away from it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from .. import host
from ..concept_lora import ConceptLoRA
from ..gate.probe import calibration_of
from ..gate.probe_trajectory import TARGET_PROMPT
from ..lora.adapter import LoRAAdapter
from ..lora.effect import LEAST_EFFECT, NoEffectError, rows_differ
from . import given_picture, second_look
from .blend import blend
from .config import BLEND, COND_AND_UNCOND, COND_ONLY, REPLACE, SWAP, SteeringConfig
from .gate_in_run import ALWAYS_ERASE, GateInRun
from .report import (
    PictureDecision,
    SamplingReport,
    idle_layers_warning,
    unchanged_weights_warning,
)
from .second_prediction import add_prompts, text_of_concept

Predictions = Sequence[torch.Tensor | None]
"""x0 [B, ...] for each cond of a call, None for conds without a prediction."""


class ConceptSteering:
    """A concept LoRA in one sampling run: the gate's measurements, the decisions, and the steered predictions."""

    def __init__(
        self,
        run: host.SamplingRun,
        adapter: LoRAAdapter,
        lora: ConceptLoRA,
        config: SteeringConfig,
        fixed_decision: PictureDecision | None,
    ):
        """`fixed_decision` holds for every picture; if it is None, the gate decides.

        Raises ValueError if the gate needs more steps than the run has.
        """
        self.run, self.adapter, self.lora, self.config = run, adapter, lora, config
        self.report = run.across_restarts.setdefault(adapter, SamplingReport())  # holds the decisions after a restart
        self._target_name = f"{TARGET_PROMPT} {id(self)}"
        self._gate = GateInRun(run, adapter, lora, config, self._target_name)
        self._seen_again = any(it.second_look is not None for it in self.report.decisions)
        name = f"changed prompts {id(self)}"
        self._changed = add_prompts(run, name, lora, config.instead, self._seen_again)
        self._has_looked = not config.second_look or bool(fixed_decision) or self._seen_again
        self._was_steered = False  # whether the second prediction was made, for a picture that is steered
        self._has_effect = False  # whether the LoRA has been seen to change a prediction
        if fixed_decision is not None:
            self.report.decisions = [fixed_decision] * run.batch_size
        self._has_checked = not config.check_picture or self.report.has_checked_picture
        if self.undecided or not self._has_looked or not self._has_checked:
            run.add_prompt(self._target_name, host.unpack_conditioning(lora.target_prompt))
        if not self._has_checked:
            self._empty_name = f"empty prompt {id(self)}"
            run.add_prompt(self._empty_name, host.unpack_conditioning(text_of_concept(lora, "check_picture").empty))
        if self.undecided:
            if config.gate_steps > run.steps:
                raise ValueError(
                    f"`gate_steps` is {config.gate_steps}, but this run has {run.steps} steps: lower it to 1."
                )
            self.report.warnings = calibration_of(lora, ALWAYS_ERASE).mismatches(run.size, run.cfg)

    @property
    def undecided(self) -> bool:
        """Whether the gate has still to decide."""
        return not self.report.decisions

    def weights_for(self, call: host.PredictionCall) -> list[float]:
        """The w of each row of a call: 1, so that nothing is steered, before the decision and outside of start, end."""
        is_outside = not self.config.start <= call.step / self.run.steps < self.config.end
        if self.undecided or is_outside or (self.config.lora_branch == COND_ONLY and call.is_negative):
            return [1.0] * len(call.rows)
        weights = [it.w for it in self.report.decisions]
        if len(weights) != len(call.rows):  # a context window: the rows are frames of one video
            weights = [max(weights, key=lambda w: abs(1 - w))] * len(call.rows)
        return weights

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do in this run: every picture is left to the base model, whatever the step."""
        return (
            self._has_checked and self._has_looked and not self.undecided
            and all(it.w == 1 for it in self.report.decisions)
        )  # fmt: skip

    def decide_by_words(self, call: host.PredictionCall) -> None:
        """Take the gate's decisions before it has measured anything, if the words of all pictures leave no doubt."""
        if self.undecided and (decisions := self._gate.decided_by_words(call)):
            self.report.decisions, self.report.warnings = decisions, []

    def measure_gate(self, call: host.PredictionCall, base: list[torch.Tensor]) -> None:
        """Let the gate score the call's prompts, and take its decisions once it has made them.

        Raises RestartRun if the run is to begin again with these decisions.
        """
        if not self._gate.measure(call, base):
            return
        self._record_step(call)
        if not self._gate.is_complete:
            return
        self.report.decisions = self._gate.decisions()
        is_steered = any(it.w != self.config.w_unrelated for it in self.report.decisions)
        if self.config.restart and self.config.gate_steps > 1 and is_steered:
            raise host.RestartRun

    def check_picture(self, call: host.PredictionCall) -> None:
        """Once, before the run's first prediction counts, check the picture that it starts from, if asked for.

        Raises ValueError if it shows the concept.
        """
        if not self._has_checked:
            self._has_checked = self.report.has_checked_picture = True
            given_picture.check(given_picture.explained_by_target(call, self._target_name, self._empty_name))

    def look_again(self, call: host.PredictionCall, base: list[torch.Tensor]) -> None:
        """Once, if asked for, take a second look at the pictures that the gate left to the base model.

        Raises RestartRun if one becomes the concept: the run begins again with the reference in place of every prompt,
        as the LoRA may be deceived like the gate. `base` is the base's x0 for each cond.
        """
        if self._has_looked or self.undecided or call.step < second_look.AT * self.run.steps:
            return
        scores = second_look.scores(call, base, self._target_name)
        if scores is None:
            return
        self._has_looked = True
        if not scores:
            self.report.warnings.append("There was no second look: this run predicts nothing for a negative prompt.")
            return
        self._record_step(call)
        decisions = second_look.revised(self.report.decisions, scores, self.config)
        if decisions != self.report.decisions:
            self.report.decisions = decisions
            raise host.RestartRun

    def can_predict_second_only(self, call: host.PredictionCall) -> bool:
        """Whether w = 0 in all rows, so that the base's predictions are not needed for the conds that are steered."""
        in_one_call = self._changed or self.config.lora_branch == COND_AND_UNCOND
        return not any(self.weights_for(call)) and bool(in_one_call or not call.has_other_packs)

    def predict_second_only(self, call: host.PredictionCall) -> list[torch.Tensor]:
        """The second x0 for each cond that is steered, the base's for the others (see `lora_branch`)."""
        self._record_steered_call(call)
        if self._changed:
            lora = call.predict(changed=self._changed)
        elif self.config.lora_branch == COND_AND_UNCOND:
            lora = call.predict(self.adapter.on)
        else:
            lora = call.predict_branches(self.adapter.on)
        if not self._has_effect:
            self._check_effect(self._predict_base_again(call, call.rows), lora, call.rows)
        return lora

    def predict_steered(
        self, call: host.PredictionCall, base: list[torch.Tensor], weights: list[float]
    ) -> list[torch.Tensor]:
        """The blend of base and LoRA (see `second_prediction`) for each cond, with one w per row.

        The second prediction is made only for rows that need it.
        """
        self._record_steered_call(call)
        rows = [row for row, w in enumerate(weights) if w != 1]
        negatives = self._steers_negatives
        within = nullcontext if self._changed else self.adapter.on
        lora = call.predict_again(self.adapter, within, rows, negatives=negatives, changed=self._changed)
        is_bypassed = not self._changed and not self.adapter.calls  # its layers were not computed
        if not self._has_effect or is_bypassed:
            comparable = call.has_same_batching(rows, negatives) or _differ(base, lora, rows, call.batching_error)
            self._check_effect(base if comparable else self._predict_base_again(call, rows), lora, rows)
        w = base[0].new_tensor(weights).view(-1, *[1] * (base[0].ndim - 1))

        def steered(base_x0: torch.Tensor, lora_x0: torch.Tensor | None) -> torch.Tensor:
            if lora_x0 is None:
                return base_x0
            blended = blend(base_x0, lora_x0, w, self.config.eta)
            return torch.where(w == 1, base_x0, blended)  # rows that the LoRA did not predict may hold any values

        return [steered(base_x0, lora_x0) for base_x0, lora_x0 in zip(base, lora, strict=True)]

    @property
    def _steers_negatives(self) -> bool:
        """Whether negative prompts are predicted a second time; they are never changed."""
        return self.config.lora_branch == COND_AND_UNCOND and not self._changed

    def describe(self) -> str:
        """How the second prediction is made, in words for reports."""
        if self._seen_again and self._changed:
            return "the base model under the reference prompt"
        words = {BLEND: self.adapter.describe(), REPLACE: "the base model under the reference prompt",
                 SWAP: "the base model under the prompt with the concept swapped for its reference"}  # fmt: skip
        return words[self.config.instead]

    def _record_steered_call(self, call: host.PredictionCall) -> None:
        self._was_steered, self.adapter.calls = True, 0
        self._record_step(call)

    def _record_step(self, call: host.PredictionCall) -> None:
        if call.step not in self.report.lora_steps:
            self.report.lora_steps.append(call.step)

    def _predict_base_again(self, call: host.PredictionCall, rows: Sequence[int]) -> list[torch.Tensor | None]:
        """The base's predictions, batched as the LoRA's are: without any effect they are equal bit for bit."""
        negatives = self._steers_negatives
        return call.predict_again((self.adapter, "base"), nullcontext, rows, negatives=negatives)

    def _check_effect(self, base: Predictions, lora: Predictions, rows: Sequence[int]) -> None:
        """Raises NoEffectError if something keeps the LoRA from acting on the predictions of these rows."""
        if _differ(base, lora, rows):
            self._has_effect = True
        elif any(b[rows].any() for b, e in zip(base, lora, strict=True) if b is not None and e is not None):
            raise self._no_effect_error()  # zeros are no evidence: the host predicts them for conds out of their time

    def _no_effect_error(self) -> NoEffectError:
        if self._changed:
            return NoEffectError(
                f"`instead` is {self.config.instead!r}, but the changed prompt is predicted as the prompt itself: "
                f"something else on this MODEL puts its own text in place of every prompt's. Remove that, or set "
                f"`instead` to {BLEND!r}."
            )
        if self.lora.is_zero:
            return NoEffectError("The concept LoRA changes nothing: its weights are zero. Train it, or use another.")
        layers = [*map(str, self.adapter.pairs), *self.adapter.changes]
        if not layers:
            return NoEffectError(
                "The concept LoRA changes nothing: the layers that it was made for have no such weights in this model. "
                "Use it with the model family that it was made for."
            )
        return NoEffectError(
            f"The concept LoRA had no effect on its layers ({', '.join(layers[:2])}, ...) in step "
            f"{self.report.lora_steps[-1] + 1}: something else on this MODEL replaces or fuses them, or answers from "
            f"what it keeps of an earlier step. Connect UnGuidance to the model before such a patch, or remove "
            f"that patch. If there is none, the LoRA is too weak, or does not touch this prompt at all."
        )

    def check_at_end(self) -> None:
        """Check, after a run, that each picture was decided and steered as it was to be, and add warnings.

        Raises RuntimeError if the gate measured nothing or the LoRA was not called, NoEffectError if it did nothing.
        """
        if self.undecided:
            raise RuntimeError(f"The gate never saw the prompt of this picture: {self._reason_not_called()}.")
        steered_weights = [it.w for it in self.report.decisions if it.w != 1]
        if steered_weights and not self._was_steered:
            raise RuntimeError(
                f"This picture should have been steered (w = {steered_weights[0]:g}), but the LoRA was never called: "
                f"{self._reason_not_called()}."
            )
        if steered_weights and not self._has_effect:
            raise self._no_effect_error()
        warnings = list(self.report.warnings)
        if self.adapter.unchanged:
            warnings.append(unchanged_weights_warning(self.adapter.unchanged, len(self.adapter.changes)))
        if self.adapter.acted and (idle := [it for it in self.adapter.pairs if it not in self.adapter.acted]):
            warnings.append(idle_layers_warning(idle, len(self.adapter.pairs)))
        self.report.warnings = warnings

    def _reason_not_called(self) -> str:
        guider = type(self.run.guider).__name__
        if not self.run.call_count:
            return (f"{guider}, or something else on this MODEL, calls the model in its own way. Use KSampler or "
                    f"UnGuidance Guider, or remove what is attached to the MODEL")  # fmt: skip
        if any(self.config.start <= step / self.run.steps < self.config.end for step in range(self.run.steps)):
            return f"{guider} never predicts for a positive prompt. Use KSampler or UnGuidance Guider"
        return f"none of the {self.run.steps} steps of this run lies between `start` and `end`. Move these apart"


def _differ(base: Predictions, lora: Predictions, rows: Sequence[int], share: float = LEAST_EFFECT) -> bool:
    """Whether the predictions of any of these rows differ by more than this share of their norm."""
    pairs = ((b, e) for b, e in zip(base, lora, strict=True) if b is not None and e is not None)
    return any(bool(rows_differ(b[rows], e[rows], share).any()) for b, e in pairs)
