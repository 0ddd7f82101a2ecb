"""The node that imports LoRAs from other tools."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..unguide_ops import host
from ..unguide_ops.files.importers import AUTHORS_ALPHA, import_lora
from ..unguide_ops.files.layouts import left_out_phrase
from ..unguide_ops.safe_text import json_without_markup
from .checked import CheckedNode, FileOptions
from .inputs import CATEGORY, SEARCH_WORDS, LoRASocket, search_aliases


class UnGuideImportLoRA(CheckedNode):
    """Convert another tool's LoRA to a concept LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Node schema."""
        return io.Schema(
            node_id="UnGuideImportLoRA",
            display_name="UnGuide Import LoRA",
            category=CATEGORY,
            **search_aliases(*SEARCH_WORDS, "LECO", "ESD", "concept slider"),
            description="Reads an erasing LoRA made elsewhere: the UnGuide authors' lora.pth, LECO, concept sliders, "
            "kohya, diffusers, PEFT. UnGuide Calibrate gives it a gate, UnGuide Save LoRA saves it in our format.",
            inputs=[
                io.Model.Input("model", tooltip="A model of the family that the LoRA was made for."),
                io.Combo.Input(
                    "lora_name",
                    options=FileOptions(host.lora_files()),
                    tooltip="A file in the loras folder: safetensors, or pth, pt, bin, ckpt, of which only tensors are "
                    "read and no code is executed.",
                ),
                io.Float.Input(
                    "alpha",
                    default=AUTHORS_ALPHA,
                    min=-100.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Multiplier of the UnGuide authors' files, which do not contain it: theirs is 8. Other "
                    "files bring their own.",
                ),
            ],
            outputs=[
                LoRASocket.Output(
                    display_name="lora",
                    tooltip="For UnGuide Calibrate; then to be used like a LoRA trained here.",
                ),
                io.String.Output(display_name="report", tooltip="What was found in the file, as JSON."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, **kwargs) -> str:
        """Return a text that differs once the file has changed."""
        return host.file_version(host.lora_path(lora_name))

    @classmethod
    def execute(cls, model: host.Model, lora_name: str, alpha: float) -> io.NodeOutput:
        """Return the LoRA with this model's layer names, and a report on the file."""
        imported = import_lora(host.lora_path(lora_name), host.layer_names(model), alpha)
        report = {"file": lora_name, **imported.report()}
        ranks = ", ".join(map(str, report["ranks"])) or "-"
        status = f"{report['layout']}: {report['layers']} layers, rank {ranks}"
        if imported.left_out:
            status += f"\nleft out, as it cannot act: {left_out_phrase(imported.left_out)}"
        return io.NodeOutput(imported.lora, json_without_markup(report, indent=1), ui=ui.PreviewText(status))
