"""The node of the stability probe (paper section 3.2)."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..unguide_ops import host, plots
from ..unguide_ops.concept import prompts_in
from ..unguide_ops.concept_lora import ConceptLoRA
from ..unguide_ops.gate import decision
from ..unguide_ops.gate.probe import ProbeConfig, probe
from ..unguide_ops.safe_text import json_without_markup
from .checked import CheckedNode
from .inputs import CATEGORY, LoRASocket, advanced, false_positive_rate_input, seed_input, size_inputs, w_inputs
from .status import status_ui

MAX_DECISIONS = 100  # shown on the node; the report holds all


class UnGuideStabilityProbe(CheckedNode):
    """Decide for each prompt whether it touches the erased concept."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Node schema."""
        return io.Schema(
            node_id="UnGuideStabilityProbe",
            display_name="UnGuide Stability Probe",
            category=CATEGORY,
            is_output_node=True,
            description="Decides for each prompt whether it touches the erased concept, and which w to sample it with. "
            "The list outputs have one entry per prompt, in order: link them to run downstream nodes once per prompt.",
            inputs=[
                io.Model.Input("model", tooltip="The base model, without the LoRA."),
                LoRASocket.Input(
                    "lora", tooltip="The concept LoRA, calibrated (as trained here) unless the mode is paper."
                ),
                io.Clip.Input("clip", tooltip="The same checkpoint's text encoder."),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip='Prompts to decide, one per line. "" is the empty prompt.',
                ),
                seed_input("The first of the seeds."),
                io.Float.Input(
                    "cfg", default=7.5, min=0.0, max=100.0, step=0.1,
                    tooltip="Guidance scale of the pictures to be made.",
                ),
                *size_inputs("the pictures to be made"),
                false_positive_rate_input("Mode calibrated only"),
                *advanced(
                    *w_inputs(),
                    io.Int.Input(
                        "seeds", default=1, min=1, max=1000,
                        tooltip="How many noises to average over. One is enough if calibrated; the paper takes 30 for "
                        "objects, 10 for nudity.",
                    ),
                    io.Combo.Input(
                        "mode", options=list(decision.MODES), default=decision.CALIBRATED,
                        tooltip="calibrated: does the LoRA change the prompt's prediction as it changes the target's, "
                        "more than it does everyday prompts'? paper: is its change larger than under the empty prompt?",
                    ),
                    io.Int.Input(
                        "steps", default=50, min=1, max=1000, tooltip="Mode paper only: steps of the full schedule."
                    ),
                    io.Int.Input(
                        "probe_steps", default=10, min=0, max=999,
                        tooltip="Mode paper only: how many of these steps the base takes before predictions are "
                        "compared.",
                    ),
                ),
            ],
            outputs=[
                io.Float.Output(display_name="w", is_output_list=True, tooltip="w for each prompt."),
                io.Boolean.Output(
                    display_name="erased", is_output_list=True, tooltip="For each prompt: does it touch the concept?"
                ),
                io.String.Output(display_name="report", tooltip="Scores, decisions and why, as JSON."),
                io.Image.Output(
                    display_name="chart", tooltip="What the LoRA does to known prompts and to these, and the threshold."
                ),
                io.String.Output(display_name="prompt", is_output_list=True, tooltip="The prompts, one by one."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model: host.Model,
        lora: ConceptLoRA,
        clip: host.Clip,
        prompts: str,
        w_erased: float = 0.0,
        w_unrelated: float = 1.0,
        **settings,
    ) -> io.NodeOutput:
        """Return a w and a decision for each prompt, report, chart, and the prompts."""
        lines = prompts_in(prompts, "prompts")
        if not lines:
            raise ValueError("`prompts` is empty: write the prompts to decide, one a line.")
        config = ProbeConfig(**settings)
        if config.mode == decision.PAPER and config.probe_steps >= config.steps:
            raise ValueError(
                f"`probe_steps` is {config.probe_steps}, but the schedule has only {config.steps} `steps`: "
                f"probe early, after a fifth of them or so."
            )
        result = probe(model, lora, lambda prompt: host.encode(clip, prompt), lines, config)
        erased = [score.decision.erased for score in result.prompt_scores]
        weights = [w_erased if is_erased else w_unrelated for is_erased in erased]
        report = result.report(weights)
        chart = plots.probe_chart(report, lora.calibration if config.mode == decision.CALIBRATED else None)
        preview = ui.PreviewImage(chart, cls=cls)
        status = status_ui([*result.warnings, *result.status_lines(MAX_DECISIONS)], preview)
        return io.NodeOutput(weights, erased, json_without_markup(report), chart, list(lines), ui=status)
