"""The gate's calibration as a node."""

from comfy_api.latest import io, ui

from ..unguide_ops import calibrate as calibrating
from ..unguide_ops import figures, host
from ..unguide_ops.concept import Concept, EncodedConcept
from ..unguide_ops.probe import ProbeSettings
from .checked import CheckedNode
from .sockets import CATEGORY, ConceptSocket, LoRASocket, folded, seed_input, size_inputs


class UnGuideCalibrate(CheckedNode):
    """Measure what the gate needs to know of a LoRA."""

    @classmethod
    def define_schema(cls):
        """Node schema."""
        return io.Schema(
            node_id="UnGuideCalibrate",
            display_name="UnGuide Calibrate",
            category=CATEGORY,
            is_output_node=True,
            description="Measures how a concept LoRA changes prompts whose meaning is known, so that the gate can tell "
            "others apart. UnGuide Train LoRA does it at its end: this is for another base model or picture size, and "
            "for LoRAs made elsewhere. Save the result to keep it.",
            inputs=[
                io.Model.Input("model", tooltip="The base model that pictures are made with, without the LoRA."),
                LoRASocket.Input("lora", tooltip="The LoRA to calibrate."),
                io.Clip.Input("clip", tooltip="The same checkpoint's text encoder."),
                *size_inputs("the pictures to be made"),
                io.Float.Input(
                    "cfg", default=calibrating.CFG, min=0.0, max=100.0, step=0.1,
                    tooltip="Guidance of the pictures to be made.",
                ),
                seed_input("Of the noise that they are looked at with."),
                ConceptSocket.Input(
                    "concept", optional=True,
                    tooltip="What the LoRA forgets, from UnGuide Concept: needed for LoRAs made elsewhere.",
                ),
                *folded(
                    io.Int.Input(
                        "captions", default=calibrating.CAPTIONS, min=3, max=101, optional=True,
                        tooltip="Everyday captions to look at, at most: more are steadier and take longer.",
                    ),
                ),
            ],
            outputs=[
                LoRASocket.Output(display_name="lora", tooltip="The LoRA with its calibration."),
                io.Image.Output(display_name="chart", tooltip="What the LoRA does to the known prompts."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, lora, clip, concept=None, **settings) -> io.NodeOutput:
        """The calibrated LoRA and the chart of its scores."""
        if concept is None:
            if not lora.concept:
                raise ValueError(
                    "This LoRA does not say what it forgets: connect UnGuide Concept to `concept`, with its target "
                    "prompt and its synonyms."
                )
            concept = EncodedConcept(Concept.model_validate(lora.concept), {}, lambda prompt: host.encode(clip, prompt))
        calibrated, _ = calibrating.calibrate(model, lora, concept, **settings)
        chart = figures.calibration_chart(calibrated.calibration, ProbeSettings.false_positive_rate)
        return io.NodeOutput(calibrated, chart, ui=ui.PreviewImage(chart, cls=cls))
