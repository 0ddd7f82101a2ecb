"""UnGuidance as nodes."""

import json

from comfy_api.latest import io, ui

from ..unguide_ops import host
from ..unguide_ops.sampling import GateSettings, unguide_where_erased
from ..unguide_ops.unguidance import unguide
from .sockets import CATEGORY, LoRASocket, rate_input, seed_input, w_inputs

INSIDE, LINKED, ALWAYS_ERASE, OFF = "inside sampling", "linked", "always erase", "off"


def gate_inputs():
    """Model, LoRA, gate and weights, as every UnGuidance node has them."""
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


def prompt_inputs():
    """The prompts as KSampler has them."""
    return [
        io.Conditioning.Input("positive", tooltip="What the picture shall show."),
        io.Conditioning.Input("negative", tooltip="What it shall not show."),
    ]


def cfg_input():
    """Cfg as KSampler has it."""
    return io.Float.Input(
        "cfg",
        default=8.0,
        min=0.0,
        max=100.0,
        step=0.1,
        round=0.01,
        tooltip="Classifier-free guidance: how closely the picture follows the prompt.",
    )


def more_inputs():
    """How the gate inside sampling decides, and where the probe's decision comes in."""
    return [
        io.Int.Input(
            "gate_steps",
            default=GateSettings.steps,
            min=1,
            max=50,
            optional=True,
            tooltip="Gate inside sampling only: so many first steps are looked at; until then the base model draws.",
        ),
        rate_input("Gate inside sampling only"),
        io.Boolean.Input(
            "erased",
            optional=True,
            force_input=True,
            tooltip="The probe's decision: w_erased if true, w_unrelated if false.",
        ),
        io.Float.Input("w", optional=True, force_input=True, tooltip="w itself; takes precedence over erased."),
    ]


def guided(
    model, lora, decided, gate, w_erased, w_unrelated, erased=None, w=None,
    gate_steps=GateSettings.steps, false_positive_rate=GateSettings.false_positive_rate,
):  # fmt: skip
    """The MODEL that the gate's inputs ask for; `decided` is told what a gate inside sampling finds."""
    if gate == INSIDE:
        settings = GateSettings(w_erased, w_unrelated, gate_steps, false_positive_rate)
        return unguide_where_erased(model, lora, settings, decided)
    return unguide(model, lora, weight(gate, w_erased, w_unrelated, erased, w))


def weight(gate: str, w_erased: float, w_unrelated: float, erased: bool | None, w: float | None) -> float:
    """The w for every picture. Raises ValueError when the gate is linked and nothing is."""
    if gate == OFF:
        return 1.0
    if gate == ALWAYS_ERASE:
        return w_erased
    if w is not None:
        return w
    if erased is None:
        raise ValueError(
            f"`gate` is {LINKED!r}, but neither `w` nor `erased` is: link one from UnGuide Stability Probe, "
            f"or set `gate` to {INSIDE!r}."
        )
    return w_erased if erased else w_unrelated


def warnings_of(model, lora, gate: str, size: tuple[int, int] | None = None, cfg: float | None = None) -> list[str]:
    """Where the calibration of a gate inside sampling does not fit these pictures (`Calibration.misfits`)."""
    if gate != INSIDE or lora.calibration is None:
        return []
    return lora.calibration.misfits(host.fingerprint(model), size, cfg)


def warned(model, lora, **gate):
    """The guided MODEL for nodes that do not sample themselves; what does not fit stands on the node."""
    guiding = guided(model, lora, lambda decisions: None, **gate)
    if warnings := warnings_of(model, lora, gate["gate"]):
        host.say_on_node("\n".join(warnings))
    return guiding


class UnGuidance(io.ComfyNode):
    """UnGuidance for any sampler node."""

    @classmethod
    def define_schema(cls):
        """Node schema."""
        return io.Schema(
            node_id="UnGuidance",
            display_name="UnGuidance",
            category=CATEGORY,
            description="Gives a MODEL that forgets the concept wherever it is sampled: each prediction is "
            "w x base + (1 - w) x LoRA.",
            inputs=[
                *gate_inputs(),
                *more_inputs(),
            ],
            outputs=[io.Model.Output(tooltip="For any sampler node.")],
        )

    @classmethod
    def execute(cls, model, lora, **gate) -> io.NodeOutput:
        """The guided MODEL."""
        return io.NodeOutput(warned(model, lora, **gate))


class UnGuidanceGuider(io.ComfyNode):
    """UnGuidance for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls):
        """Node schema."""
        return io.Schema(
            node_id="UnGuidanceGuider",
            display_name="UnGuidance Guider",
            category=CATEGORY,
            description="A GUIDER for SamplerCustomAdvanced that forgets the concept: CFGGuider with UnGuidance in it.",
            inputs=[
                *gate_inputs(),
                *prompt_inputs(),
                cfg_input(),
                *more_inputs(),
            ],
            outputs=[io.Guider.Output(tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model, lora, positive, negative, cfg, **gate) -> io.NodeOutput:
        """The guider."""
        return io.NodeOutput(host.cfg_guider(warned(model, lora, **gate), positive, negative, cfg))


class UnGuidanceKSampler(io.ComfyNode):
    """KSampler with UnGuidance in it."""

    @classmethod
    def define_schema(cls):
        """Node schema."""
        return io.Schema(
            node_id="UnGuidanceKSampler",
            display_name="UnGuidance KSampler",
            category=CATEGORY,
            description="KSampler on a model that forgets the concept, with a report of w and of what it cost.",
            inputs=[
                *gate_inputs(),
                seed_input("The random seed used for creating the noise."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="The number of denoising steps."),
                cfg_input(),
                io.Combo.Input("sampler_name", options=host.SAMPLERS, tooltip="The algorithm used when sampling."),
                io.Combo.Input(
                    "scheduler", options=host.SCHEDULERS, tooltip="How the noise is removed over the steps."
                ),
                *prompt_inputs(),
                io.Latent.Input("latent_image", tooltip="The latent to denoise."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much is denoised; lower values keep more of the latent image.",
                ),
                *more_inputs(),
            ],
            outputs=[
                io.Latent.Output(tooltip="The denoised latent."),
                io.String.Output(display_name="report", tooltip="w and evaluations as JSON."),
            ],
        )

    @classmethod
    def execute(
        cls, model, lora, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise, **gate
    ) -> io.NodeOutput:
        """The latent and the report."""
        counter, found = host.EvaluationCounter(), []
        warnings = warnings_of(model, lora, gate["gate"], host.pixels(latent_image), cfg)
        guiding = counter.watch(guided(model, lora, found.extend, **gate))
        latent = host.ksample(
            guiding, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise
        )
        report = json.dumps({
            "gate": gate["gate"], "evaluations": counter.count, "pictures": latent["samples"].shape[0],
            "warnings": warnings, "decisions": [{**it.verdict.report(), "w": it.w} for it in found],
        })  # fmt: skip
        words = [f"w = {it.w:g}: {it.verdict.explained()}" for it in found]
        host.say_on_node("\n".join([*warnings, *words, f"{counter.count} evaluations"]))
        return io.NodeOutput(latent, report, ui=ui.PreviewText(report))
