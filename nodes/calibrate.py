"""The node that calibrates a LoRA's gate."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..unguide_ops import host, plots
from ..unguide_ops.concept import Concept, EncodedConcept
from ..unguide_ops.concept_lora import ConceptLoRA
from ..unguide_ops.gate.calibrate import CAPTIONS, CFG, calibrate
from ..unguide_ops.gate.probe import ProbeConfig
from .checked import CheckedNode
from .inputs import CATEGORY, ConceptSocket, LoRASocket, advanced, seed_input, size_inputs


class UnGuideCalibrate(CheckedNode):
    """Measure the scores of prompts whose meaning is known, and store them with the LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Node schema."""
        return io.Schema(
            node_id="UnGuideCalibrate",
            display_name="UnGuide Calibrate",
            category=CATEGORY,
            is_output_node=True,
            description="Measures how a concept LoRA changes prompts whose meaning is known, so that the gate can tell "
            "others apart. UnGuide Train LoRA does this at its end: use this node for another base model or picture "
            "size, and for LoRAs made elsewhere. Save the result to keep it.",
            inputs=[
                io.Model.Input("model", tooltip="The base model that pictures are made with, without the LoRA."),
                LoRASocket.Input("lora", tooltip="The LoRA to calibrate."),
                io.Clip.Input("clip", tooltip="The same checkpoint's text encoder."),
                *size_inputs("the pictures to be made"),
                io.Float.Input(
                    "cfg", default=CFG, min=0.0, max=100.0, step=0.1,
                    tooltip="Guidance scale of the pictures to be made.",
                ),
                seed_input("The seed of the noise that the prompts are measured with."),
                ConceptSocket.Input(
                    "concept", optional=True,
                    tooltip="What the LoRA forgets, from UnGuide Concept: needed for LoRAs made elsewhere.",
                ),
                *advanced(
                    io.Int.Input(
                        "captions", default=CAPTIONS, min=3, max=101, optional=True,
                        tooltip="How many everyday captions to measure at most: more are steadier and take longer.",
                    ),
                ),
            ],
            outputs=[
                LoRASocket.Output(display_name="lora", tooltip="The LoRA with its calibration."),
                io.Image.Output(display_name="chart", tooltip="What the LoRA does to the known prompts."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: host.Model, lora: ConceptLoRA, clip: host.Clip, concept: EncodedConcept | None = None, **settings
    ) -> io.NodeOutput:
        """Return the calibrated LoRA and the chart of its scores."""
        if concept is None:
            if not lora.concept:
                raise ValueError(
                    "This LoRA does not say what it forgets: connect UnGuide Concept to `concept`, with its target "
                    "prompt and its synonyms."
                )
            concept = EncodedConcept(Concept.model_validate(lora.concept), {}, lambda prompt: host.encode(clip, prompt))
        calibrated, _ = calibrate(model, lora, concept, **settings)
        chart = plots.calibration_chart(calibrated.calibration, ProbeConfig.false_positive_rate)
        return io.NodeOutput(calibrated, chart, ui=ui.PreviewImage(chart, cls=cls))
