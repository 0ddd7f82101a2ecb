"""The stability probe (paper section 3.2): run the base for a few steps, compare predictions, decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean, pstdev

import torch

from . import gate, host, targets
from .branch import Branch
from .calibration import Calibration
from .concept import NEUTRAL
from .fitting import branch_of
from .lora import ConceptLoRA
from .objective import classifier_free_guidance, ddim_step

TARGET = "target prompt"  # the LoRA's own encoded target prompt, in a session's prompts
Encode = Callable[[str], host.Conditioning]


@dataclass(frozen=True)
class ProbeSettings:
    """How to probe. steps, probe_steps and cfg are the published procedure's; a calibration brings its own."""

    mode: str = gate.CALIBRATED
    seeds: int = 1  # noises to average over
    seed: int = 0  # of the first
    steps: int = 50  # of the DDIM schedule
    probe_steps: int = 10  # of these the base takes before predictions are compared
    cfg: float = 7.5
    width: int = 512  # pixels
    height: int = 512
    false_positive_rate: float = 0.001  # of the calibrated mode


@dataclass
class Reading:
    """One prompt's scores, [seeds][noise levels], what they cost, and what follows from them."""

    prompt: str
    scores: list[list[float]]
    evaluations: int
    verdict: gate.Verdict

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 for a single seed."""
        return pstdev(fmean(levels) for levels in self.scores)


@dataclass
class Probe:
    """What a probe found: a reading for each prompt, in order, and where the LoRA was calibrated for other things."""

    mode: str
    readings: list[Reading]
    sigmas: list[float]  # the noise levels
    evaluations: int
    warnings: list[str]

    def report(self, weights: Iterable[float]) -> dict:
        """The probe as JSON-like data, with the w that follows for each prompt, and why in words."""
        return {
            "mode": self.mode,
            "evaluations": self.evaluations,
            "warnings": self.warnings,
            "prompts": [
                {"prompt": r.prompt, **r.verdict.report(), "spread": r.spread, "w": w,
                 "evaluations": r.evaluations, "why": self.why(r.prompt, r.verdict),
                 "course": [{"sigma": s, "score": at} for s, at in zip(self.sigmas, over_seeds(r.scores), strict=True)]}
                for r, w in zip(self.readings, weights, strict=True)
            ],
        }  # fmt: skip

    def told(self, most: int) -> list[str]:
        """The decisions in words, so many at most: those nearest to the threshold, in order, and how many others."""
        near = {id(it) for it in sorted(self.readings, key=lambda it: abs(it.verdict.beyond))[:most]}
        words = [self.why(it.prompt, it.verdict) for it in self.readings if id(it) in near]
        return [*words, *([f"and {len(self.readings) - most} more, farther from the threshold: see the report"]
                          if len(self.readings) > most else [])]  # fmt: skip

    def why(self, prompt: str, it: gate.Verdict) -> str:
        """The decision on a prompt in words."""
        name = prompt or "the empty prompt"
        if self.mode == gate.PAPER:
            return (f"{name}: {it.decided}. The LoRA changes it by {it.score:.2f} on average over the seeds, the empty "
                    f"prompt by {it.threshold:.2f}.")  # fmt: skip
        return f"{name}: {it.explained()}"


def over_seeds(scores: list[list[float]]) -> list[float]:
    """Scores [seeds][noise levels] as means over the seeds."""
    return [fmean(level) for level in zip(*scores, strict=True)]


def probe(model, lora: ConceptLoRA, encode: Encode, prompts: Iterable[str], settings: ProbeSettings) -> Probe:
    """Probe prompts, all at once in batches of what fits in memory.

    Mode "paper" compares with the empty prompt's mean score, "calibrated" with the thresholds of the LoRA's
    calibration. Raises ValueError for a LoRA that carries none, or one for another base model.
    """
    prompts = list(prompts)
    if settings.mode == gate.PAPER:
        return _probe_as_in_the_paper(model, lora, encode, prompts, settings)
    calibration = calibration_of(lora, f"set `mode` to {gate.PAPER!r}")
    calibration.check_base(host.fingerprint(model))
    sigmas = [level.sigma for level in calibration.levels]
    walk = calibration_walk(calibration.steps, len(sigmas), calibration.cfg, settings.width, settings.height)
    found = measure(model, lora, encode, prompts, settings.seeds, settings.seed, walk, response)

    def verdict(scores: list[list[float]]) -> gate.Verdict:
        course = dict(zip(sigmas, over_seeds(scores), strict=True))
        return calibration.judge(course, settings.false_positive_rate)

    readings = found.readings(prompts, verdict)
    cfg = targets.guidance(host.diffusion_model(model), settings.cfg)
    warnings = calibration.misfits((settings.width, settings.height), cfg)
    return Probe(settings.mode, readings, sigmas, found.evaluations, warnings)


def calibration_of(lora: ConceptLoRA, otherwise: str) -> Calibration:
    """The LoRA's calibration. Raises ValueError if it has none; `otherwise` says what else the user can do."""
    if lora.calibration is None or not lora.target_prompt:
        raise ValueError(
            f"This LoRA is not calibrated. Put UnGuide Calibrate between it and this node, or {otherwise}."
        )
    return lora.calibration


