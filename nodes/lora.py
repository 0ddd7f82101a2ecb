"""Concept LoRA files as nodes."""

from comfy_api.latest import io, ui

from ..unguide_ops import files, host
from ..unguide_ops.layouts import in_words
from .checked import CheckedNode, Files
from .keeping import kept
from .sockets import CATEGORY, LoRASocket, folded


class UnGuideSaveLoRA(CheckedNode):
    """Save a concept LoRA where the host's loaders find it."""

    @classmethod
    def define_schema(cls):
        """Node schema."""
        return io.Schema(
            node_id="UnGuideSaveLoRA",
            display_name="UnGuide Save LoRA",
            category=CATEGORY,
            description="Saves a concept LoRA in the loras folder. Every LoRA loader reads the file; UnGuide Load"
            " LoRA reads the concept with it.",
            inputs=[
                LoRASocket.Input("lora", tooltip="The concept LoRA to save."),
                io.String.Input(
                    "filename_prefix",
                    default="unguide/concept",
                    tooltip="Folder and name below the loras folder; a number is added.",
                ),
                *folded(
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
    def execute(cls, lora, filename_prefix, with_prompts=True) -> io.NodeOutput:
        """Write the file; its name."""
        lora = lora if with_prompts else lora.without_prompts()
        try:
            name = files.save_new_lora(host.new_lora_paths(filename_prefix), lora)
        except OSError as error:
            elsewhere, _ = kept(lora, "unguide/not saved/concept", [host.new_output_paths])
            rescued = f" For now it lies in {elsewhere}." if elsewhere else ""
            raise OSError(
                f"The LoRA could not be saved as {filename_prefix} ({error.strerror}). It is not lost: make room, or "
                f"choose another `filename_prefix`, and run again; the trainer's result is still in the cache.{rescued}"
            ) from error
        return io.NodeOutput(name, ui=ui.PreviewText(name))


class UnGuideLoadLoRA(CheckedNode):
    """Load a concept LoRA."""

    @classmethod
    def define_schema(cls):
        """Node schema."""
        return io.Schema(
            node_id="UnGuideLoadLoRA",
            display_name="UnGuide Load LoRA",
            category=CATEGORY,
            description="Loads a concept LoRA from the loras folder, made here or elsewhere.",
            inputs=[
                io.Combo.Input("lora_name", options=Files(host.lora_files()), tooltip="A file in the loras folder."),
            ],
            outputs=[LoRASocket.Output(display_name="lora", tooltip="For the probe and UnGuidance.")],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name):
        """Load again when the file has changed."""
        return host.version_of(host.lora_path(lora_name))

    @classmethod
    def execute(cls, lora_name) -> io.NodeOutput:
        """The concept LoRA in the file."""
        lora, left_out = files.read_lora(host.lora_path(lora_name))
        told = ui.PreviewText(f"left out, as it cannot act: {in_words(left_out)}") if left_out else None
        return io.NodeOutput(lora, ui=told)
