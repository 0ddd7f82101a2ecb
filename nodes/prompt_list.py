"""A list of prompts as a node."""

from itertools import islice

from comfy_api.latest import io, ui

from ..unguide_ops import host
from ..unguide_ops.prompt_lists import LISTS, SUFFIXES, Row, read_prompt_list, shipped
from .checked import CheckedNode, Files
from .sockets import CATEGORY, seed_input

FROM_PACK = " (ships with UnGuide)"
TOLD = 20  # problems shown on the node


class UnGuidePromptList(CheckedNode):
    """Rows of a file, one after the other, to the nodes behind it."""

    @classmethod
    def define_schema(cls):
        """Node schema."""
        return io.Schema(
            node_id="UnGuidePromptList",
            display_name="UnGuide Prompt List",
            category=CATEGORY,
            description="Reads prompts from a CSV or JSON file. The nodes behind it run once for each row.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=Files([*(name + FROM_PACK for name in shipped()), *host.input_files(*SUFFIXES)]),
                    tooltip="A file in the input folder. CSV: a column prompt, and if you like evaluation_seed and "
                    "evaluation_guidance, as in I2P. JSON: an array of prompts, or a concept's prompt file.",
                ),
                io.Int.Input("offset", default=0, min=0, max=10_000_000, tooltip="So many rows are skipped."),
                io.Int.Input(
                    "limit", default=10, min=1, max=10_000, tooltip="So many rows at most are drawn in this run."
                ),
                seed_input("For rows without a seed: this, plus the row's index."),
                io.Float.Input(
                    "cfg", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="For rows without an evaluation_guidance."
                ),
            ],
            outputs=[
                io.String.Output(display_name="prompt", is_output_list=True, tooltip="For CLIP Text Encode."),
                io.Int.Output(display_name="seed", is_output_list=True, tooltip="For the sampler's seed."),
                io.Float.Output(display_name="guidance", is_output_list=True, tooltip="For the sampler's cfg."),
                io.Int.Output(display_name="index", is_output_list=True, tooltip="The row's number, from 0."),
                io.String.Output(
                    display_name="name",
                    is_output_list=True,
                    tooltip="For Save Image's filename_prefix: unique, and safe on any system.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file, **kwargs):
        """A changed file is read again."""
        return host.version_of(path_of(file))

    @classmethod
    def execute(cls, file, offset, limit, seed, cfg) -> io.NodeOutput:
        """The lists."""
        rows: list[Row] = []
        problems: list[str] = []
        for it in islice(read_prompt_list(path_of(file), offset), limit):
            if isinstance(it, Row):
                rows.append(it)
            else:
                problems.append(str(it))
        if not rows:
            why = "\n".join(problems[:TOLD]) or "it has no rows there: lower `offset`"
            raise ValueError(f"{file}: no row is left to draw. {why}")
        sizes = sorted({f"{it.width} x {it.height}" for it in rows if it.width and it.height})
        size = f"made for {', '.join(sizes[:TOLD])} pixels: set that where the size is set"
        told = [f"{len(rows)} rows", *([size] if sizes else []), *(f"left out: {it}" for it in problems[:TOLD])]
        if len(problems) > TOLD:
            told.append(f"and {len(problems) - TOLD} more")
        return io.NodeOutput(
            [it.prompt for it in rows],
            [(seed + it.index) % 2**64 if it.seed is None else it.seed for it in rows],
            [cfg if it.guidance is None else it.guidance for it in rows],
            [it.index for it in rows],
            [it.name for it in rows],
            ui=ui.PreviewText("\n".join(told)),
        )


def path_of(file: str):
    """Where the combo's entry lies."""
    name = file.removesuffix(FROM_PACK)
    return LISTS / name if file != name and name in shipped() else host.input_path(file)