def _probe_as_in_the_paper(model, lora, encode: Encode, prompts: list[str], settings: ProbeSettings) -> Probe:
    cfg = targets.guidance(host.diffusion_model(model), settings.cfg)
    walk = Walk(settings.steps, (settings.probe_steps,), cfg, settings.width, settings.height)
    found = measure(model, lora, encode, [*prompts, NEUTRAL], settings.seeds, settings.seed, walk, change_norm)
    neutral = fmean(score for (score,) in found.scores[NEUTRAL])
    readings = found.readings(prompts, lambda scores: gate.Verdict(fmean(score for (score,) in scores), neutral))
    return Probe(settings.mode, readings, found.sigmas, found.evaluations, [])


def calibration_walk(steps: int, levels: int, cfg: float, width: int, height: int) -> Walk:
    """The walk of a calibration, and of the probes that use it: it looks at its first steps, pure noise among them."""
    return Walk(steps, tuple(range(levels)), cfg, width, height)


Look = Callable[["host.LiveModel", Branch, torch.Tensor, float, list[str], torch.Tensor], torch.Tensor]
"""(live model, branch, latents [B, ...], noise level, their prompts, the base's predictions) -> scores [B]."""


def change_norm(live, branch: Branch, x: torch.Tensor, sigma: float, asked: list[str], base: torch.Tensor):
    """A Look: the paper's score."""
    with branch.on():
        return gate.change_norm(base, live.row_predictions(x, x.new_full((len(x),), sigma), asked))


def response(live, branch: Branch, x: torch.Tensor, sigma: float, asked: list[str], base: torch.Tensor):
    """A Look: `gate.response`."""
    distinct, place = torch.unique(x.flatten(1), dim=0, return_inverse=True)  # equal latents share their target
    distinct = distinct.view(-1, *x.shape[1:])
    target = [TARGET] * len(distinct)
    base_target = live.row_predictions(distinct, x.new_full((len(distinct),), sigma), target)
    with branch.on():
        rows = torch.cat([x, distinct])
        lora, lora_target = live.row_predictions(rows, x.new_full((len(rows),), sigma), [*asked, *target]).split(
            [len(x), len(distinct)]
        )
    scores = gate.response(base, lora, base_target[place], lora_target[place])
    if not scores.isfinite().all():
        raise ValueError(gate.NO_NUMBER)
    return scores


