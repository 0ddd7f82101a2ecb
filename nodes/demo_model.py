"""The node that loads the embedded demo model."""

from comfy_api.latest import io

from ..demo_model.loader import load_demo_model
from .checked import CheckedNode
from .inputs import CATEGORY


class UnGuideDemoModel(CheckedNode):
    """Load the tiny text-to-image model that ships with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Node schema."""
        return io.Schema(
            node_id="UnGuideDemoModel",
            display_name="UnGuide Demo Model",
            category=CATEGORY,
            description="A tiny text-to-image model that ships with the pack, to try UnGuide in seconds on any "
            "computer. It draws ten animals and vehicles and 55 other things as emoji, 64 x 64 "
            "pixels; try 'a photo of the cat'.",
            outputs=[
                io.Model.Output(tooltip="The diffusion model; use it with 64 x 64 pixels and cfg 7.5."),
                io.Clip.Output(tooltip="Its text encoder."),
                io.Vae.Output(tooltip="Its autoencoder."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Return the model's MODEL, CLIP and VAE."""
        return io.NodeOutput(*load_demo_model())
