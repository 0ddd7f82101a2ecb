"""The host's files: its LoRAs, and what users put into its input folder."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ..strangers import brief

LOGGER = logging.getLogger("unguide")
LONGEST_NAME = 200  # bytes; file systems take 255 for a file's name, and a number and a suffix are added
UNSAFE = re.compile(
    r"""[<>:"|?*\x00-\x1f\x7f-\x9f\ud800-\udfff]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)|^$""", re.IGNORECASE
)
"""Of a file or folder: what Windows does not take, or takes for something else (a device, a stream of another file)."""


def version_of(path: Path) -> str:
    """Differs when a file has changed: for a node's fingerprint."""
    status = path.stat()
    return f"{path} {status.st_mtime_ns} {status.st_size}"


def lora_files() -> list[str]:
    """The LoRA files the host's loaders list."""
    return _listed("loras")


def _listed(kind: str) -> list[str]:
    """The host's list of its files of a kind; nothing where it cannot be made, as the nodes are there all the same."""
    try:
        return folder_paths.get_filename_list(kind)
    except OSError as error:
        LOGGER.warning("The folders of %s cannot be listed: %s", kind, error)
        return []


def lora_path(name: str) -> Path:
    """The full path of a listed LoRA file; a user's link may lead anywhere. Raises ValueError if there is none."""
    found = folder_paths.get_full_path("loras", name)
    if found is None:
        raise ValueError(
            f"There is no LoRA file {brief(name)!r}: put it into {folder_paths.get_folder_paths('loras')[0]}, or "
            f"choose another."
        )
    return Path(found)


def new_lora_path(filename_prefix: str) -> tuple[Path, str]:
    """The first of `new_lora_paths`."""
    return next(new_lora_paths(filename_prefix))


def new_lora_paths(filename_prefix: str) -> Iterator[tuple[Path, str]]:
    """Where to save the next LoRA with this prefix (sub/folder/name): full path, and the name the loaders list; and the
    names after that, as somebody else may take it meanwhile.

    Raises ValueError for a prefix that leads out of the loras folder, or is no name on some system: files travel.
    """
    loras = folder_paths.get_folder_paths("loras")[0]
    parts = re.split(r"[/\\]", filename_prefix)
    if any(map(UNSAFE.search, parts)) or len(filename_prefix.encode()) > LONGEST_NAME:
        raise ValueError(
            f"`filename_prefix` {brief(filename_prefix)!r} leads outside the loras folder, or is no name on some "
            f"system: use a name inside it, such as 'unguide/concept'."
        )
    for path in _new_paths(filename_prefix, loras):
        yield path, os.path.relpath(path, loras)


def new_output_paths(filename_prefix: str) -> Iterator[tuple[Path, str]]:
    """The same in the host's output folder; the name is the full path."""
    for path in _new_paths(filename_prefix, folder_paths.get_output_directory()):
        yield path, str(path)


def _new_paths(filename_prefix: str, root: str) -> Iterator[Path]:
    """The next free name with this prefix (sub/folder/name) below a folder, of which each part may be a user's link,
    and those after it.

    The host is asked for one part at a time: of a whole prefix, newer ones refuse to follow links.
    """
    *folders, name = re.split(r"[/\\]", filename_prefix)
    for folder in folders:
        root = os.path.join(root, folder_paths.get_save_image_path(folder, os.path.realpath(root))[1])
    _, filename, counter, _, _ = folder_paths.get_save_image_path(name, os.path.realpath(root))
    for number in itertools.count(counter):
        yield Path(root) / f"{filename}_{number:05}_.safetensors"


def input_files(*suffixes: str) -> list[str]:
    """The files in the host's input folder that end so."""
    folder = folder_paths.get_input_directory()
    try:
        names = os.listdir(folder)
    except OSError as error:  # the nodes are there all the same
        LOGGER.warning("The input folder (%s) cannot be listed: %s", folder, error.strerror)
        return []
    known = [it for it in names if Path(it).suffix.lower() in suffixes]
    return sorted(it for it in known if os.path.isfile(os.path.join(folder, it)))


def input_path(name: str) -> Path:
    """The full path of a file in the host's input folder; it may be a link. Raises ValueError for other things."""
    folder = os.path.abspath(folder_paths.get_input_directory())
    path = os.path.abspath(os.path.join(folder, name))
    if not Path(path).is_relative_to(folder) or not os.path.isfile(path):
        raise ValueError(f"There is no file {brief(name)!r} in the input folder ({folder}): put it there.")
    return Path(path)


OPEN_CLIP = "open_clip"
folder_paths.add_model_folder_path(OPEN_CLIP, os.path.join(folder_paths.models_dir, OPEN_CLIP))


def clip_files() -> list[str]:
    """The CLIP models in the host's models/open_clip."""
    return [name for name in _listed(OPEN_CLIP) if name.lower().endswith(".safetensors")]


def clip_path(name: str) -> Path:
    """The full path of a CLIP model's file. Raises ValueError that says where to put it when it is not there."""
    found = folder_paths.get_full_path(OPEN_CLIP, name)
    if found is None:
        raise ValueError(
            f"There is no CLIP model {name!r}: put its weights, as {Path(name).name}, into "
            f"{folder_paths.get_folder_paths(OPEN_CLIP)[0]}. The file is named after open_clip's architecture."
        )
    return Path(found)
