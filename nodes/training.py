"""The trainer as a node."""

from comfy_api.latest import io, ui

from ..unguide_ops import figures, host, settings, targets
from ..unguide_ops.calibrate import calibrate
from ..unguide_ops.page import as_json
from ..unguide_ops.showcase import showcase
from ..unguide_ops.training import CANCELLED, Training, train
from .checked import CheckedNode
from .keeping import kept
from .sockets import CATEGORY, FORGET, ConceptSocket, LoRASocket, aliases, folded, seed_input, size_inputs
from .words import said

CUSTOM = "custom"
DEFAULT = settings.OBJECT


def _int(name: str, low: int, high: int, tooltip: str, default: int | None = None):
    default = getattr(DEFAULT, name) if default is None else default
    return io.Int.Input(name, default=default, min=low, max=high, optional=True, tooltip=tooltip)


def _float(name: str, low: float, high: float, step: float, tooltip: str):
    return io.Float.Input(
        name, default=getattr(DEFAULT, name), min=low, max=high, step=step, round=False, optional=True, tooltip=tooltip
    )


def _choice(name: str, options, tooltip: str):
    return io.Combo.Input(name, options=list(options), default=getattr(DEFAULT, name), optional=True, tooltip=tooltip)


def _switch(name: str, tooltip: str):
    return io.Boolean.Input(name, default=getattr(DEFAULT, name), optional=True, tooltip=tooltip)


CONTROLS = (
    _int("iterations", 1, 100_000, "Steps of the optimizer."),
    _float(
        "learning_rate", 1e-8, 100.0, 1e-5, "Of the optimizer, at its highest. With concept directions it is the share "
        "of each layer's output that an iteration moves, whatever the model: 0.02 suits 60 iterations. With random "
        "ones it is absolute: the paper's is 3e-5.",
    ),
    _choice("optimizer", settings.OPTIMIZERS, "torch's own. The paper's is Adam."),
    _choice("schedule", settings.SCHEDULES, "Course of the learning rate. The paper's is constant."),
    _int("rank", 1, 128, "Rank of the LoRA: how many directions it may change."),
    _float(
        "alpha", 0.01, 1000.0, 0.01, "Multiplier of the LoRA while training, as in the paper: not divided by the rank. "
        "Files are written in the usual convention, alpha x rank.",
    ),
    _choice(
        "targets", targets.CHOICES, "Which layers the LoRA hangs on. Cross-attention keys and values for objects and "
        "styles; all but cross-attention for nudity (the paper's choices). Automatic: keys and values of the "
        "text, in every family. Custom: those that match `pattern`.",
    ),
    _float(
        "negative_guidance", 0.0, 100.0, 0.1, "How far the LoRA is pushed beyond the reference, away from the target "
        "(g in the paper, which takes 2). 0: it draws what the reference prompt draws, and sampling with w = -1 does "
        "the pushing.",
    ),
    _float(
        "start_guidance", 1.0, 100.0, 0.1, "cfg of the unfinished pictures that the LoRA is trained on. 1 for models "
        "that are drawn without guidance (turbo, lightning); for Flux and Flux 2 it is always 1.",
    ),
    _int("steps", 2, 1000, "Steps of the unfinished pictures that the LoRA is trained on (the paper: 50)."),
    _int(
        "reuse", 1, 1000, "How many iterations one unfinished picture serves, at several of its noise levels. 1 is the "
        "paper's: a new one for each iteration, stopped at a random step.",
    ),
    _int("batch_size", 1, 64, "Noise levels an iteration looks at: more are steadier and need more memory."),
    _choice(
        "initialisation", settings.INITIALISATIONS, "What the LoRA listens to at first. Concept directions: what sets "
        "the concept's prompts apart from the preserved ones, so that others are left alone from the start. Random: "
        "the paper's.",
    ),
    _float("ridge", 1e-6, 10.0, 0.001, "How far the LoRA also listens to words close to the "
           "concept. Higher: more synonyms are forgotten, and more neighbours change."),
    _switch("train_synonyms", "Forget the concept's synonyms as well, by turns. The paper trains on the target alone."),
    _float(
        "retain_weight", 0.0, 1000.0, 0.1, "How strongly preserved prompts are kept as the base draws them. 0 is the "
        "paper's objective, under which the LoRA changes other prompts too.",
    ),
    _int("retain_prompts", 0, 64, "How many preserved prompts are looked at with each latent."),
)  # fmt: skip


