"""The names of columns in public prompt lists, and how spreadsheets write the numbers in them."""

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
"""A field of a row -> the names that lists have for its column; if a list has several of them, the first counts.

`evaluation_` columns are what papers on forgetting sample I2P with, `sd_` columns what I2P's authors found on the web.
`adv_prompt` is from MMA-Diffusion and SneakyPrompt, `caption` from COCO, `Prompts` from DrawBench, `cfg` from
DiffusionDB.
"""
SIZE_FIELDS = ("width", "height")
THOUSANDS = re.compile(r"\d{1,3}([,' \u00a0\u202f\u2019]\d{3})+")
ZERO_DECIMALS = re.compile(r"[.,]0*$")


def normalised(name: str) -> str:
    """A column's name without case, spaces and signs: `CFG Scale`, `cfg_scale` and `cfgScale` are one."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


NORMALISED_COLUMNS = {field: [normalised(name) for name in names] for field, names in COLUMNS.items()}


def has_prompt(columns: list[str]) -> bool:
    """Whether one of a list's columns holds prompts."""
    return any(normalised(name) in NORMALISED_COLUMNS["prompt"] for name in columns)


def split_fields(cells: Mapping) -> tuple[dict[str, tuple[str, Any]], dict]:
    """A row's fields, and its other cells by column.

    The fields are "prompt", "seed", ... -> (the column's own name, the cell). If a cell is empty, the field is looked
    for under its next name. The other cells include those of the size.
    """
    columns: dict[str, str] = {}  # the list's own names by normalised name
    for name in cells:
        columns.setdefault(normalised(name), name)
    fields: dict[str, tuple[str, Any]] = {}
    for field, names in NORMALISED_COLUMNS.items():
        candidates = [columns[name] for name in names if name in columns]
        if candidates:
            name = next((it for it in candidates if not is_empty(cells[it])), candidates[0])
            fields[field] = (name, cells[name])
    used = {name for field, (name, _) in fields.items() if field not in SIZE_FIELDS}
    return fields, {name: cell for name, cell in cells.items() if name not in used}


def is_empty(cell: object) -> bool:
    """Whether a cell is None, or a string of nothing but white space."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def whole_number(cell: object) -> object:
    """A cell without what spreadsheets add to whole numbers: "42" for `42.0`, "1234567" for `1,234,567`."""
    if isinstance(cell, bool):
        return repr(cell)  # else True would pass as the number 1
    if not isinstance(cell, str):
        return cell
    text = cell.strip()
    return re.sub(r"\D", "", text) if THOUSANDS.fullmatch(text) else ZERO_DECIMALS.sub("", text)


def size_number(cell: object) -> object:
    """The `whole_number` of a picture's width or height; None for an empty cell."""
    return None if is_empty(cell) else whole_number(cell)


def seed_number(cell: object) -> object:
    """The `whole_number` of a seed; None for an empty cell and for -1, which other tools write for a random seed."""
    number = size_number(cell)
    return None if number in ("-1", -1) else number


def decimal_number(cell: object) -> object:
    """A cell with a decimal point in the place of a decimal comma (`7,5`); None for an empty cell."""
    if is_empty(cell):
        return None
    if isinstance(cell, bool):
        return repr(cell)
    return cell.strip().replace(",", ".") if isinstance(cell, str) and cell.count(",") == 1 else cell
