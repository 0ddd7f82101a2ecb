"""Names in a workflow that are none, or lead elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from dev.reliability.hostile.making import Table, named
from dev.reliability.seeds import ours


def link(folder: Path) -> None:
    """A user's own: a LoRA that lies elsewhere."""
    (folder.parent / "elsewhere.safetensors").write_bytes(ours())
    (folder / "link.safetensors").symlink_to(folder.parent / "elsewhere.safetensors")


def linked(folder: Path) -> None:
    """A user's own: a folder of LoRAs that lies elsewhere."""
    (folder.parent / "elsewhere").mkdir()
    (folder / "linked").symlink_to(folder.parent / "elsewhere")


def table() -> Table:
    """All of them."""
    prefixes = {
        "that climbs": "../../elsewhere", "that climbs later": "a/../../../elsewhere",
        "that climbs on Windows": r"..\..\x", "that is absolute": "/elsewhere", "with a drive": r"C:\elsewhere",
        "of a stream": "it:hidden",
        "of a device": "CON/it", "of a device with a suffix": "nul.it", "of a port": "unguide/COM1",
        "with a NUL": "it\0", "with a lone surrogate": "it\ud800", "with a line's end": "it\nit",
        "with a dot at its end": "a./it", "with a space at its end": "a /it", "of nothing": "",
        "of 5,000 characters": "x" * 5000, "of 2,500 folders": "x/" * 2500 + "x",
    }  # fmt: skip
    read = {"that climbs": "../secret.json", "that is absolute": "/etc/hostname", "with a NUL": "it\0.json",
            "with a lone surrogate": "it\ud800.json", "of 5,000 characters": "x" * 5000, "of nothing": ""}  # fmt: skip
    its = {f"to save, {name}": ("new_lora_name", named(prefix), "use a name inside it")
           for name, prefix in prefixes.items()}  # fmt: skip
    its |= {f"of a list, {name}": ("input_name", named(it), "There is no file") for name, it in read.items()}
    its |= {f"of a LoRA, {name}": ("lora_name", named(it), "There is no LoRA file") for name, it in read.items()}
    its |= {
        "of a list, a folder": ("input_name", named("it", lambda it: (it / "it").mkdir()), "There is no file"),
        "of a list, a pipe": ("input_name", named("it", lambda it: os.mkfifo(it / "it")), "There is no file"),
        "of a LoRA, a pipe": ("lora_name", named("it", lambda it: os.mkfifo(it / "it")), "There is no LoRA file"),
        "of a LoRA, a user's link": ("lora_name", named("link.safetensors", link), ""),
        "to save, in a user's linked folder": ("new_lora_name", named("linked/it", linked), ""),
        "of a preset, that climbs": ("preset_name", named("../dev/judge/judges"), "There is no preset"),
    }
    return its
