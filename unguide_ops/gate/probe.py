"""The stability probe (paper section 3.2): score prompts before sampling, and decide which touch the concept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from .. import host
from ..concept import EMPTY_PROMPT
from ..concept_lora import ConceptLoRA
from ..host.types import Model
from ..lora import target_layers
from .calibration import Calibration
from .decision import CALIBRATED, PAPER, GateDecision
from .probe_trajectory import (
    Encode,
    ProbeTrajectory,
    PromptScore,
    calibration_trajectory,
    measure_scores,
    score_by_change_norm,
    score_by_response,
)
from .scores import fused


@dataclass(frozen=True)
class ProbeConfig:
    """How to probe. steps and probe_steps are for the paper's mode alone; a calibration brings its own, and its cfg."""

    mode: str = CALIBRATED
    seeds: int = 1  # noises to average over
    seed: int = 0  # of the first noise
    steps: int = 50  # of the DDIM schedule
    probe_steps: int = 10  # of these the base model takes before predictions are compared
    cfg: float = 7.5
    width: int = 512  # pixels
    height: int = 512
    false_positive_rate: float = 0.001  # of the calibrated mode


@dataclass
class ProbeResult:
    """What a probe measured and decided for each prompt, in order."""

    mode: str
    prompt_scores: list[PromptScore]
    sigmas: list[float]  # the noise levels of the scores
    evaluations: int  # model calls
    warnings: list[str]  # if the LoRA was calibrated for another size or cfg

    def report(self, weights: Iterable[float]) -> dict:
        """The probe as JSON data, with the w that follows for each prompt, and the decision in words."""
        return {
            "mode": self.mode,
            "evaluations": self.evaluations,
            "warnings": self.warnings,
            "prompts": [
                {"prompt": it.prompt, **it.decision.report(), "spread": it.spread, "w": w,
                 "evaluations": it.evaluations, "why": self.describe(it.prompt, it.decision),
                 "course": [{"sigma": sigma, "score": fused(score, it.decision.votes[1])}
                            for sigma, score in zip(self.sigmas, mean_over_seeds(it.scores), strict=True)]}
                for it, w in zip(self.prompt_scores, weights, strict=True)
            ],
        }  # fmt: skip

    def status_lines(self, limit: int) -> list[str]:
        """At most `limit` decisions in words, those nearest to the threshold, in order; then how many are left out."""
        nearest = sorted(self.prompt_scores, key=lambda it: abs(it.decision.margin))[:limit]
        chosen = {id(it) for it in nearest}
        lines = [self.describe(it.prompt, it.decision) for it in self.prompt_scores if id(it) in chosen]
        if len(self.prompt_scores) > limit:
            lines.append(f"and {len(self.prompt_scores) - limit} more, farther from the threshold: see the report")
        return lines

    def describe(self, prompt: str, decision: GateDecision) -> str:
        """The decision on a prompt and its reason, as sentences."""
        name = prompt or "the empty prompt"
        if self.mode == PAPER:
            return (f"{name}: {decision.outcome}. The LoRA changes it by {decision.score:.2f} on average over the "
                    f"seeds, the empty prompt by {decision.threshold:.2f}.")  # fmt: skip
        return f"{name}: {decision.describe()}"


def mean_over_seeds(scores: list[list[float]]) -> list[float]:
    """Scores [seeds][noise levels] as means over the seeds, [noise levels]."""
    return [fmean(level) for level in zip(*scores, strict=True)]


def probe(model: Model, lora: ConceptLoRA, encode: Encode, prompts: Iterable[str], config: ProbeConfig) -> ProbeResult:
    """Probe prompts, all at once in batches of as many as fit in memory.

    Mode "paper" compares with the empty prompt's mean score, "calibrated" with the thresholds of the LoRA's
    calibration. Raises ValueError for a LoRA that has no calibration, or one for another base model.
    """
    prompts = list(prompts)
    if config.mode == PAPER:
        return _paper_probe(model, lora, encode, prompts, config)
    calibration = calibration_of(lora, f"set `mode` to {PAPER!r}")
    calibration.check_base(host.fingerprint(model))
    sigmas = [level.sigma for level in calibration.levels]
    trajectory = calibration_trajectory(calibration.steps, len(sigmas), calibration.cfg, config.width, config.height)
    words: dict[str, float | None] = {}
    listening = lora.text.listening(encode, words) if lora.text else encode
    table = measure_scores(model, lora, listening, prompts, config.seeds, config.seed, trajectory, score_by_response)

    def decide(prompt: str, scores: list[list[float]]) -> GateDecision:
        by_sigma = dict(zip(sigmas, mean_over_seeds(scores), strict=True))
        return calibration.decide(by_sigma, config.false_positive_rate, words.get(prompt))

    prompt_scores = table.prompt_scores(prompts, decide)
    cfg = target_layers.effective_cfg(host.diffusion_model(model), config.cfg)
    warnings = calibration.mismatches((config.width, config.height), cfg)
    return ProbeResult(config.mode, prompt_scores, sigmas, table.evaluations, warnings)


def calibration_of(lora: ConceptLoRA, alternative: str) -> Calibration:
    """The LoRA's calibration. Raises ValueError if it has none; `alternative` says what else the user can do."""
    if lora.calibration is None or not lora.target_prompt:
        raise ValueError(
            f"This LoRA is not calibrated. Put UnGuide Calibrate between it and this node, or {alternative}."
        )
    return lora.calibration


def _paper_probe(
    model: Model, lora: ConceptLoRA, encode: Encode, prompts: list[str], config: ProbeConfig
) -> ProbeResult:
    cfg = target_layers.effective_cfg(host.diffusion_model(model), config.cfg)
    trajectory = ProbeTrajectory(config.steps, (config.probe_steps,), cfg, config.width, config.height)
    table = measure_scores(
        model, lora, encode, [*prompts, EMPTY_PROMPT], config.seeds, config.seed, trajectory, score_by_change_norm
    )
    threshold = fmean(score for (score,) in table.scores[EMPTY_PROMPT])
    prompt_scores = table.prompt_scores(
        prompts, lambda _, scores: GateDecision(fmean(score for (score,) in scores), threshold)
    )
    return ProbeResult(config.mode, prompt_scores, table.sigmas, table.evaluations, [])
