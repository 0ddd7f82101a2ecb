"""The inputs that the nodes which sample with UnGuidance share."""

from __future__ import annotations

from comfy_api.latest import io

from ..unguide_ops.guidance.config import INSTEAD, LORA_BRANCHES, ON_DOUBT, SteeringConfig
from .inputs import LoRASocket, advanced, false_positive_rate_input, w_inputs

INSIDE, LINKED, ALWAYS_ERASE, OFF = "inside sampling", "linked", "always erase", "off"


def gate_inputs() -> list:
    """Inputs of model, LoRA, gate and weights, which all UnGuidance nodes have."""
    return [
        io.Model.Input("model", tooltip="The base model, without the LoRA."),
        LoRASocket.Input("lora", tooltip="The concept LoRA."),
        io.Combo.Input(
            "gate",
            options=[INSIDE, LINKED, ALWAYS_ERASE, OFF],
            default=INSIDE,
            tooltip="inside sampling: the first steps tell, for each picture of the batch, whether it touches the "
            "concept. linked: the stability probe decides, through its w or erased output. always erase: every prompt "
            "is sampled with w_erased. off: the base model, untouched.",
        ),
        *w_inputs(),
    ]


def prompt_inputs() -> list:
    """Inputs of the prompts, as KSampler has them."""
    return [
        io.Conditioning.Input("positive", tooltip="What the picture should show."),
        io.Conditioning.Input("negative", tooltip="What the picture should not show."),
    ]


def cfg_input() -> io.Float.Input:
    """The input of the guidance scale, as KSampler has it."""
    return io.Float.Input(
        "cfg",
        default=8.0,
        min=0.0,
        max=100.0,
        step=0.1,
        round=0.01,
        tooltip="Classifier-free guidance: how closely the picture follows the prompt.",
    )


def steering_inputs() -> list:
    """Inputs of the gate's settings, of a linked decision, and of how pictures are steered."""
    return [
        false_positive_rate_input("Gate inside sampling only"),
        *advanced(
            io.Int.Input(
                "gate_steps", default=SteeringConfig.gate_steps, min=1, max=50,
                tooltip="Gate inside sampling only: how many of the first steps it looks at. With more than one, the "
                "base model draws until then.",
            ),
        ),
        io.Boolean.Input(
            "erased",
            optional=True,
            force_input=True,
            tooltip="With gate = linked only. The probe's decision: w_erased if true, w_unrelated if false.",
        ),
        io.Float.Input(
            "w",
            optional=True,
            force_input=True,
            tooltip="With gate = linked only. w itself; takes precedence over erased.",
        ),
        *advanced(
            io.Combo.Input(
                "lora_branch", options=list(LORA_BRANCHES), default=SteeringConfig.lora_branch,
                tooltip="Which predictions are steered. cond only: not those of the negative prompt, at three "
                "quarters of the cost. cond and uncond: both, as in the paper; for a LoRA that changes every prompt, "
                "as the paper's does.",
            ),
            io.Float.Input(
                "start", default=SteeringConfig.start, min=0.0, max=1.0, step=0.01,
                tooltip="Where in the run steering begins: 0 at the first step, 0.5 half way. Later: more of the "
                "concept's layout stays.",
            ),
            io.Float.Input(
                "end", default=SteeringConfig.end, min=0.0, max=1.0, step=0.01,
                tooltip="Where in the run steering ends; the rest is the base model's. Earlier is cheaper, and the "
                "concept may come back in details.",
            ),
            io.Float.Input(
                "softness", default=SteeringConfig.softness, min=0.0, max=1.0, step=0.01,
                tooltip="Gate inside sampling only: scores this close to the threshold get a w between w_unrelated and "
                "w_erased. 0: a hard decision.",
            ),
            io.Float.Input(
                "eta", default=SteeringConfig.eta, min=0.0, max=1.0, step=0.05,
                tooltip="For w below 0 or above 1, which raise contrast: how much of that is kept. 1: the paper's "
                "formula. 0: calmer pictures, as much erased (adaptive projected guidance).",
            ),
            io.Boolean.Input(
                "restart", default=SteeringConfig.restart,
                tooltip="Gate inside sampling with more than one step only: if the concept is found, begin again from "
                "the initial noise, so that the gate's own steps are steered too.",
            ),
            io.Combo.Input(
                "on_doubt", options=list(ON_DOUBT), default=SteeringConfig.on_doubt,
                tooltip="Gate inside sampling only: what happens if it cannot decide, because the LoRA has no "
                "calibration, or one for another base model, or a prediction is NaN or infinite. stop: an error says "
                "what to change. steer: the picture is sampled with w_erased.",
            ),
            io.Boolean.Input(
                "second_look", default=SteeringConfig.second_look,
                tooltip="Gate inside sampling only: after a third of the steps, look once more at pictures that the "
                "gate left alone, for one model call. Against prompts that a program has found to deceive the gate: "
                "if the picture becomes the concept, sampling begins again with the reference prompt.",
            ),
            io.Boolean.Input(
                "check_picture", default=SteeringConfig.check_picture,
                tooltip="For image to image and inpainting, where no word may name the concept: look first at the "
                "picture that sampling starts from, for eight model calls. An error says so if it shows the concept.",
            ),
            io.Combo.Input(
                "instead", options=list(INSTEAD), default=SteeringConfig.instead,
                tooltip="What is drawn in the concept's place. blend: what the LoRA predicts. swap: what the base "
                "model predicts for the prompt with the concept swapped for the reference; the LoRA only serves the "
                "gate. replace: what it predicts for the reference prompt, without the rest of the prompt.",
            ),
            io.Boolean.Input(
                "words_first", default=SteeringConfig.words_first,
                tooltip="Gate inside sampling only: pictures whose words are far from the concept are left to the base "
                "model at once, at the cost of plain sampling. Off: the model is asked about every picture.",
            ),
        ),
    ]  # fmt: skip
