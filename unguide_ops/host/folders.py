"""The host's files: its LoRAs, and what users put into its input folder."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths


def version_of(path: Path) -> str:
    """Differs when a file has changed: for a node's fingerprint."""
    status = path.stat()
    return f"{path} {status.st_mtime_ns} {status.st_size}"


def lora_files() -> list[str]:
    """The LoRA files the host's loaders list."""
    return folder_paths.get_filename_list("loras")


def lora_path(name: str) -> Path:
    """The full path of a listed LoRA file."""
    return Path(folder_paths.get_full_path_or_raise("loras", name))


def new_lora_path(filename_prefix: str) -> tuple[Path, str]:
    """Where to save the next LoRA with this prefix (sub/folder/name): full path, and the name the loaders list.

    Raises ValueError for a prefix that leads out of the loras folder.
    """
    loras = folder_paths.get_folder_paths("loras")[0]
    if not Path(loras, filename_prefix).resolve().is_relative_to(Path(loras).resolve()):
        raise ValueError(
            f"`filename_prefix` {filename_prefix!r} leads outside the loras folder: use a name inside it, such as "
            f"'unguide/concept'."
        )
    folder, filename, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, loras)
    path = Path(folder) / f"{filename}_{counter:05}_.safetensors"
    return path, os.path.relpath(path, loras)


def input_files(*suffixes: str) -> list[str]:
    """The files in the host's input folder that end so."""
    return sorted(it.name for it in Path(folder_paths.get_input_directory()).iterdir() if it.suffix.lower() in suffixes)


def input_path(name: str) -> Path:
    """The full path of a file in the host's input folder. Raises ValueError when it is not there."""
    folder = Path(folder_paths.get_input_directory()).resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise ValueError(f"There is no {name!r} in the input folder ({folder}): put the file there.")
    return path


OPEN_CLIP = "open_clip"
folder_paths.add_model_folder_path(OPEN_CLIP, os.path.join(folder_paths.models_dir, OPEN_CLIP))


def clip_files() -> list[str]:
    """The CLIP models in the host's models/open_clip."""
    return [name for name in folder_paths.get_filename_list(OPEN_CLIP) if name.lower().endswith(".safetensors")]


def clip_path(name: str) -> Path:
    """The full path of a CLIP model's file. Raises ValueError that says where to put it when it is not there."""
    found = folder_paths.get_full_path(OPEN_CLIP, name)
    if found is None:
        raise ValueError(
            f"There is no CLIP model {name!r}: put its weights, as {Path(name).name}, into "
            f"{folder_paths.get_folder_paths(OPEN_CLIP)[0]}. The file is named after open_clip's architecture."
        )
    return Path(found)
