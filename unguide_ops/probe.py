"""The stability probe (paper section 3.2): run the base for a few steps, compare predictions, decide."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from . import gate, host
from .concept import NEUTRAL, Concept, default_preserve
from .lora import ConceptLoRA
from .objective import classifier_free_guidance, ddim_step
from .unguidance import branch_of

TARGET = "target prompt"  # the LoRA's own encoded target prompt, in a session's prompts
ROWS = "prompts"  # the probed prompts, one a batch row
CONTROLS = 48


@dataclass(frozen=True)
class ProbeSettings:
    """How to probe; steps, probe_steps, cfg and mode "paper" are the published procedure."""

    mode: str = gate.GUIDANCE_COSINE
    seeds: int = 4  # noises to average over
    seed: int = 0  # of the first
    steps: int = 50  # of the DDIM schedule
    probe_steps: int = 10  # of these the base takes before predictions are compared
    cfg: float = 7.5
    width: int = 512  # pixels
    height: int = 512
    false_positive_rate: float = 0.001  # of the calibrated modes


@dataclass
class Reading:
    """One prompt's scores, [seeds]."""

    prompt: str
    scores: torch.Tensor

    @property
    def score(self) -> float:
        """Mean over the seeds."""
        return self.scores.mean().item()

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 for a single seed."""
        return self.scores.std(unbiased=False).item()


@dataclass
class Probe:
    """What a probe found: a reading for each prompt and each control prompt, and the threshold between."""

    mode: str
    threshold: float
    readings: list[Reading]
    controls: list[Reading]
    evaluations: int

    def erased(self) -> list[bool]:
        """For each prompt: does it touch the erased concept?"""
        return [reading.score > self.threshold for reading in self.readings]

    def report(self, weights: Iterable[float]) -> dict:
        """The probe as JSON-like data, with the w that follows for each prompt."""
        return {
            "mode": self.mode,
            "threshold": self.threshold,
            "evaluations": self.evaluations,
            "prompts": [
                {"prompt": r.prompt, "score": r.score, "spread": r.spread, "erased": erased, "w": w}
                for r, erased, w in zip(self.readings, self.erased(), weights, strict=True)
            ],
            "controls": [{"prompt": r.prompt, "score": r.score, "spread": r.spread} for r in self.controls],
        }


def probe(model, lora: ConceptLoRA, clip, prompts: Iterable[str], settings: ProbeSettings) -> Probe:
    """Probe prompts, all at once in batches of what fits in memory.

    Mode "paper" compares with the neutral prompt's mean score; the cosine modes with control prompts that the
    concept preserves. Raises ValueError for a LoRA that does not carry what the mode needs.
    """
    prompts = list(prompts)
    controls = [NEUTRAL] if settings.mode == gate.PAPER else control_prompts(lora)
    if settings.mode != gate.PAPER and not lora.target_prompt:
        raise ValueError(
            f"`mode` is {settings.mode!r}, but this LoRA does not carry its target prompt: "
            f"it was not trained by UnGuide. Set `mode` to {gate.PAPER!r}."
        )
    counter = host.EvaluationCounter()
    every_seed = range(settings.seeds)
    rows = [(prompt, seed) for prompt in dict.fromkeys(prompts) for seed in every_seed]
    if settings.mode == gate.PAPER:
        rows += [(NEUTRAL, seed) for seed in every_seed]
    else:  # what tells controls apart is the prompt, so that one noise each will do
        rows += [(prompt, index % settings.seeds) for index, prompt in enumerate(controls)]
    rows = list(dict.fromkeys(rows))
    found = dict(zip(rows, measure(counter.watch(model), lora, clip, rows, settings).tolist(), strict=True))

    def reading(prompt: str) -> Reading:
        return Reading(prompt, torch.tensor([found[prompt, seed] for seed in every_seed if (prompt, seed) in found]))

    control_readings = [reading(prompt) for prompt in controls]
    control_scores = torch.tensor([control.score for control in control_readings])
    if settings.mode == gate.PAPER:
        threshold = control_scores.item()
    else:
        threshold = gate.calibrated_threshold(control_scores, settings.false_positive_rate)
    return Probe(
        settings.mode,
        threshold,
        [reading(prompt) for prompt in prompts],
        control_readings,
        counter.count,
    )


def control_prompts(lora: ConceptLoRA) -> list[str]:
    """The neutral prompt, and prompts that the LoRA's concept preserves: evenly picked where there are many."""
    kept = Concept.model_validate(lora.concept).kept if lora.concept else default_preserve()
    return [NEUTRAL, *kept[:: -(-len(kept) // CONTROLS) or 1]]


def measure(model, lora: ConceptLoRA, clip, rows: list[tuple[str, int]], settings: ProbeSettings) -> torch.Tensor:
    """The score of each (prompt, seed) of `rows`, on the CPU. Seed 0 stands for `settings.seed`, 1 for the next."""
    branch = branch_of(model, lora)
    latent = host.empty_latent(model, settings.width, settings.height)
    noise = torch.cat([host.noise_like(latent, settings.seed + i) for i in range(settings.seeds)])
    encoded = {prompt: host.encode(clip, prompt) for prompt, _ in rows}
    shared = {NEUTRAL: host.encode(clip, NEUTRAL)}
    if lora.target_prompt:
        shared[TARGET] = host.unpack_conditioning(lora.target_prompt)
    size = host.rows_that_fit(model, latent)
    chunks = [rows[i : i + size] for i in range(0, len(rows), size)]
    scores = []
    watch = host.Watch()
    watch.begin(len(chunks) * settings.probe_steps)
    for index, chunk in enumerate(chunks):

        def body(live: host.LiveModel, chunk=chunk, index=index) -> torch.Tensor:
            x = noise[[seed for _, seed in chunk]]
            with branch.attached(live.diffusion_model):
                return _scores(live, branch, x, settings, lambda i: watch.done(index * settings.probe_steps + i))

        stacked = host.stack([encoded[prompt] for prompt, _ in chunk])
        batch = latent.expand(len(chunk), *latent.shape[1:])
        scores.append(host.session(model, {**shared, ROWS: stacked}, batch, body).cpu())
    return torch.cat(scores)


def _scores(live, branch, noise: torch.Tensor, settings: ProbeSettings, done) -> torch.Tensor:
    """The scores of one batch, [B]: the base's DDIM steps, then one comparison."""
    sigmas = live.ddim_sigmas(settings.steps)
    x = live.first_latents(sigmas[0], noise)
    for step in range(settings.probe_steps):
        cond, uncond = live.denoised(x, sigmas[step], ROWS, NEUTRAL)
        x = ddim_step(x, classifier_free_guidance(uncond, cond, settings.cfg), sigmas[step], sigmas[step + 1])
        done(step + 1)
    sigma = sigmas[settings.probe_steps]
    if settings.mode == gate.GUIDANCE_COSINE:
        return gate.guidance_cosine(*live.predictions(x, sigma, ROWS, TARGET, NEUTRAL))
    compared = (ROWS,) if settings.mode == gate.PAPER else (ROWS, TARGET)
    base = live.predictions(x, sigma, *compared)
    with branch.on():
        lora = live.predictions(x, sigma, *compared)
    if settings.mode == gate.PAPER:
        return gate.change_norm(base[0], lora[0])
    return gate.change_cosine(base[0], lora[0], base[1], lora[1])