class UnGuideTrainLoRA(CheckedNode):
    """Train a concept LoRA."""

    @classmethod
    def define_schema(cls):
        """Node schema."""
        return io.Schema(
            node_id="UnGuideTrainLoRA",
            display_name="UnGuide Train LoRA",
            category=CATEGORY,
            **aliases(*FORGET, "LECO", "ESD", "concept slider"),
            is_output_node=True,
            description="Trains a small LoRA under which the model, asked for the target prompt, predicts "
            "something else. The model itself is not changed. Cancel keeps what was trained so far as a file.",
            inputs=[
                io.Model.Input("model", tooltip="The model that shall forget."),
                ConceptSocket.Input("concept", tooltip="From UnGuide Concept, encoded by the same checkpoint's CLIP."),
                io.Combo.Input(
                    "preset",
                    options=[*settings.PRESETS, CUSTOM],
                    default="object",
                    tooltip="Sets all controls below `seed`, up to `retain_prompts`, at once. 'As in the paper' is the "
                    "published procedure, at fourteen times the cost. Custom: the controls count as they are, and "
                    "so a control that you change makes the preset custom.",
                ),
                *size_inputs("the pictures trained on: the model's native size"),
                seed_input("The same seed and settings give the same LoRA."),
                CONTROLS[0],
                *folded(
                    *CONTROLS[1:],
                    _switch(
                        "early_stop",
                        "Stop as soon as the target is gone and hardly any kept prompt is changed as much.",
                    ),
                    _switch(
                        "checkpointing",
                        "Compute activations twice instead of keeping them: less memory, more time. Done anyway where "
                        "memory is too small.",
                    ),
                    _int(
                        "preview_every",
                        0,
                        100_000,
                        default=10,
                        tooltip="Show what the target prompt looks like under the LoRA at most every so many "
                        "iterations. It costs nothing: these are the pictures trained on. 0: never.",
                    ),
                    _int(
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
                    tooltip="A LoRA to go on with, in place of a fresh "
                    "one. Its rank and alpha count, and those above do not.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="For a sharp grid; without it the grid is a rough preview."),
                *folded(
                    io.String.Input(
                        "pattern",
                        default=DEFAULT.pattern,
                        optional=True,
                        tooltip="With custom targets: a regular expression for the names of the layers, as "
                        "attn2.to_[kv]$. For model families that UnGuide does not know.",
                    )
                ),
            ],
            outputs=[
                LoRASocket.Output(display_name="lora", tooltip="The trained concept LoRA."),
                io.Image.Output(display_name="loss_curve", tooltip="Losses and erasure by iteration."),
                io.String.Output(display_name="report", tooltip="What training did and cost, as JSON."),
                io.Image.Output(display_name="grid", tooltip="The base, the LoRA alone, and UnGuidance."),
            ],
        )

    @classmethod
    def execute(cls, model, concept, preset, preview_every=10, grid_steps=10, resume=None, vae=None, **controls):
        """The trained LoRA, its loss curve, a report and a grid."""
        chosen = settings.TrainingSettings(**controls) if preset == CUSTOM else settings.preset(preset, **controls)
        watch = host.Watch(preview_every)
        trained = train(model, concept, chosen, resume=resume, watch=watch, rescue=keep)
        if trained.stopped == CANCELLED:
            keep(trained)
            raise host.Interrupted
        try:
            return cls.finish(model, concept, trained, preset, chosen, grid_steps, vae, watch)
        except (Exception, host.Interrupted):  # which newer hosts do not count among the exceptions
            keep(trained)
            raise

    @classmethod
    def finish(cls, model, concept, trained, preset, chosen, grid_steps, vae, watch):
        """Calibrate the LoRA's gate, and show what it does."""
        try:
            lora, calibrating = calibrate(model, trained.lora, concept, chosen.width, chosen.height)
            problem = ""
        except ValueError as error:  # a LoRA that does nothing yet: it can still be trained on
            lora, calibrating, problem = trained.lora, 0, str(error)
        curve = figures.loss_curve(trained.monitor.history, 1 + chosen.negative_guidance)
        latent = host.empty_latent(model, chosen.width, chosen.height)
        grid, cost = curve, 0
        if grid_steps:
            grid, cost = showcase(model, lora, concept, latent, grid_steps, host.decoder(model, vae))
            watch.last_picture(grid)
            lora.preview = grid[0].float().cpu()
        done = trained.report()
        words = f"{done['iterations']} iterations in {done['seconds']:.0f} s, erasure {done['erasure']:.2f}"
        rest = {"calibration": problem or "done", "evaluations_calibration": calibrating, "evaluations_grid": cost}
        report = as_json({"preset": preset, **done, **rest}, indent=1)
        shown = said((words, *trained.warnings, problem), ui.PreviewImage(grid, cls=cls))
        return io.NodeOutput(lora, curve, report, grid, ui=shown)


def keep(trained: Training) -> None:
    """Save a LoRA whose training ended early, and say where; not before the first iteration is done.

    Where the loras folder does not take it, the output folder has to. It raises nothing: another error is on its way.
    """
    if not trained.monitor.history:
        return
    so_far = f"What was trained so far ({len(trained.monitor.history)} iterations)"
    name, problems = kept(trained.lora, "unguide/cancelled/concept", (host.new_lora_paths, host.new_output_paths))
    if name:
        host.keep_on_node()("\n".join([f"{so_far} is kept as {name}", *problems]))
    else:
        host.keep_on_node()(f"{so_far} could not be kept: {'; '.join(problems)}")
