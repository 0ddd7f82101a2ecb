"""What in the pack opens other people's files: functions of a path, or of a folder of the host and a name in it."""

from functools import cache
from itertools import islice
from pathlib import Path

import folder_paths
import torch
from unguide.demo_model.loader import load_demo_model
from unguide.unguide_ops import host
from unguide.unguide_ops.concept import concept_from, read_prompt_file
from unguide.unguide_ops.files.importers import import_lora
from unguide.unguide_ops.files.lora_file import load_lora
from unguide.unguide_ops.files.prompt_list import Row, read_prompt_list
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide

ROWS = 1000  # of a prompt list that a run of its node may take


@cache
def demo():
    """MODEL and CLIP of the embedded model, the slices of its layers, and its fingerprint in calibrations."""
    with torch.inference_mode():
        model, clip, _ = load_demo_model()
        return model, clip, host.layer_slices(model), host.fingerprint(model)


def draw(path: Path) -> None:
    """Draw a picture with a LoRA. Raises ArithmeticError if it is NaN or infinite."""
    with torch.inference_mode():
        model, clip, *_ = demo()
        prompt = host.encode(clip, "a photo of the cat")
        latent = {"samples": host.empty_latent(model, 64, 64)}
        lora = load_lora(path)
        model = unguide(model, lora, SteeringConfig(w=None if lora.calibration else -1.0))
        sampled = host.ksample(model, 0, 3, 7.5, "euler", "normal", prompt, prompt, latent, 1.0)["samples"]
        if not sampled.isfinite().all():
            raise ArithmeticError("the picture is NaN or infinite")


def read_list(path: Path) -> None:
    """Read a prompt list. Raises ValueError if it has no rows."""
    rows = list(islice(read_prompt_list(path), ROWS))
    if not any(isinstance(row, Row) for row in rows):
        raise ValueError(f"{path.name}: {rows[0] if rows else 'it has no rows'}")


def use_folder(folder: Path) -> None:
    """Make a folder the host's folder of LoRAs, and of input files."""
    folder_paths.folder_names_and_paths["loras"] = ([str(folder)], {".safetensors"})
    folder_paths.input_directory = str(folder)


FILES = {
    "lora": load_lora,
    "imported": lambda path: import_lora(path, demo()[2]),
    "concept": lambda path: read_prompt_file(path).preserved,
    "prompt_list": read_list,
}
"""Those that open a single file, which their errors name."""
PARSERS = {
    **FILES,
    "drawn": draw,
    "lora_name": lambda folder, name: use_folder(folder) or load_lora(Path(host.lora_path(name))),
    "new_lora_name": lambda folder, prefix: use_folder(folder) or next(host.new_lora_paths(prefix)),
    "input_name": lambda folder, name: use_folder(folder) or host.input_path(name).read_bytes(),
    "preset_name": lambda folder, name: concept_from(name, "", "", "", ""),
}
