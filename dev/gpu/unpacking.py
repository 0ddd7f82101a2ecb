"""Unpacks a packed folder on the machine that it was taken to, as far as that machine lacks what is in it."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dev import ROOT, hosts
from dev.console import DevError
from dev.gpu.packing import HOST_FILE, MANIFEST, NEEDED, OWN, this_python

STAND_INS = Path(__file__).with_name("without")  # for packages that ComfyUI imports and no part uses


@dataclass(frozen=True)
class Unpacked:
    """The ComfyUI, and the folders in which Python looks for packages, the first one first."""

    host: Path
    path: list[Path]

    def environment(self) -> dict[str, str]:
        """Environment variables for processes that use this ComfyUI and these packages."""
        folders = [*map(str, self.path), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(folders), hosts.VARIABLE: str(self.host)}


def unpack(folder: Path, target: Path) -> Unpacked:
    """Unpack ComfyUI and the packages that this Python lacks into `target`.

    Raises DevError for a folder that is not a packed one, and for a machine that lacks what no folder brings.
    """
    if not (folder / MANIFEST).is_file():
        raise DevError(f"{folder} is no packed folder: make one with `python dev gpu --pack FOLDER`.")
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if missing := [name for name in OWN if not is_installed(name)]:
        raise DevError(f"this Python ({sys.executable}) has no {', '.join(missing)}: use the one that has CUDA torch.")
    host, site = target / "host", target / "site"
    extract(folder / HOST_FILE, host)
    site.mkdir()
    packages = manifest["packages"]
    needed = [name for name in NEEDED if name in packages and not is_installed(packages[name]["module"])]
    for name in dict.fromkeys(it for first in needed for it in (first, *NEEDED[first]) if it in packages):
        if packages[name]["compiled"] and manifest["python"] != this_python():
            raise DevError(
                f"this Python lacks {', '.join(needed)}, and {folder} is packed for Python {manifest['python']}: pack "
                f"it again with `--python {this_python()}`."
            )
        extract(folder / f"{name}.zip", site)
    return Unpacked(host, [site, ROOT, *(it for it in sorted(STAND_INS.iterdir()) if not is_installed(it.name))])


def extract(archive: Path, target: Path) -> None:
    """Unpack a zip file that `packing` has written."""
    with zipfile.ZipFile(archive) as file:
        file.extractall(target)


def is_installed(module: str) -> bool:
    """Whether this Python finds a module."""
    return importlib.util.find_spec(module) is not None
