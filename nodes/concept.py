"""The concept to forget as a node."""

from comfy_api.latest import io

from ..unguide_ops import host
from ..unguide_ops.concept import EncodedConcept, concept_from, presets
from .checked import CheckedNode, Files
from .sockets import CATEGORY, FORGET, ConceptSocket, aliases

CUSTOM = "custom"


def preset_or_file(chosen: str):
    """What `concept_from` takes for the combo's entry."""
    if chosen.lower().endswith(".json"):
        return host.input_path(chosen)
    return None if chosen == CUSTOM else chosen


class UnGuideConcept(CheckedNode):
    """The prompts around a concept, encoded."""

    @classmethod
    def define_schema(cls):
        """Node schema."""
        return io.Schema(
            node_id="UnGuideConcept",
            display_name="UnGuide Concept",
            category=CATEGORY,
            **aliases(*FORGET),
            description="What the model shall forget, what it shall draw instead, and what must stay as it is.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the model that shall forget."),
                io.Combo.Input(
                    "preset",
                    options=Files([CUSTOM, *presets(), *host.input_files(".json")]),
                    default=CUSTOM,
                    tooltip="A concept that ships with the pack, or a prompt file in the input folder (JSON with "
                    "target, reference, synonyms, preserve). Fields below that are filled in replace the preset's.",
                ),
                io.String.Input(
                    "target",
                    default="",
                    tooltip="The prompt to forget, such as 'a photo of the cat'. Empty: the preset's.",
                ),
                io.String.Input(
                    "reference",
                    default="",
                    tooltip="The prompt whose picture takes its place, such as 'a photo of the forest'. A scene "
                    "without the concept works best. Empty: the preset's.",
                ),
                io.String.Input(
                    "synonyms",
                    default="",
                    multiline=True,
                    tooltip="Other prompts for the same thing, one a line. They are forgotten as well (unless the "
                    "trainer's `train_synonyms` is off), and must not be preserved.",
                ),
                io.String.Input(
                    "preserve",
                    default="",
                    multiline=True,
                    tooltip="Prompts whose pictures must stay as they are, one a line. The closer to the concept,"
                    " the better the LoRA learns where the concept ends. Empty: the preset's, or a list "
                    "of everyday things. A line that says all that the target or a synonym says is left out.",
                ),
            ],
            outputs=[ConceptSocket.Output(display_name="concept", tooltip="For UnGuide Train LoRA.")],
        )

    @classmethod
    def fingerprint_inputs(cls, preset, **kwargs):
        """Read a prompt file again when it has changed."""
        return host.version_of(host.input_path(preset)) if preset.lower().endswith(".json") else preset

    @classmethod
    def execute(cls, clip, preset, target, reference, synonyms, preserve) -> io.NodeOutput:
        """The concept with its prompts encoded."""
        concept = concept_from(preset_or_file(preset), target, reference, synonyms, preserve)
        return io.NodeOutput(EncodedConcept.of(concept, lambda prompt: host.encode(clip, prompt)))
