"""What the columns of public prompt lists are called, and how spreadsheets write the numbers in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

COLUMNS = {
    "prompt": ("prompt", "prompts", "positive_prompt", "adv_prompt", "adversarial_prompt", "caption", "captions"),
    "seed": ("evaluation_seed", "eval_seed", "seed", "sd_seed", "random_seed", "noise_seed", "image_seed"),
    "guidance": ("evaluation_guidance", "evaluation_guidance_scale", "eval_guidance", "guidance", "guidance_scale",
                 "sd_guidance_scale", "sd_guidance", "cfg", "cfg_scale"),
    "width": ("evaluation_width", "width", "sd_image_width", "image_width"),
    "height": ("evaluation_height", "height", "sd_image_height", "image_height"),
}  # fmt: skip
"""What a row is drawn with -> the names that lists have for it; where a list has several, the first is meant.

`evaluation_` is what papers on forgetting draw I2P with, `sd_` what its authors found on the web. `adv_prompt` is what
MMA-Diffusion and SneakyPrompt call theirs, `caption` COCO, `Prompts` DrawBench, `cfg` DiffusionDB.
"""
SIZE = ("width", "height")
THOUSANDS = re.compile(r"\d{1,3}([,' \u00a0\u202f\u2019]\d{3})+")
ZEROS = re.compile(r"[.,]0*$")


def plain(name: str) -> str:
    """A column's name without case, spaces and signs: `CFG Scale`, `cfg_scale` and `cfgScale` are one."""
    return "".join(it for it in name.lower() if it.isalnum())


PLAIN = {part: [plain(name) for name in names] for part, names in COLUMNS.items()}


def has_prompt(columns: list[str]) -> bool:
    """Whether one of a list's columns holds prompts."""
    return any(plain(it) in PLAIN["prompt"] for it in columns)


def parts_of(cells: Mapping) -> tuple[dict[str, tuple[str, Any]], dict]:
    """A row's cells by what they say: "prompt", "seed", ... -> (the column's own name, the cell); and its other cells,
    those of the size among them.

    An empty cell says nothing: the next name is looked under.
    """
    names: dict[str, str] = {}
    for name in cells:
        names.setdefault(plain(name), name)
    parts: dict[str, tuple[str, Any]] = {}
    for part, known in PLAIN.items():
        its = [names[it] for it in known if it in names]
        if its:
            name = next((it for it in its if not is_empty(cells[it])), its[0])
            parts[part] = (name, cells[name])
    used = {name for part, (name, _) in parts.items() if part not in SIZE}
    return parts, {name: it for name, it in cells.items() if name not in used}


def is_empty(cell: object) -> bool:
    """Whether a cell says nothing."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def whole_number(cell: object) -> object:
    """A cell as spreadsheets and tables write whole numbers (`42.0`, `1,234,567`): 42, 1234567; any other as it is."""
    if isinstance(cell, bool):
        return repr(cell)  # no number, though Python has it for one
    if not isinstance(cell, str):
        return cell
    text = cell.strip()
    return re.sub(r"\D", "", text) if THOUSANDS.fullmatch(text) else ZEROS.sub("", text)


def size_number(cell: object) -> object:
    """The same for a picture's side; empty: none."""
    return None if is_empty(cell) else whole_number(cell)


def seed_number(cell: object) -> object:
    """The same for a seed; -1, with which other tools ask for any, is none."""
    number = size_number(cell)
    return None if number in ("-1", -1) else number


def decimal_number(cell: object) -> object:
    """A cell with a decimal comma (`7,5`) as with a point; empty: none."""
    if is_empty(cell):
        return None
    if isinstance(cell, bool):
        return repr(cell)
    return cell.strip().replace(",", ".") if isinstance(cell, str) and cell.count(",") == 1 else cell
