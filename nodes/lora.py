"""The nodes that save and load concept LoRA files."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..unguide_ops import host
from ..unguide_ops.concept_lora import ConceptLoRA
from ..unguide_ops.files import lora_file
from ..unguide_ops.files.layouts import left_out_phrase
from ..unguide_ops.files.rescue import save_where_possible
from .checked import CheckedNode, FileOptions
from .inputs import CATEGORY, LoRASocket, advanced


class UnGuideSaveLoRA(CheckedNode):
    """Save a concept LoRA in the loras folder, where all loaders find it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Node schema."""
        return io.Schema(
            node_id="UnGuideSaveLoRA",
            display_name="UnGuide Save LoRA",
            category=CATEGORY,
            description="Saves a concept LoRA in the loras folder. Every LoRA loader reads the file; UnGuide Load "
            "LoRA also reads the concept.",
            inputs=[
                LoRASocket.Input("lora", tooltip="The concept LoRA to save."),
                io.String.Input(
                    "filename_prefix",
                    default="unguide/concept",
                    tooltip="Folder and name below the loras folder; a number is added.",
                ),
                *advanced(
                    io.Boolean.Input(
                        "with_prompts",
                        default=True,
                        tooltip="Write the concept's prompts into the file, and the picture beside it. Off: nobody can "
                        "read there what was to be forgotten; to calibrate it again, connect UnGuide Concept.",
                    ),
                ),
            ],
            outputs=[io.String.Output(display_name="lora_name", tooltip="The name as the loaders list it.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, lora: ConceptLoRA, filename_prefix: str, with_prompts: bool = True) -> io.NodeOutput:
        """Write the file, and return its name."""
        lora = lora if with_prompts else lora.without_prompts()
        try:
            name = lora_file.save_new_lora(host.new_lora_paths(filename_prefix), lora)
        except OSError as error:
            path, _ = save_where_possible(lora, "unguide/not saved/concept", [host.new_output_paths])
            rescued = f" For now it is in {path}." if path else ""
            raise OSError(
                f"The LoRA could not be saved as {filename_prefix} ({error.strerror}). It is not lost: make room, or "
                f"choose another `filename_prefix`, and run again; the trainer's result is still in the cache.{rescued}"
            ) from error
        return io.NodeOutput(name, ui=ui.PreviewText(name))


class UnGuideLoadLoRA(CheckedNode):
    """Load a concept LoRA from the loras folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Node schema."""
        return io.Schema(
            node_id="UnGuideLoadLoRA",
            display_name="UnGuide Load LoRA",
            category=CATEGORY,
            description="Loads a concept LoRA from the loras folder, made here or elsewhere.",
            inputs=[
                io.Combo.Input(
                    "lora_name", options=FileOptions(host.lora_files()), tooltip="A file in the loras folder."
                ),
            ],
            outputs=[LoRASocket.Output(display_name="lora", tooltip="For the probe and UnGuidance.")],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str) -> str:
        """Return a text that differs once the file has changed."""
        return host.file_version(host.lora_path(lora_name))

    @classmethod
    def execute(cls, lora_name: str) -> io.NodeOutput:
        """Return the concept LoRA in the file."""
        lora, left_out = lora_file.load_lora_with_left_out(host.lora_path(lora_name))
        status = ui.PreviewText(f"left out, as it cannot act: {left_out_phrase(left_out)}") if left_out else None
        return io.NodeOutput(lora, ui=status)