@dataclass(frozen=True)
class Walk:
    """The base's own way from noise with CFG, and the steps of its DDIM schedule at which predictions are compared."""

    steps: int
    stops: tuple[int, ...]  # ascending
    cfg: float
    width: int  # pixels
    height: int

    def run(self, live, branch: Branch, noise: torch.Tensor, asked: list[str], look: Look, done: Callable[[int], None]):
        """The scores [B, stops] of pure noise [B, ...] under these prompts; `done` is told the number of each step."""
        sigmas, number, scores = self.sigmas(live), len(asked), []
        x = live.first_latents(sigmas[0], noise)
        for step in range(self.stops[-1] + 1):
            more = step < self.stops[-1]
            guided = more and self.cfg != 1
            rows, prompts = (torch.cat([x, x]), [*asked, *[NEUTRAL] * number]) if guided else (x, asked)
            e = live.row_predictions(rows, x.new_full((len(rows),), sigmas[step]), prompts)
            if step in self.stops:
                scores.append(look(live, branch, x, sigmas[step], asked, e[:number]))
            if more:
                e = classifier_free_guidance(e[number:], e[:number], self.cfg) if guided else e
                x = ddim_step(x, x - sigmas[step] * e, sigmas[step], sigmas[step + 1])
            done(step)
        return torch.stack(scores, 1)

    def sigmas(self, live) -> list[float]:
        """The schedule's noise levels."""
        return live.ddim_sigmas(self.steps)


@dataclass
class Measured:
    """Scores by prompt, [seeds][stops of the walk]; the stops' noise levels; what it cost."""

    scores: dict[str, list[list[float]]]
    sigmas: list[float]
    evaluations: int

    def readings(self, prompts: list[str], verdict: Callable[[list[list[float]]], gate.Verdict]) -> list[Reading]:
        """Each prompt's, with its part of the evaluations, rounded up."""
        each = -(-self.evaluations // len(self.scores))
        return [Reading(prompt, self.scores[prompt], each, verdict(self.scores[prompt])) for prompt in prompts]


def measure(
    model, lora: ConceptLoRA, encode: Encode, prompts: Iterable[str], seeds: int, seed: int, walk: Walk, look: Look
) -> Measured:
    """The score of each prompt under each noise, at every stop of the walk, in batches of what fits in memory."""
    branch, counter = branch_of(model, lora), host.EvaluationCounter()
    counted = counter.watch(model)
    latent = host.empty_latent(model, walk.width, walk.height)
    noises = [host.noise_like(latent, seed + i) for i in range(seeds)]
    shared = {NEUTRAL: encode(NEUTRAL)}
    if lora.target_prompt:
        shared[TARGET] = host.unpack_conditioning(lora.target_prompt)
    rows = [(prompt, i) for prompt in dict.fromkeys(prompts) for i in range(seeds)]
    size = host.rows_that_fit(model, latent)
    chunks = [rows[i : i + size] for i in range(0, len(rows), size)]
    watch, steps = host.Watch(), walk.stops[-1] + 1
    watch.begin(len(chunks) * steps)
    found: dict[str, list[list[float]]] = {}
    sigmas: list[float] = []
    for index, chunk in enumerate(chunks):
        asked = [prompt for prompt, _ in chunk]
        encoded = {**{prompt: encode(prompt) for prompt in dict.fromkeys(asked)}, **shared}

        def body(live: host.LiveModel, asked=asked, chunk=chunk, index=index) -> torch.Tensor:
            sigmas[:] = [walk.sigmas(live)[stop] for stop in walk.stops]
            noise = torch.cat([noises[i] for _, i in chunk])
            with branch.attached(live.diffusion_model):
                return walk.run(live, branch, noise, asked, look, lambda step: watch.done(index * steps + step + 1))

        scores = host.session(counted, encoded, latent.expand(len(chunk), *latent.shape[1:]), body)
        for prompt, its in zip(asked, scores.cpu().tolist(), strict=True):
            found.setdefault(prompt, []).append(its)
    return Measured(found, sigmas, counter.count)
