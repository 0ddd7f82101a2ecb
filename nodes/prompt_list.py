"""The node that reads a list of prompts from a file."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from comfy_api.latest import io, ui

from ..unguide_ops import host
from ..unguide_ops.files.prompt_list import LISTS, SUFFIXES, Row, read_prompt_list, shipped
from .checked import CheckedNode, FileOptions
from .inputs import CATEGORY, seed_input

FROM_PACK = " (ships with UnGuide)"
MAX_LINES = 20  # problems or sizes shown on the node


class UnGuidePromptList(CheckedNode):
    """Read rows of a prompt list, for each of which the following nodes run once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Node schema."""
        return io.Schema(
            node_id="UnGuidePromptList",
            display_name="UnGuide Prompt List",
            category=CATEGORY,
            description="Reads prompts from a CSV or JSON file. Downstream nodes run once for each row.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=FileOptions([*(name + FROM_PACK for name in shipped()), *host.input_files(*SUFFIXES)]),
                    tooltip="A file in the input folder. CSV: a column prompt, and optionally evaluation_seed and "
                    "evaluation_guidance, as in I2P. JSON: an array of prompts, or a concept's prompt file.",
                ),
                io.Int.Input("offset", default=0, min=0, max=10_000_000, tooltip="How many rows to skip."),
                io.Int.Input(
                    "limit", default=10, min=1, max=10_000, tooltip="How many rows to draw at most in this run."
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
    def fingerprint_inputs(cls, file: str, **kwargs) -> str:
        """Return a text that differs once the file has changed."""
        return host.file_version(path_of(file))

    @classmethod
    def execute(cls, file: str, offset: int, limit: int, seed: int, cfg: float) -> io.NodeOutput:
        """Return prompts, seeds, guidance scales, indices and names of the rows, a list each."""
        rows: list[Row] = []
        problems: list[str] = []
        for entry in islice(read_prompt_list(path_of(file), offset), limit):
            if isinstance(entry, Row):
                rows.append(entry)
            else:
                problems.append(str(entry))
        if not rows:
            reason = "\n".join(problems[:MAX_LINES]) or "it has no rows there: lower `offset`"
            raise ValueError(f"{file}: no row is left to draw. {reason}")
        sizes = sorted({f"{row.width} x {row.height}" for row in rows if row.width and row.height})
        size = f"made for {', '.join(sizes[:MAX_LINES])} pixels: set that where the size is set"
        status = [f"{len(rows)} rows", *([size] if sizes else []), *(f"left out: {it}" for it in problems[:MAX_LINES])]
        if len(problems) > MAX_LINES:
            status.append(f"and {len(problems) - MAX_LINES} more")
        return io.NodeOutput(
            [row.prompt for row in rows],
            [(seed + row.index) % 2**64 if row.seed is None else row.seed for row in rows],
            [cfg if row.guidance is None else row.guidance for row in rows],
            [row.index for row in rows],
            [row.name for row in rows],
            ui=ui.PreviewText("\n".join(status)),
        )


def path_of(file: str) -> Path:
    """The path of the file for a choice of the combo."""
    name = file.removesuffix(FROM_PACK)
    return LISTS / name if file != name and name in shipped() else host.input_path(file)
