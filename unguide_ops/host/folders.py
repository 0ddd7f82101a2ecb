"""The host's folders: paths and lists of LoRAs, input and output files, CLIP models."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ..safe_text import printable

LOGGER = logging.getLogger("unguide")
MAX_PREFIX = 200  # bytes; file systems allow 255 for a file's name, and a number and a suffix are added
UNSAFE = re.compile(
    r"""[<>:"|?*\x00-\x1f\x7f-\x9f\ud800-\udfff]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)|^$""", re.IGNORECASE
)
"""Found in names that Windows refuses for a file or folder, or takes for a device or a stream of another file."""


def file_version(path: Path) -> str:
    """A text that differs once a file has changed, for a node's `fingerprint_inputs`."""
    status = path.stat()
    return f"{path} {status.st_mtime_ns} {status.st_size}"


def lora_files() -> list[str]:
    """The names of the LoRA files, as the host's loaders list them."""
    return _listed("loras")


def _listed(kind: str) -> list[str]:
    """The host's list of the models of a kind; empty, with a warning in the log, if the folders are unreadable."""
    try:
        return folder_paths.get_filename_list(kind)
    except OSError as error:
        LOGGER.warning("The folders of %s cannot be listed: %s", kind, error)
        return []


def lora_path(name: str) -> Path:
    """The full path of a listed LoRA file, or of a link to one. Raises ValueError if it does not exist."""
    path = folder_paths.get_full_path("loras", name)
    if path is None:
        raise ValueError(
            f"There is no LoRA file {printable(name)!r}: put it into {folder_paths.get_folder_paths('loras')[0]}, or "
            f"choose another."
        )
    return Path(path)


def new_lora_paths(filename_prefix: str) -> Iterator[tuple[Path, str]]:
    """Free paths for a new LoRA with this prefix (sub/folder/name), and the names under which loaders will list it.

    There are several, since another process may take the first one. Raises ValueError for a prefix that leads out of
    the loras folder, or that some operating system refuses as a name: files are moved between systems.
    """
    loras = folder_paths.get_folder_paths("loras")[0]
    parts = re.split(r"[/\\]", filename_prefix)
    if any(map(UNSAFE.search, parts)) or len(filename_prefix.encode()) > MAX_PREFIX:
        raise ValueError(
            f"`filename_prefix` {printable(filename_prefix)!r} leads outside the loras folder, or is not a valid "
            f"name on some systems: use a name inside it, such as 'unguide/concept'."
        )
    for path in _new_paths(filename_prefix, loras):
        yield path, os.path.relpath(path, loras)


def new_output_paths(filename_prefix: str) -> Iterator[tuple[Path, str]]:
    """Free paths for a new file with this prefix in the host's output folder, and the same paths as text."""
    for path in _new_paths(filename_prefix, folder_paths.get_output_directory()):
        yield path, str(path)


def _new_paths(filename_prefix: str, root: str) -> Iterator[Path]:
    """Free paths with this prefix (sub/folder/name) below a folder; any part may be a link of the user's.

    The host resolves one part at a time, since newer hosts do not follow links inside a prefix.
    """
    *folders, name = re.split(r"[/\\]", filename_prefix)
    for folder in folders:
        root = os.path.join(root, folder_paths.get_save_image_path(folder, os.path.realpath(root))[1])
    _, filename, counter, _, _ = folder_paths.get_save_image_path(name, os.path.realpath(root))
    for number in itertools.count(counter):
        yield Path(root) / f"{filename}_{number:05}_.safetensors"


def input_files(*suffixes: str) -> list[str]:
    """The names of the files in the host's input folder that have one of these suffixes (lower case), sorted."""
    folder = folder_paths.get_input_directory()
    try:
        names = os.listdir(folder)
    except OSError as error:
        LOGGER.warning("The input folder (%s) cannot be listed: %s", folder, error.strerror)
        return []
    matching = [name for name in names if Path(name).suffix.lower() in suffixes]
    return sorted(name for name in matching if os.path.isfile(os.path.join(folder, name)))


def input_path(name: str) -> Path:
    """The full path of a file, or of a link to one, in the host's input folder. Raises ValueError for anything else."""
    folder = os.path.abspath(folder_paths.get_input_directory())
    path = os.path.abspath(os.path.join(folder, name))
    if not Path(path).is_relative_to(folder) or not os.path.isfile(path):
        raise ValueError(f"There is no file {printable(name)!r} in the input folder ({folder}): put it there.")
    return Path(path)


OPEN_CLIP = "open_clip"
folder_paths.add_model_folder_path(OPEN_CLIP, os.path.join(folder_paths.models_dir, OPEN_CLIP))


def clip_files() -> list[str]:
    """The names of the CLIP models (safetensors) in the host's folder models/open_clip."""
    return [name for name in _listed(OPEN_CLIP) if name.lower().endswith(".safetensors")]


def clip_path(name: str) -> Path:
    """The full path of a CLIP model's file. Raises ValueError, which says where to put it, if it does not exist."""
    path = folder_paths.get_full_path(OPEN_CLIP, name)
    if path is None:
        raise ValueError(
            f"There is no CLIP model {name!r}: put its weights, as {Path(name).name}, into "
            f"{folder_paths.get_folder_paths(OPEN_CLIP)[0]}. The file is named after open_clip's architecture."
        )
    return Path(path)
