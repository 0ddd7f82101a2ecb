"""The pack's own socket types, and the definitions of inputs that several nodes have."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..unguide_ops.gate.probe import ProbeConfig

CATEGORY = "UnGuide"
MAX_W = 10  # the largest weight w, positive or negative
SEARCH_WORDS = ("forget", "erase", "unlearn", "remove concept", "safe", "censor", "nsfw", "negative LoRA")
"""Words that users of the page's search may type to find nodes for forgetting a concept."""
ConceptSocket = io.Custom("UNGUIDE_CONCEPT")
LoRASocket = io.Custom("UNGUIDE_LORA")


def search_aliases(*words: str) -> dict[str, list[str]]:
    """The argument of a schema for words that the page's search also finds the node by; none for hosts before 0.11."""
    return {"search_aliases": list(words)} if "search_aliases" in io.Schema.__dataclass_fields__ else {}


def advanced(*inputs: Any) -> tuple[Any, ...]:
    """Mark inputs as optional, and as advanced: the page hides them until the user shows a node's advanced inputs.

    They should come last on a node, since some versions of the page leave gaps for them.
    """
    for definition in inputs:
        definition.optional = True
        definition.extra_dict = {"advanced": True}  # hosts before 0.10 have no argument for it
    return inputs


def seed_input(tooltip: str) -> io.Int.Input:
    """The input of a seed, as KSampler has it."""
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip=tooltip)


def size_inputs(subject: str) -> list[io.Int.Input]:
    """Inputs of width and height in pixels; the tooltips name the `subject`, such as "the pictures to be made"."""
    tooltips = {side: f"{side.capitalize()} in pixels of {subject}." for side in ("width", "height")}
    return [
        io.Int.Input(side, default=512, min=16, max=4096, step=8, tooltip=tooltip) for side, tooltip in tooltips.items()
    ]


def false_positive_rate_input(scope: str) -> io.Float.Input:
    """The input of the calibrated gate's false positive rate; the tooltip begins with `scope`, when it has effect."""
    return io.Float.Input(
        "false_positive_rate",
        default=ProbeConfig.false_positive_rate,
        min=0.0001,
        max=0.5,
        step=0.0001,
        optional=True,
        tooltip=f"{scope}: how often an everyday prompt may be taken for the concept. Higher: the gate finds more "
        "names for it, and more things close by.",
    )


def w_inputs() -> list[io.Float.Input]:
    """Inputs of the weights w for prompts that touch the concept, and for all others."""
    return [
        io.Float.Input(
            "w_erased",
            default=0.0,
            min=-MAX_W,
            max=MAX_W,
            step=0.05,
            tooltip="w for prompts that touch the erased concept. 0 is the LoRA alone: the reference in the concept's "
            "place. -1 (the paper's) predicts 2 x LoRA - base and steers away from the concept: for a LoRA that "
            "erases half-way.",
        ),
        io.Float.Input(
            "w_unrelated",
            default=1.0,
            min=-MAX_W,
            max=MAX_W,
            step=0.05,
            tooltip="w for all other prompts. 1 is the plain base picture, bit for bit. The paper "
            "uses 2 (2 x base - LoRA), which costs twice as much and oversaturates.",
        ),
    ]
