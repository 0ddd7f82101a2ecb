"""The nodes that sample with UnGuidance: on a MODEL for any sampler, as a KSampler, as a GUIDER."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..unguide_ops import host
from ..unguide_ops.concept_lora import ConceptLoRA
from ..unguide_ops.guidance.config import SteeringConfig
from ..unguide_ops.guidance.report import SamplingReport
from ..unguide_ops.guidance.unguidance import unguide
from ..unguide_ops.safe_text import json_without_markup
from .checked import CheckedNode
from .inputs import CATEGORY, MAX_W, SEARCH_WORDS, search_aliases, seed_input
from .sampling_inputs import (
    ALWAYS_ERASE,
    INSIDE,
    LINKED,
    OFF,
    cfg_input,
    gate_inputs,
    prompt_inputs,
    steering_inputs,
)
from .status import status_ui


def guided(
    model: host.Model,
    lora: ConceptLoRA,
    on_run_end: Callable[[SamplingReport], None],
    gate: str,
    w_erased: float,
    w_unrelated: float,
    erased: bool | None = None,
    w: float | None = None,
    **settings,
) -> host.Model:
    """The MODEL for the values of the gate's inputs; `on_run_end` is called after each of its sampling runs."""
    if gate == OFF:
        return model.clone()
    if gate != INSIDE:
        settings["w"] = resolve_w(gate, w_erased, w_unrelated, erased, w)
    return unguide(model, lora, SteeringConfig(w_erased=w_erased, w_unrelated=w_unrelated, **settings), on_run_end)


def resolve_w(
    gate: str, w_erased: float, w_unrelated: float, erased: bool | None = None, w: float | None = None
) -> float:
    """The w of all pictures, for a gate that is linked or always erases.

    Raises ValueError if a linked gate has no link, or if the linked w is not within -MAX_W to MAX_W.
    """
    if gate == ALWAYS_ERASE:
        return w_erased
    if w is not None:
        if not -MAX_W <= w <= MAX_W:
            raise ValueError(f"`w` is {w:g}: link a number from -{MAX_W} to {MAX_W}; -1 steers away, 1 is the base.")
        return w
    if erased is None:
        raise ValueError(
            f"`gate` is {LINKED!r}, but neither `w` nor `erased` is: link one from UnGuide Stability Probe, "
            f"or set `gate` to {INSIDE!r}."
        )
    return w_erased if erased else w_unrelated


def unused_link_warnings(gate: str, erased: bool | None = None, w: float | None = None, **settings) -> list[str]:
    """A warning for each linked decision that the gate does not use."""
    linked = [name for name, value in (("w", w), ("erased", erased)) if value is not None and gate != LINKED]
    return [f"`{name}` is linked and does not count: set `gate` to {LINKED!r}, or remove the link." for name in linked]


def guided_with_status(model: host.Model, lora: ConceptLoRA, **gate) -> host.Model:
    """The guided MODEL for nodes that do not sample: a report on each of its runs is shown on the present node."""
    write, warnings = host.lasting_status_writer(), unused_link_warnings(**gate)
    if warnings:
        write("\n".join(warnings))
    return guided(model, lora, lambda report: write("\n".join([*warnings, *status_lines(report)])), **gate)


def status_lines(report: SamplingReport) -> list[str]:
    """The text on a node about a sampling run: warnings, decisions, and the number of model calls."""
    decisions = dict.fromkeys(it.describe() for it in report.decisions)
    ratio = report.evaluations / max(1, report.plain_evaluations)
    steps = len(report.lora_steps)
    lora_calls = f"the LoRA was called in {steps} steps" if steps else "the LoRA was not called"
    cost = f"{report.evaluations} model calls, {ratio:.2f} x plain sampling; {lora_calls}"
    return [*report.warnings, *decisions, cost]


