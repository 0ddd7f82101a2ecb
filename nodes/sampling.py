"""UnGuidance as nodes."""

from comfy_api.latest import io

from ..unguide_ops import host
from ..unguide_ops.page import as_json
from ..unguide_ops.steering import ON_DOUBT, SIDES, Course, SteeringSettings
from ..unguide_ops.unguidance import unguide
from .checked import CheckedNode
from .sockets import CATEGORY, FORGET, MOST, LoRASocket, aliases, folded, rate_input, seed_input, w_inputs
from .words import said

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
    """How the gate inside sampling decides, where the probe's decision comes in, and how it is steered."""
    return [
        rate_input("Gate inside sampling only"),
        *folded(
            io.Int.Input(
                "gate_steps", default=SteeringSettings.gate_steps, min=1, max=50,
                tooltip="Gate inside sampling only: so many first steps are looked at. With more than one, the base "
                "model draws until then.",
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
        *folded(
            io.Combo.Input(
                "lora_branch", options=list(SIDES), default=SteeringSettings.sides,
                tooltip="Which predictions are steered. cond only: not those of the negative prompt, at three "
                "quarters of the cost. cond and uncond: both, as in the paper; for a LoRA that changes every prompt, "
                "as its own does.",
            ),
            io.Float.Input(
                "start", default=SteeringSettings.start, min=0.0, max=1.0, step=0.01,
                tooltip="Where in the run steering begins: 0 at the first step, 0.5 half way. Later: more of the "
                "concept's layout stays.",
            ),
            io.Float.Input(
                "end", default=SteeringSettings.end, min=0.0, max=1.0, step=0.01,
                tooltip="Where in the run steering ends; the rest is the base model's. Earlier is cheaper, and the "
                "concept may come back in details.",
            ),
            io.Float.Input(
                "softness", default=SteeringSettings.softness, min=0.0, max=1.0, step=0.01,
                tooltip="Gate inside sampling only: scores this close to the threshold get a w between w_unrelated and "
                "w_erased. 0: a clear decision.",
            ),
            io.Float.Input(
                "eta", default=SteeringSettings.eta, min=0.0, max=1.0, step=0.05,
                tooltip="For w below 0 or above 1, which raise contrast: how much of that is kept. 1: the paper's "
                "formula. 0: calmer pictures, as much erased (adaptive projected guidance).",
            ),
            io.Boolean.Input(
                "restart", default=SteeringSettings.restart,
                tooltip="Gate inside sampling with more than one step only: where the concept was found, begin again "
                "from the first noise, so that the gate's own steps are steered too.",
            ),
            io.Combo.Input(
                "on_doubt", options=list(ON_DOUBT), default=SteeringSettings.on_doubt,
                tooltip="Gate inside sampling only: what happens where it cannot decide, because the LoRA has no "
                "calibration, or one for another base model, or a prediction is no number. stop: an error says what to "
                "change. steer: the picture is sampled with w_erased.",
            ),
        ),
    ]  # fmt: skip


def guided(model, lora, told, gate, w_erased, w_unrelated, erased=None, w=None, lora_branch=SteeringSettings.sides,
           **settings):  # fmt: skip
    """The MODEL that the gate's inputs ask for; `told` hears what becomes of its runs."""
    if gate == OFF:
        return model.clone()
    if gate != INSIDE:
        settings["w"] = weight(gate, w_erased, w_unrelated, erased, w)
    return unguide(
        model, lora, SteeringSettings(w_erased=w_erased, w_unrelated=w_unrelated, sides=lora_branch, **settings), told
    )


def weight(gate: str, w_erased: float, w_unrelated: float, erased: bool | None, w: float | None) -> float:
    """The w for every picture. Raises ValueError when the gate is linked and nothing is, or to what is no weight."""
    if gate == ALWAYS_ERASE:
        return w_erased
    if w is not None:
        if not -MOST <= w <= MOST:
            raise ValueError(f"`w` is {w:g}: link a number from -{MOST} to {MOST}; -1 steers away, 1 is the base.")
        return w
    if erased is None:
        raise ValueError(
            f"`gate` is {LINKED!r}, but neither `w` nor `erased` is: link one from UnGuide Stability Probe, "
            f"or set `gate` to {INSIDE!r}."
        )
    return w_erased if erased else w_unrelated


def ignored(gate: str, erased: bool | None = None, w: float | None = None, **settings) -> list[str]:
    """Sentences on what is linked and does not count."""
    linked = [name for name, it in (("w", w), ("erased", erased)) if it is not None and gate != LINKED]
    return [f"`{name}` is linked and does not count: set `gate` to {LINKED!r}, or remove the link." for name in linked]


def outspoken(model, lora, **gate):
    """The guided MODEL for nodes that do not sample themselves: what becomes of its runs stands on the node."""
    say, warnings = host.keep_on_node(), ignored(**gate)
    if warnings:
        say("\n".join(warnings))
    return guided(model, lora, lambda course: say("\n".join([*warnings, *in_words(course)])), **gate)


def in_words(course: Course) -> list[str]:
    """What became of a run, for the node."""
    each = dict.fromkeys(it.explained() for it in course.decisions)
    ratio = course.evaluations / max(1, course.plain_evaluations)
    asked = f"the LoRA was asked in {len(course.lora_steps)} steps" if course.lora_steps else "the LoRA was not asked"
    cost = f"{course.evaluations} evaluations, {ratio:.2f} x plain sampling; {asked}"
    return [*course.warnings, *each, cost]


class UnGuidance(CheckedNode):
    """UnGuidance for any sampler node."""

    @classmethod
    def define_schema(cls):
        """Node schema."""
        return io.Schema(
            node_id="UnGuidance",
            display_name="UnGuidance",
            category=CATEGORY,
            **aliases(*FORGET),
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
        return io.NodeOutput(outspoken(model, lora, **gate))


class UnGuidanceGuider(CheckedNode):
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
        return io.NodeOutput(host.cfg_guider(outspoken(model, lora, **gate), positive, negative, cfg))


class UnGuidanceKSampler(CheckedNode):
    """KSampler with UnGuidance in it."""

    @classmethod
    def define_schema(cls):
        """Node schema."""
        return io.Schema(
            node_id="UnGuidanceKSampler",
            display_name="UnGuidance KSampler",
            category=CATEGORY,
            **aliases(*FORGET),
            is_output_node=True,  # or its words would not come again with a result from the cache
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
                io.String.Output(
                    display_name="report", tooltip="Each picture's decision and w, and what it cost, as JSON."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model, lora, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise, **gate
    ) -> io.NodeOutput:
        """The latent and the report."""
        courses: list[Course] = []
        guiding = guided(model, lora, courses.append, **gate)
        counter = host.EvaluationCounter()
        latent = host.ksample(
            counter.watch(guiding), seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise
        )
        found = courses[0].report() if courses else {}  # none where nothing was sampled, or with the gate off
        warnings, counted = ignored(**gate), {"evaluations": counter.count}
        report = as_json(
            {"gate": gate["gate"], **counted, **found, "warnings": [*warnings, *found.get("warnings", ())]}
        )
        words = said([*warnings, *(line for course in courses for line in in_words(course))])["text"]
        return io.NodeOutput(latent, report, ui={"text": [report], "words": words})
