"""The node that trains a concept LoRA."""

from __future__ import annotations

from collections.abc import Iterable

from comfy_api.latest import io, ui

from ..unguide_ops import host, plots
from ..unguide_ops.concept import EncodedConcept
from ..unguide_ops.concept_lora import ConceptLoRA
from ..unguide_ops.files.rescue import save_where_possible
from ..unguide_ops.lora import target_layers
from ..unguide_ops.pipeline import TrainedConcept, train_concept
from ..unguide_ops.safe_text import json_without_markup
from ..unguide_ops.training import config
from ..unguide_ops.training.trainer import TrainingResult
from .checked import CheckedNode
from .inputs import (
    CATEGORY,
    SEARCH_WORDS,
    ConceptSocket,
    LoRASocket,
    advanced,
    search_aliases,
    seed_input,
    size_inputs,
)
from .status import status_ui

CUSTOM = "custom"
DEFAULTS = config.OBJECT


def _int_control(name: str, low: int, high: int, tooltip: str, default: int | None = None) -> io.Int.Input:
    default = getattr(DEFAULTS, name) if default is None else default
    return io.Int.Input(name, default=default, min=low, max=high, optional=True, tooltip=tooltip)


def _float_control(name: str, low: float, high: float, step: float, tooltip: str) -> io.Float.Input:
    default = getattr(DEFAULTS, name)
    return io.Float.Input(
        name, default=default, min=low, max=high, step=step, round=False, optional=True, tooltip=tooltip
    )


def _combo_control(name: str, options: Iterable[str], tooltip: str) -> io.Combo.Input:
    return io.Combo.Input(name, options=list(options), default=getattr(DEFAULTS, name), optional=True, tooltip=tooltip)


def _switch_control(name: str, tooltip: str) -> io.Boolean.Input:
    return io.Boolean.Input(name, default=getattr(DEFAULTS, name), optional=True, tooltip=tooltip)


CONTROLS = (
    _int_control(
        "iterations", 1, 100_000, "Steps of the optimizer, at most: with `early_stop` training ends as soon as the "
        "target is erased.",
    ),
    _float_control(
        "learning_rate", 1e-8, 100.0, 1e-5, "The optimizer's, at its highest. With concept directions it is the share "
        "of each layer's output that an iteration moves, whatever the model. With random directions it is absolute: "
        "the paper's is 3e-5.",
    ),
    _combo_control("optimizer", config.OPTIMIZERS, "One of torch's. The paper's is Adam."),
    _combo_control(
        "schedule", config.SCHEDULES, "How the learning rate changes. One cycle: up and down again, so that the "
        "first iterations do not shake what the LoRA starts with. The paper's is constant.",
    ),
    _int_control("rank", 1, 128, "Rank of the LoRA: how many directions it may change."),
    _float_control(
        "alpha", 0.01, 1000.0, 0.01, "Multiplier of the LoRA while training, as in the paper: not divided by the rank. "
        "Files are written in the usual convention, alpha x rank.",
    ),
    _combo_control(
        "targets", target_layers.TARGET_CHOICES,
        "Which layers to train. Automatic: every way in which the text enters, for objects and styles. Cross-attention "
        "keys and values are the paper's choice for these; all but cross-attention is for nudity. Custom: those that "
        "match `pattern`.",
    ),
    _float_control(
        "negative_guidance", 0.0, 100.0, 0.1, "How far the LoRA is pushed beyond the reference, away from the target "
        "(g in the paper, which takes 2). 0: it draws what the reference prompt draws, and sampling with w = -1 does "
        "the pushing.",
    ),
    _float_control(
        "start_guidance", 1.0, 100.0, 0.1, "cfg of the unfinished pictures that the LoRA is trained on. 1 for models "
        "that are sampled without guidance (turbo, lightning); for Flux and Flux 2 it is always 1.",
    ),
    _int_control("steps", 2, 1000, "Steps of the unfinished pictures that the LoRA is trained on (the paper: 50)."),
    _int_control(
        "reuse", 1, 1000, "How many iterations one unfinished picture serves, at several of its noise levels. 1 is the "
        "paper's: a new one for each iteration, stopped at a random step.",
    ),
    _int_control("batch_size", 1, 64, "Noise levels per iteration: more are steadier and need more memory."),
    _combo_control(
        "initialisation", config.INITIALISATIONS, "What the LoRA is at first. Concept directions: in each layer it "
        "turns what sets the concept's prompts apart from the preserved ones into what the reference gives, so little "
        "is left to train. Random: it does nothing yet, as in the paper.",
    ),
    _float_control(
        "ridge", 1e-6, 10.0, 0.001, "How far the LoRA also responds to words close to the concept. Higher: more "
        "synonyms are forgotten, and more neighbours change.",
    ),
    _switch_control(
        "train_synonyms",
        "Also forget the concept's synonyms, in turn with the target. The paper trains on the target alone.",
    ),
    _float_control(
        "retain_weight", 0.0, 1000.0, 0.1, "How strongly preserved prompts are kept as the base draws them. 0 is the "
        "paper's objective, under which the LoRA changes other prompts too.",
    ),
    _int_control("retain_prompts", 0, 64, "How many preserved prompts to use with each latent."),
)  # fmt: skip


