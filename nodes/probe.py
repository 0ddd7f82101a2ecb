"""The stability probe as a node."""

from comfy_api.latest import io, ui

from ..unguide_ops import figures, gate, host
from ..unguide_ops.concept import prompts_in
from ..unguide_ops.page import as_json
from ..unguide_ops.probe import ProbeSettings, probe
from .checked import CheckedNode
from .sockets import CATEGORY, LoRASocket, folded, rate_input, seed_input, size_inputs, w_inputs
from .words import said

TOLD = 100  # decisions on the node


class UnGuideStabilityProbe(CheckedNode):
    """Does a prompt touch the erased concept?"""

    @classmethod
    def define_schema(cls):
        """Node schema."""
        return io.Schema(
            node_id="UnGuideStabilityProbe",
            display_name="UnGuide Stability Probe",
            category=CATEGORY,
            is_output_node=True,
            description="Tells for each prompt whether it touches the erased concept, and the w to sample it with. "
            "The list outputs hold one entry a prompt, in order: link them to run the nodes behind once a prompt.",
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
                    tooltip='Prompts to decide, one a line. "" is the neutral prompt.',
                ),
                seed_input("The first of the seeds."),
                io.Float.Input(
                    "cfg", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="Guidance of the pictures to be made."
                ),
                *size_inputs("the pictures to be made"),
                rate_input("Mode calibrated only"),
                *folded(
                    *w_inputs(),
                    io.Int.Input(
                        "seeds", default=1, min=1, max=1000,
                        tooltip="Noises to average over. One will do when calibrated; the paper takes 30 for objects, "
                        "10 for nudity.",
                    ),
                    io.Combo.Input(
                        "mode", options=list(gate.MODES), default=gate.CALIBRATED,
                        tooltip="calibrated: does the LoRA change the prompt's prediction as it changes the target's, "
                        "more than it does everyday prompts'? paper: is its change larger than under the empty prompt?",
                    ),
                    io.Int.Input(
                        "steps", default=50, min=1, max=1000, tooltip="Mode paper only: steps of the full schedule."
                    ),
                    io.Int.Input(
                        "probe_steps", default=10, min=0, max=999,
                        tooltip="Mode paper only: how many of them the base takes before predictions are compared.",
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
    def execute(cls, model, lora, clip, prompts, w_erased=-1.0, w_unrelated=1.0, **settings) -> io.NodeOutput:
        """Decisions, report and chart."""
        prompts = prompts_in(prompts, "prompts")
        if not prompts:
            raise ValueError("`prompts` is empty: write the prompts to decide, one a line.")
        settings = ProbeSettings(**settings)
        if settings.mode == gate.PAPER and settings.probe_steps >= settings.steps:
            raise ValueError(
                f"`probe_steps` is {settings.probe_steps}, but the schedule has only {settings.steps} `steps`: "
                f"probe early, after a fifth of them or so."
            )
        found = probe(model, lora, lambda prompt: host.encode(clip, prompt), prompts, settings)
        erased = [reading.verdict.erased for reading in found.readings]
        weights = [w_erased if it else w_unrelated for it in erased]
        report = found.report(weights)
        chart = figures.probe_chart(report, lora.calibration if settings.mode == gate.CALIBRATED else None)
        shown = said([*found.warnings, *found.told(TOLD)], ui.PreviewImage(chart, cls=cls))
        return io.NodeOutput(weights, erased, as_json(report), chart, list(prompts), ui=shown)
