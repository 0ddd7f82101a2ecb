"""What of the pack opens what strangers share, by name; each takes a path, or a folder of the host and a name in it."""

from __future__ import annotations

from functools import cache
from itertools import islice
from pathlib import Path

ROWS = 1000  # of a prompt list that a run of its node may take


@cache
def model():
    """The embedded one: MODEL, CLIP."""
    import torch
    from unguide.demo_model import load_demo_model

    with torch.inference_mode():
        return load_demo_model()[:2]


@cache
def places():
    """Its layers, for LoRAs made elsewhere."""
    from unguide.unguide_ops import host

    return host.places(model()[0])


@cache
def fingerprint() -> str:
    """What a calibration for it names."""
    from unguide.unguide_ops import host

    return host.fingerprint(model()[0])


def lora(path: str):
    """UnGuide Load LoRA."""
    from unguide.unguide_ops.files import load_lora

    return load_lora(Path(path))


def imported(path: str):
    """UnGuide Import LoRA."""
    from unguide.unguide_ops.importing import import_lora

    return import_lora(Path(path), places())


def drawn(path: str):
    """UnGuide Load LoRA, and a picture with it. Raises ArithmeticError if that is none."""
    import torch
    from unguide.unguide_ops import host
    from unguide.unguide_ops.steering import SteeringSettings
    from unguide.unguide_ops.unguidance import unguide

    with torch.inference_mode():
        base, clip = model()
        said = host.encode(clip, "a photo of the cat")
        asked = SteeringSettings(w=None if lora(path).calibration else -1.0)
        latent = {"samples": host.empty_latent(base, 64, 64)}
        sampled = host.ksample(unguide(base, lora(path), asked), 0, 3, 7.5, "euler", "normal", said, said, latent, 1.0)
        if not sampled["samples"].isfinite().all():
            raise ArithmeticError("the picture holds what is no number")
        return sampled


def concept(path: str):
    """UnGuide Concept, with a prompt file."""
    from unguide.unguide_ops.concept import read_prompt_file

    return read_prompt_file(Path(path)).kept


def prompt_list(path: str):
    """UnGuide Prompt List. Raises ValueError if no row is left."""
    from unguide.unguide_ops.prompt_lists import Row, read_prompt_list

    found = list(islice(read_prompt_list(Path(path)), ROWS))
    if not any(isinstance(it, Row) for it in found):
        raise ValueError(f"{Path(path).name}: {found[0] if found else 'it has no rows'}")
    return found


def lora_name(folder: str, name: str):
    """A name from a workflow, of a LoRA in the host's folder."""
    import folder_paths
    from unguide.unguide_ops import host

    folder_paths.folder_names_and_paths["loras"] = ([folder], {".safetensors"})
    return lora(str(host.lora_path(name)))


def new_lora_name(folder: str, prefix: str):
    """A `filename_prefix` from a workflow, below the host's LoRAs."""
    import folder_paths
    from unguide.unguide_ops import host

    folder_paths.folder_names_and_paths["loras"] = ([folder], {".safetensors"})
    return host.new_lora_path(prefix)


def input_name(folder: str, name: str):
    """A name from a workflow, of a file in the host's input folder."""
    import folder_paths
    from unguide.unguide_ops import host

    folder_paths.input_directory = folder
    return host.input_path(name).read_bytes()


def preset_name(_: str, name: str):
    """A name from a workflow, of a concept that ships."""
    from unguide.unguide_ops.concept import concept_from

    return concept_from(name, "", "", "", "")


PARSERS = {"lora": lora, "imported": imported, "drawn": drawn, "concept": concept, "prompt_list": prompt_list,
           "lora_name": lora_name, "new_lora_name": new_lora_name, "input_name": input_name,
           "preset_name": preset_name}  # fmt: skip
