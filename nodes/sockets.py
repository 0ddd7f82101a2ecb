"""The pack's own socket types, and inputs that several nodes share."""

from comfy_api.latest import io

from ..unguide_ops.probe import ProbeSettings

CATEGORY = "UnGuide"
MOST = 10  # of a w, in either direction
FORGET = ("forget", "erase", "unlearn", "remove concept", "safe", "censor", "nsfw", "negative LoRA")
"""What people type who look for this pack."""
ConceptSocket = io.Custom("UNGUIDE_CONCEPT")
LoRASocket = io.Custom("UNGUIDE_LORA")


def aliases(*words: str) -> dict:
    """The argument of a schema by which the page's search finds a node by other words too; hosts since 0.11 have it."""
    return {"search_aliases": list(words)} if "search_aliases" in io.Schema.__dataclass_fields__ else {}


def folded(*inputs):
    """Inputs that the page hides until one asks for a node's advanced ones; they come last, as they leave gaps."""
    for it in inputs:
        it.optional = True
        it.extra_dict = {"advanced": True}  # since 0.10 an argument of its own
    return inputs


def seed_input(tooltip: str):
    """A seed as KSampler has it."""
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip=tooltip)


def size_inputs(what: str):
    """Width and height of a picture, in pixels."""
    return [
        io.Int.Input(side, default=512, min=16, max=4096, step=8, tooltip=f"{side.capitalize()} in pixels of {what}.")
        for side in ("width", "height")
    ]


def rate_input(when: str):
    """How often the calibrated gate may be wrong about an everyday prompt."""
    return io.Float.Input(
        "false_positive_rate",
        default=ProbeSettings.false_positive_rate,
        min=0.0001,
        max=0.5,
        step=0.0001,
        optional=True,
        tooltip=f"{when}: how often an everyday prompt may be taken for the concept. Higher: the gate finds more names "
        "for it, and more things close by.",
    )


def w_inputs():
    """The two weights that a decision chooses between."""
    return [
        io.Float.Input(
            "w_erased",
            default=-1.0,
            min=-MOST,
            max=MOST,
            step=0.05,
            tooltip="w for prompts that touch the erased concept. -1 (the paper's) predicts 2 x LoRA - base and "
            "steers away from the concept; 0 is the LoRA alone.",
        ),
        io.Float.Input(
            "w_unrelated",
            default=1.0,
            min=-MOST,
            max=MOST,
            step=0.05,
            tooltip="w for all other prompts. 1 is the plain base picture, bit for bit. The paper "
            "uses 2 (2 x base - LoRA), which costs twice as much and oversaturates.",
        ),
    ]
