"""The stability probe as a node."""

import json

from comfy_api.latest import io, ui

from ..unguide_ops import figures, gate
from ..unguide_ops.concept import lines
from ..unguide_ops.probe import ProbeSettings, probe
from .sockets import CATEGORY, LoRASocket, seed_input, size_inputs, w_inputs


class UnGuideStabilityProbe(io.ComfyNode):
    """Does a prompt touch the erased concept?"""

    @classmethod
    def define_schema(cls):
        """Node schema."""
        return io.Schema(
            node_id="UnGuideStabilityProbe",
            display_name="UnGuide Stability Probe",
            category=CATEGORY,
            description="Tells for each prompt whether it touches the erased concept, and the w to sample it with. "
            "The list outputs hold one entry a prompt, in order: link them to run the nodes behind once a prompt.",
            inputs=[
                io.Model.Input("model", tooltip="The base model, without the LoRA."),
                LoRASocket.Input("lora", tooltip="The concept LoRA."),
                io.Clip.Input("clip", tooltip="The same checkpoint's text encoder."),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip='Prompts to decide, one a line. "" is the neutral prompt.',
                ),
                io.Int.Input(
                    "seeds",
                    default=4,
                    min=1,
                    max=1000,
                    tooltip="Noises to average over. The paper takes 30 for objects, 10 for nudity.",
                ),
                seed_input("The first of the seeds."),
                io.Int.Input("steps", default=50, min=1, max=1000, tooltip="Steps of the full schedule."),
                io.Int.Input(
                    "probe_steps",
                    default=10,
                    min=0,
                    max=999,
                    tooltip="How many of them the base takes before predictions are compared.",
                ),
                io.Float.Input("cfg", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="Guidance of these steps."),
                *size_inputs("the pictures to be made"),
                io.Combo.Input(
                    "mode",
                    options=list(gate.MODES),
                    default=gate.GUIDANCE_COSINE,
                    optional=True,
                    tooltip="guidance cosine: does the prompt pull the base the way the target prompt does? "
                    "change cosine: does the LoRA change the prompt's prediction as it changes the "
                    "target's? Both are calibrated on prompts that the concept preserves. paper: is the "
                    "LoRA's change larger than under the empty prompt?",
                ),
                io.Float.Input(
                    "false_positive_rate",
                    default=0.001,
                    min=0.0001,
                    max=0.5,
                    step=0.0001,
                    optional=True,
                    tooltip="How often an unrelated prompt may be taken for the concept. Not used by mode paper.",
                ),
                *w_inputs(),
            ],
            outputs=[
                io.Float.Output(display_name="w", is_output_list=True, tooltip="w for each prompt."),
                io.Boolean.Output(
                    display_name="erased", is_output_list=True, tooltip="For each prompt: does it touch the concept?"
                ),
                io.String.Output(display_name="report", tooltip="Scores and decisions as JSON."),
                io.Image.Output(display_name="chart", tooltip="Scores, spread and threshold."),
                io.String.Output(display_name="prompt", is_output_list=True, tooltip="The prompts, one by one."),
            ],
        )

    @classmethod
    def execute(cls, model, lora, clip, prompts, w_erased=-1.0, w_unrelated=1.0, **settings) -> io.NodeOutput:
        """Decisions, report and chart."""
        prompts = lines(prompts)
        if not prompts:
            raise ValueError("`prompts` is empty: write the prompts to decide, one a line.")
        settings = ProbeSettings(**settings)
        if settings.probe_steps >= settings.steps:
            raise ValueError(
                f"`probe_steps` is {settings.probe_steps}, but the schedule has only {settings.steps} `steps`: "
                f"probe early, after a fifth of them or so."
            )
        found = probe(model, lora, clip, prompts, settings)
        erased = found.erased()
        weights = [w_erased if e else w_unrelated for e in erased]
        report = found.report(weights)
        chart = figures.probe_chart(report)
        return io.NodeOutput(
            weights, erased, json.dumps(report), chart, list(prompts), ui=ui.PreviewImage(chart, cls=cls)
        )
