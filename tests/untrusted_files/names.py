"""Names in a workflow that are malformed, or lead out of the host's folders."""

import os
from pathlib import Path

from untrusted_files.builders import Table, named
from untrusted_files.corpus import unguide_lora


def link_a_lora(folder: Path) -> None:
    """A user's own link to a LoRA elsewhere."""
    (folder.parent / "elsewhere.safetensors").write_bytes(unguide_lora())
    (folder / "link.safetensors").symlink_to(folder.parent / "elsewhere.safetensors")


def link_a_folder(folder: Path) -> None:
    """A user's own link to a folder of LoRAs elsewhere."""
    (folder.parent / "elsewhere").mkdir()
    (folder / "linked").symlink_to(folder.parent / "elsewhere")


NEW = {
    "that climbs": "../../elsewhere", "that climbs later": "a/../../../elsewhere",
    "that climbs on Windows": r"..\..\x", "that is absolute": "/elsewhere", "with a drive": r"C:\elsewhere",
    "of a stream": "it:hidden", "of a device": "CON/it", "of a device with a suffix": "nul.it",
    "of a port": "unguide/COM1", "with a NUL": "it\0", "with a lone surrogate": "it\ud800",
    "with a line's end": "it\nit", "with a dot at its end": "a./it", "with a space at its end": "a /it",
    "of nothing": "", "of 5,000 characters": "x" * 5000, "of 2,500 folders": "x/" * 2500 + "x",
}  # fmt: skip
OLD = {"that climbs": "../secret.json", "that is absolute": "/etc/hostname", "with a NUL": "it\0.json",
       "with a lone surrogate": "it\ud800.json", "of 5,000 characters": "x" * 5000, "of nothing": ""}  # fmt: skip
LIST, LORA = ("input_name", "There is no file"), ("lora_name", "There is no LoRA file")
SAVE = ("new_lora_name", "use a name inside it")

CASES: Table = {f"to save, {kind}": (SAVE[0], named(name), SAVE[1]) for kind, name in NEW.items()}
CASES |= {f"of a list, {kind}": (LIST[0], named(name), LIST[1]) for kind, name in OLD.items()}
CASES |= {f"of a LoRA, {kind}": (LORA[0], named(name), LORA[1]) for kind, name in OLD.items()}
CASES |= {
    "of a list, a folder": (LIST[0], named("it", lambda folder: (folder / "it").mkdir()), LIST[1]),
    "of a list, a pipe": (LIST[0], named("it", lambda folder: os.mkfifo(folder / "it")), LIST[1]),
    "of a LoRA, a pipe": (LORA[0], named("it", lambda folder: os.mkfifo(folder / "it")), LORA[1]),
    "of a LoRA, a user's link": (LORA[0], named("link.safetensors", link_a_lora), ""),
    "to save, in a user's linked folder": (SAVE[0], named("linked/it", link_a_folder), ""),
    "of a preset, that climbs": ("preset_name", named("../demo_model/judges/judges"), "There is no preset"),
}
