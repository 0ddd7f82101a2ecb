"""LoRAs made elsewhere, as a node."""

from comfy_api.latest import io, ui

from ..unguide_ops import host
from ..unguide_ops.importing import AUTHORS_ALPHA, import_lora
from ..unguide_ops.layouts import in_words
from ..unguide_ops.page import as_json
from .checked import CheckedNode, Files
from .sockets import CATEGORY, FORGET, LoRASocket, aliases


class UnGuideImportLoRA(CheckedNode):
    """Make someone's erasing LoRA a concept LoRA."""

    @classmethod
    def define_schema(cls):
        """Node schema."""
        return io.Schema(
            node_id="UnGuideImportLoRA",
            display_name="UnGuide Import LoRA",
            category=CATEGORY,
            **aliases(*FORGET, "LECO", "ESD", "concept slider"),
            description="Reads an erasing LoRA made elsewhere: the UnGuide authors' lora.pth, LECO, concept sliders, "
            "kohya, diffusers, PEFT. UnGuide Calibrate behind it gives it a gate, UnGuide Save LoRA writes it as ours.",
            inputs=[
                io.Model.Input("model", tooltip="The model family that the LoRA was made for."),
                io.Combo.Input(
                    "lora_name",
                    options=Files(host.lora_files()),
                    tooltip="A file in the loras folder: safetensors, or pth, pt, bin, ckpt, of which only tensors are "
                    "read and no code is executed.",
                ),
                io.Float.Input(
                    "alpha",
                    default=AUTHORS_ALPHA,
                    min=-100.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Multiplier of the UnGuide authors' files, which do not say it: theirs is 8. Other files "
                    "bring their own.",
                ),
            ],
            outputs=[
                LoRASocket.Output(display_name="lora", tooltip="For UnGuide Calibrate, then as one of ours."),
                io.String.Output(display_name="report", tooltip="What was found in the file, as JSON."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name, **kwargs):
        """Read again when the file has changed."""
        return host.version_of(host.lora_path(lora_name))

    @classmethod
    def execute(cls, model, lora_name, alpha) -> io.NodeOutput:
        """The LoRA under this model's names."""
        imported = import_lora(host.lora_path(lora_name), host.layer_names(model), alpha)
        report = {"file": lora_name, **imported.report()}
        ranks = ", ".join(map(str, report["ranks"])) or "-"
        words = f"{report['layout']}: {report['layers']} layers, rank {ranks}"
        if imported.left_out:
            words += f"\nleft out, as it cannot act: {in_words(imported.left_out)}"
        return io.NodeOutput(imported.lora, as_json(report, indent=1), ui=ui.PreviewText(words))
