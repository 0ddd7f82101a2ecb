"""The gate inside sampling (paper section 3.2): it measures in the run's first steps, and decides on each picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import fmean

import torch

from .. import host
from ..concept_lora import ConceptLoRA
from ..concept_text import TOKENS
from ..gate.probe import calibration_of
from ..gate.scores import response
from ..lora.adapter import LoRAAdapter
from ..lora.effect import rows_differ
from .blend import soft_w
from .config import SteeringConfig
from .report import PictureDecision, decide_in_doubt

HALF_PRECISION_ERROR = 1e-2
"""How much equal encoded prompts differ, as a share of their norm, if one of them was kept in half precision."""

ALWAYS_ERASE = "set `gate` to 'always erase'"
"""What users can do if the gate cannot decide."""


class GateInRun:
    """The votes on a run's pictures, and the decisions that follow from them."""

    def __init__(
        self, run: host.SamplingRun, adapter: LoRAAdapter, lora: ConceptLoRA, config: SteeringConfig, target: str
    ):
        """`target`: the name of the LoRA's target prompt in the run."""
        self.run, self.adapter, self.lora, self.config = run, adapter, lora, config
        self._target_name = target
        self._scores: dict[float, list[float]] = {}  # noise level -> a vote of the prediction per picture
        self._words: list[float] | None = None  # a vote of the words per picture, None if they cannot be read
        self._pictures_by_prompt: list[list[int]] = []  # the indices of pictures that share all their prompts
        self._doubt = ""  # why the scores mean nothing in this run, if they do not

    def decided_by_words(self, call: host.PredictionCall) -> list[PictureDecision]:
        """The decisions on pictures if all their words are far from the concept, without a model call; else none.

        None either if the words may not be all that the model is told, and if the config wants the model asked.
        """
        calibration = self.lora.calibration
        if not self._words_first or calibration is None:
            return []
        words = self._votes_of_words(call, call.prompts())
        decisions = [calibration.words_alone(vote) for vote in words or ()]
        found = [PictureDecision(self.config.w_unrelated, it) for it in decisions if it is not None]
        return found if len(found) == len(decisions) else []

    def measure(self, call: host.PredictionCall, base: list[torch.Tensor]) -> bool:
        """Score the call's prompts, once at each noise level; whether that was done now.

        `base` is the base's x0 for each cond. If several prompts make a picture, the highest of their scores counts.
        The words vote at each level anew, as another prompt may have its time there.
        """
        prompts = call.prompts()
        if not prompts or call.sigma in self._scores:
            return False
        targets: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # predictions of base and LoRA, by cond
        scores = []
        for prompt in prompts:
            # other packs may count conds: predict for the target in the place of the same cond
            index = prompt.cond_index if call.has_other_packs else prompts[0].cond_index
            if index not in targets:
                targets[index] = (
                    call.predict_instead(index, self._target_name),
                    call.predict_instead(index, self._target_name, self.adapter.on),
                )
            if prompt.is_whole_cond:
                base_x0 = base[prompt.cond_index]
            else:
                base_x0 = call.predict_instead(prompt.cond_index, prompt.cond)
            lora_x0 = call.predict_instead(prompt.cond_index, prompt.cond, self.adapter.on)
            self._doubt = self._doubt or self._replaced_text_doubt(prompt, base_x0, targets[index][0])
            scores.append(response(base_x0, lora_x0, *targets[index]))
        self._words = self._votes_of_words(call, prompts)
        if any(prompt.has_hooked_parts for prompt in prompts):
            self._pictures_by_prompt = [[row] for row in call.rows]
        else:
            texts = [text for text in (prompt.text(len(call.x)) for prompt in prompts) if text is not None]
            self._pictures_by_prompt = pictures_by_prompt(texts, len(call.x))
        self._scores[call.sigma] = torch.stack(scores).amax(0).tolist()
        return True

    @property
    def is_complete(self) -> bool:
        """Whether it has measured at `gate_steps` noise levels, so that it can decide."""
        return len(self._scores) == self.config.gate_steps

    @property
    def _words_first(self) -> bool:
        """Whether words may decide alone; with a soft gate w follows from a score, which only the model gives."""
        return self.config.words_first and not self.config.softness

    def _votes_of_words(self, call: host.PredictionCall, prompts: Sequence[host.Prompt]) -> list[float] | None:
        """How plainly the words of each picture's prompts name the concept.

        None if one cannot be read, or if the model may be told more than words.
        """
        if self.lora.text is None or not prompts or call.tells_more_than_words:
            return None
        responses = [self.lora.text.response(prompt.cond[0].get(TOKENS)) for prompt in prompts]
        if any(it is None for it in responses):
            return None
        of_pictures = [host.repeated(it, len(call.x)).cpu() for it in responses if it is not None]
        return torch.stack(of_pictures).amax(0).tolist()

    def _replaced_text_doubt(self, prompt: host.Prompt, base: torch.Tensor, base_target: torch.Tensor) -> str:
        """Why the scores mean nothing: the base predicts the same for two different texts. "" if it does not."""
        text, target_text = prompt.text(len(base)), host.text_of(self.run.guider.conds[self._target_name], len(base))
        if text is None or target_text is None:
            return ""
        other_text = rows_differ(text, target_text, HALF_PRECISION_ERROR).to(base.device)
        if not (other_text & ~rows_differ(base, base_target)).any():
            return ""
        return (
            f"The gate cannot decide: something else on this MODEL puts its own text in place of every prompt's, "
            f"including the LoRA's target prompt (as regional prompts attached to the MODEL do), so no prompt can be "
            f"compared with the target. Give the prompts as conditioning, with areas or masks, or {ALWAYS_ERASE}."
        )

    def decisions(self) -> list[PictureDecision]:
        """The decision on each picture. Those that share a prompt share the decision, made on the mean of their scores.

        Pictures with a score that is NaN or infinite are decided separately.
        """
        decisions: dict[int, PictureDecision] = {}
        for pictures in self._pictures_by_prompt:
            finite = [i for i in pictures if all(isfinite(scores[i]) for scores in self._scores.values())]
            for group in (finite, *([i] for i in pictures if i not in finite)):
                if group:
                    means = {sigma: fmean(scores[i] for i in group) for sigma, scores in self._scores.items()}
                    words = None if self._words is None else fmean(self._words[i] for i in group)
                    decisions |= dict.fromkeys(group, self._decision_on(means, words))
        return [decisions[i] for i in sorted(decisions)]

    def _decision_on(self, scores: Mapping[float, float], words: float | None) -> PictureDecision:
        """The decision on votes of the prediction by noise level, and one of the words."""
        try:
            if self._doubt:
                raise ValueError(self._doubt)
            calibration = calibration_of(self.lora, ALWAYS_ERASE)
            decision = calibration.decide(scores, self.config.false_positive_rate, words, self._words_first)
        except ValueError as error:
            return decide_in_doubt(self.config, str(error))
        w = soft_w(decision.margin, self.config.softness, self.config.w_erased, self.config.w_unrelated)
        return PictureDecision(w, decision)


def pictures_by_prompt(texts: Sequence[torch.Tensor], pictures: int) -> list[list[int]]:
    """The indices of so many pictures, grouped by equal rows in all texts [pictures, ...]."""
    groups: dict[tuple, list[int]] = {}
    text_ids = [torch.unique(text.flatten(1), dim=0, return_inverse=True)[1].tolist() for text in texts]
    for picture in range(pictures):
        groups.setdefault(tuple(ids[picture] for ids in text_ids), []).append(picture)
    return list(groups.values())