class UnGuideTrainLoRA(CheckedNode):
    """Train a concept LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Node schema."""
        return io.Schema(
            node_id="UnGuideTrainLoRA",
            display_name="UnGuide Train LoRA",
            category=CATEGORY,
            **search_aliases(*SEARCH_WORDS, "LECO", "ESD", "concept slider"),
            is_output_node=True,
            description="Trains a small LoRA with which the model predicts something else for the target prompt. The "
            "model itself is not changed. Cancel saves what was trained so far as a file.",
            inputs=[
                io.Model.Input("model", tooltip="The model that should forget."),
                ConceptSocket.Input("concept", tooltip="From UnGuide Concept, encoded by the same checkpoint's CLIP."),
                io.Combo.Input(
                    "preset",
                    options=[*config.PRESETS, CUSTOM],
                    default="object",
                    tooltip="Sets all controls below `seed`, up to `early_stop`, at once. 'As in the paper' is the "
                    "published procedure, at sixty times the cost. Custom: the controls count as they are, so "
                    "changing one makes the preset custom.",
                ),
                *size_inputs("the pictures trained on: the model's native size"),
                seed_input("The same seed and settings give the same LoRA."),
                CONTROLS[0],
                *advanced(
                    *CONTROLS[1:],
                    _switch_control(
                        "early_stop",
                        "Stop as soon as the target is erased and hardly any preserved prompt is changed as much. "
                        "If that is not reached, the node says so.",
                    ),
                    _switch_control(
                        "checkpointing",
                        "Compute activations twice instead of keeping them: less memory, more time. Done anyway if "
                        "there is too little memory.",
                    ),
                    _int_control(
                        "preview_every",
                        0,
                        100_000,
                        default=10,
                        tooltip="Show what the target prompt looks like with the LoRA, at most once in this many "
                        "iterations. It costs nothing: these are the pictures trained on. 0: never.",
                    ),
                    _int_control(
                        "grid_steps",
                        0,
                        1000,
                        default=10,
                        tooltip="Steps of the pictures in the final grid: 4 prompts by the base, the LoRA alone, and "
                        "UnGuidance. 0: no grid.",
                    ),
                ),
                LoRASocket.Input(
                    "resume",
                    optional=True,
                    tooltip="A LoRA to train further, instead of a new one. Its rank and alpha count, not those above.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="For a sharp grid; without it the grid is a rough preview."),
                *advanced(
                    io.String.Input(
                        "pattern",
                        default=DEFAULTS.pattern,
                        optional=True,
                        tooltip="With custom targets: a regular expression for the names of the layers, such "
                        "as attn2.to_[kv]$. For model families that UnGuide does not know.",
                    ),
                    _int_control(
                        "near_words",
                        0,
                        100,
                        "Of 2000 common nouns, so many that are nearest to the concept without "
                        "meaning it are looked for, preserved as well, and given in `near`. This encodes all the "
                        "nouns once, a few seconds with CLIP, minutes with a language model.",
                    ),
                ),
            ],
            outputs=[
                LoRASocket.Output(display_name="lora", tooltip="The trained concept LoRA."),
                io.Image.Output(display_name="loss_curve", tooltip="Losses and erasure by iteration."),
                io.String.Output(display_name="report", tooltip="What training did and cost, as JSON."),
                io.Image.Output(display_name="grid", tooltip="The base, the LoRA alone, and UnGuidance."),
                io.String.Output(
                    display_name="near",
                    tooltip="With `near_words`: the nouns nearest to the concept, one prompt per line. Those to keep "
                    "belong in `preserve` of the next training, those that mean the concept into `synonyms`.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: host.Model,
        concept: EncodedConcept,
        preset: str,
        preview_every: int = 10,
        grid_steps: int = 10,
        resume: ConceptLoRA | None = None,
        vae: host.Vae | None = None,
        **controls,
    ) -> io.NodeOutput:
        """Return the trained LoRA, its loss curve, a report and a preview grid."""
        settings = config.TrainingConfig(**controls) if preset == CUSTOM else config.preset(preset, **controls)
        progress = host.ProgressReporter(preview_every)
        trained = train_concept(
            model, concept, settings, resume=resume, progress=progress, rescue=save_interrupted,
            grid_steps=grid_steps, decode=host.decoder(model, vae),
        )  # fmt: skip
        try:
            return cls.output(trained, preset, settings, progress)
        except (Exception, host.Interrupted):  # in newer versions of ComfyUI the interrupt is a BaseException
            save_interrupted(trained.training)
            raise

    @classmethod
    def output(
        cls, trained: TrainedConcept, preset: str, settings: config.TrainingConfig, progress: host.ProgressReporter
    ) -> io.NodeOutput:
        """Return the node's outputs, with the status text and the picture that it shows."""
        history = trained.training.metrics.history
        curve = plots.loss_curve(history, 1 + settings.negative_guidance)
        grid = curve if trained.grid is None else trained.grid
        if trained.grid is not None:
            progress.show_result(grid)
        report = trained.report()
        summary = f"{report['iterations']} iterations in {report['seconds']:.0f} s, erasure {report['erasure']:.2f}"
        status = status_ui((summary, *trained.training.warnings, trained.problem), ui.PreviewImage(grid, cls=cls))
        return io.NodeOutput(
            trained.lora, curve, json_without_markup({"preset": preset, **report}, indent=1), grid,
            "\n".join(word.prompt for word in trained.near), ui=status,
        )  # fmt: skip


def save_interrupted(training: TrainingResult) -> None:
    """Save the LoRA of a training that was interrupted after its first iteration, and show on the node where.

    It goes to the loras folder, or to the output folder if that refuses it. Nothing is raised: the interrupt or error
    is still to be handled.
    """
    if not training.metrics.history:
        return
    trained_so_far = f"What was trained so far ({len(training.metrics.history)} iterations)"
    name, problems = save_where_possible(
        training.lora, "unguide/cancelled/concept", (host.new_lora_paths, host.new_output_paths)
    )
    if name:
        host.lasting_status_writer()("\n".join([f"{trained_so_far} is kept as {name}", *problems]))
    else:
        host.lasting_status_writer()(f"{trained_so_far} could not be kept: {'; '.join(problems)}")
