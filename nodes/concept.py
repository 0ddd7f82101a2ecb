"""The node that defines the concept to forget."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..unguide_ops import host
from ..unguide_ops.concept import EncodedConcept, concept_from, presets
from .checked import CheckedNode, FileOptions
from .inputs import CATEGORY, SEARCH_WORDS, ConceptSocket, search_aliases

CUSTOM = "custom"


def preset_or_file(chosen: str) -> str | Path | None:
    """The argument of `concept_from` for a choice of the combo: a preset, a prompt file's path, or None for custom."""
    if chosen.lower().endswith(".json"):
        return host.input_path(chosen)
    return None if chosen == CUSTOM else chosen


class UnGuideConcept(CheckedNode):
    """Encode the prompts that define a concept."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Node schema."""
        return io.Schema(
            node_id="UnGuideConcept",
            display_name="UnGuide Concept",
            category=CATEGORY,
            **search_aliases(*SEARCH_WORDS),
            description="What the model should forget, what it should draw instead, and what must stay as it is.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the model that should forget."),
                io.Combo.Input(
                    "preset",
                    options=FileOptions([CUSTOM, *presets(), *host.input_files(".json")]),
                    default=CUSTOM,
                    tooltip="A concept that ships with the pack, or a prompt file in the input folder (JSON with "
                    "target, reference, synonyms, near, preserve). Fields below that are filled in replace the "
                    "preset's.",
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
                    tooltip="Other prompts for the same thing, one per line. They are forgotten as well (unless the "
                    "trainer's `train_synonyms` is off), and must not be preserved.",
                ),
                io.String.Input(
                    "preserve",
                    default="",
                    multiline=True,
                    tooltip="Prompts whose pictures must stay as they are, one per line. The closer to the concept, "
                    "the better the LoRA learns where the concept ends. Empty: the preset's, or a list of everyday "
                    "things. A line with all the words of the target or of a synonym is left out.",
                ),
            ],
            outputs=[ConceptSocket.Output(display_name="concept", tooltip="For UnGuide Train LoRA.")],
        )

    @classmethod
    def fingerprint_inputs(cls, preset: str, **kwargs) -> str:
        """Return a text that differs once a chosen prompt file has changed."""
        return host.file_version(host.input_path(preset)) if preset.lower().endswith(".json") else preset

    @classmethod
    def execute(
        cls, clip: host.Clip, preset: str, target: str, reference: str, synonyms: str, preserve: str
    ) -> io.NodeOutput:
        """Return the concept with its encoded prompts."""
        concept = concept_from(preset_or_file(preset), target, reference, synonyms, preserve)
        return io.NodeOutput(EncodedConcept.of(concept, lambda prompt: host.encode(clip, prompt)))
