"""The trainer as a node."""

from comfy_api.latest import io, ui

from ..unguide_ops import figures, targets
from ..unguide_ops.training import TrainingSettings, train
from .sockets import CATEGORY, ConceptSocket, LoRASocket, seed_input, size_inputs


class UnGuideTrainLoRA(io.ComfyNode):
    """Train a concept LoRA."""

    @classmethod
    def define_schema(cls):
        """Node schema."""
        return io.Schema(
            node_id="UnGuideTrainLoRA",
            display_name="UnGuide Train LoRA",
            category=CATEGORY,
            description="Trains a small LoRA under which the model, asked for the target prompt, predicts "
            "something else. The model itself is not changed. The defaults are the paper's for "
            "objects on Stable Diffusion 1.x, plus a term that keeps other prompts as they are.",
            inputs=[
                io.Model.Input("model", tooltip="The model that shall forget."),
                ConceptSocket.Input("concept", tooltip="From UnGuide Concept, encoded by the same checkpoint's CLIP."),
                io.Int.Input("iterations", default=200, min=1, max=100000, tooltip="Training iterations."),
                io.Float.Input(
                    "learning_rate", default=3e-5, min=1e-8, max=1.0, step=1e-6, round=False, tooltip="Of Adam."
                ),
                io.Int.Input(
                    "rank", default=1, min=1, max=128, tooltip="Rank of the LoRA: how many directions it may change."
                ),
                io.Float.Input(
                    "alpha",
                    default=8.0,
                    min=0.01,
                    max=1000.0,
                    step=0.01,
                    tooltip="Multiplier of the LoRA while training, as in the paper: not divided by the rank. "
                    "Files are written in the usual convention, alpha x rank.",
                ),
                io.Combo.Input(
                    "targets",
                    options=list(targets.CHOICES),
                    default=targets.CROSS_ATTENTION,
                    tooltip="Which layers the LoRA hangs on. Cross-attention keys and values for objects and "
                    "styles; all but cross-attention for nudity (the paper's choices).",
                ),
                io.Float.Input(
                    "negative_guidance",
                    default=2.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How far the LoRA is pushed beyond the reference, away from the target (g in the paper).",
                ),
                io.Float.Input(
                    "start_guidance",
                    default=9.0,
                    min=1.0,
                    max=100.0,
                    step=0.1,
                    tooltip="cfg of the unfinished pictures that the LoRA is trained on.",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=2,
                    max=1000,
                    tooltip="Steps of these pictures' schedule. Each iteration runs half of them on average: "
                    "fewer are faster.",
                ),
                *size_inputs("the pictures trained on: the model's native size"),
                seed_input("The same seed and settings give the same LoRA."),
                io.Float.Input(
                    "retain_weight",
                    default=0.5,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    optional=True,
                    tooltip="How strongly each preserved prompt is kept as the base draws it. 0 is the paper's "
                    "objective, under which the LoRA changes all prompts of the same form.",
                ),
                io.Int.Input(
                    "retain_prompts",
                    default=6,
                    min=0,
                    max=64,
                    optional=True,
                    tooltip="How many preserved prompts, picked at random, each iteration looks at.",
                ),
            ],
            outputs=[
                LoRASocket.Output(display_name="lora", tooltip="The trained concept LoRA."),
                io.Image.Output(display_name="loss_curve", tooltip="Both losses by iteration."),
            ],
        )

    @classmethod
    def execute(cls, model, concept, **settings) -> io.NodeOutput:
        """The trained LoRA and its loss curve."""
        lora, losses = train(model, concept, TrainingSettings(**settings))
        curve = figures.loss_curve(losses)
        return io.NodeOutput(lora, curve, ui=ui.PreviewImage(curve, cls=cls))