class UnGuidance(CheckedNode):
    """Attach UnGuidance to a MODEL for any sampler node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Node schema."""
        return io.Schema(
            node_id="UnGuidance",
            display_name="UnGuidance",
            category=CATEGORY,
            **search_aliases(*SEARCH_WORDS),
            description="Gives a MODEL that forgets the concept wherever it is sampled: each prediction is "
            "w x base + (1 - w) x LoRA.",
            inputs=[
                *gate_inputs(),
                *steering_inputs(),
            ],
            outputs=[io.Model.Output(tooltip="For any sampler node.")],
        )

    @classmethod
    def execute(cls, model: host.Model, lora: ConceptLoRA, **gate) -> io.NodeOutput:
        """Return the guided MODEL."""
        return io.NodeOutput(guided_with_status(model, lora, **gate))


class UnGuidanceGuider(CheckedNode):
    """Make a GUIDER with UnGuidance for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Node schema."""
        return io.Schema(
            node_id="UnGuidanceGuider",
            display_name="UnGuidance Guider",
            category=CATEGORY,
            description="A GUIDER for SamplerCustomAdvanced that forgets the concept: CFGGuider with UnGuidance in it.",
            inputs=[
                *gate_inputs(),
                *prompt_inputs(),
                cfg_input(),
                *steering_inputs(),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls,
        model: host.Model,
        lora: ConceptLoRA,
        positive: host.Conditioning,
        negative: host.Conditioning,
        cfg: float,
        **gate,
    ) -> io.NodeOutput:
        """Return the guider."""
        return io.NodeOutput(host.cfg_guider(guided_with_status(model, lora, **gate), positive, negative, cfg))


class UnGuidanceKSampler(CheckedNode):
    """Sample as KSampler does, with UnGuidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Node schema."""
        return io.Schema(
            node_id="UnGuidanceKSampler",
            display_name="UnGuidance KSampler",
            category=CATEGORY,
            **search_aliases(*SEARCH_WORDS),
            is_output_node=True,  # or its status text would be missing for a result from the cache
            description="KSampler on a model that forgets the concept, with a report of w and of what it cost.",
            inputs=[
                *gate_inputs(),
                seed_input("The random seed used for creating the noise."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="The number of denoising steps."),
                cfg_input(),
                io.Combo.Input("sampler_name", options=host.SAMPLERS, tooltip="The algorithm used when sampling."),
                io.Combo.Input(
                    "scheduler", options=host.SCHEDULERS, tooltip="How the noise is removed over the steps."
                ),
                *prompt_inputs(),
                io.Latent.Input("latent_image", tooltip="The latent to denoise."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much is denoised; lower values keep more of the latent image.",
                ),
                *steering_inputs(),
            ],
            outputs=[
                io.Latent.Output(tooltip="The denoised latent."),
                io.String.Output(
                    display_name="report", tooltip="Each picture's decision and w, and what it cost, as JSON."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: host.Model,
        lora: ConceptLoRA,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: host.Conditioning,
        negative: host.Conditioning,
        latent_image: host.Latent,
        denoise: float,
        **gate,
    ) -> io.NodeOutput:
        """Return the latent and the report."""
        reports: list[SamplingReport] = []
        model = guided(model, lora, reports.append, **gate)
        counter = host.EvaluationCounter()
        latent = host.ksample(
            counter.count_on(model),
            seed,
            steps,
            cfg,
            sampler_name,
            scheduler,
            positive,
            negative,
            latent_image,
            denoise,
        )
        run: dict[str, Any] = reports[0].report() if reports else {}  # no report if the gate is off, or without steps
        warnings = unused_link_warnings(**gate)
        report = json_without_markup(
            {
                "gate": gate["gate"],
                "evaluations": counter.count,
                **run,
                "warnings": [*warnings, *run.get("warnings", ())],
            }
        )
        status = status_ui([*warnings, *(line for it in reports for line in status_lines(it))])["text"]
        return io.NodeOutput(latent, report, ui={"text": [report], "words": status})
