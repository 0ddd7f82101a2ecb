"""A packed folder on the machine that it was taken to: unpacked as far as that machine lacks what is in it."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dev import hosts
from dev.environment import ROOT
from dev.gpu.packing import HOST_FILE, MANIFEST, NEEDED, OWN, this_python
from dev.stages import DevError

WITHOUT = Path(__file__).with_name("without")  # what stands in for packages that ComfyUI imports and no part uses


@dataclass(frozen=True)
class Unpacked:
    """The ComfyUI, and the folders that Python looks into for packages, the first one first."""

    host: Path
    path: list[Path]

    def environment(self) -> dict[str, str]:
        """For processes that use it: this one's environment, with these packages."""
        before = [it for it in (os.environ.get("PYTHONPATH"),) if it]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*map(str, self.path), *before]),
            hosts.VARIABLE: str(self.host),
        }


def unpack(folder: Path, target: Path) -> Unpacked:
    """Unpack ComfyUI into `target`, and of the packages what this Python lacks.

    DevError, in one sentence, for a folder that is none, and for a machine that lacks what no folder brings.
    """
    if not (folder / MANIFEST).is_file():
        raise DevError(f"{folder} is no packed folder: make one with `python dev gpu --pack FOLDER`.")
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if missing := [name for name in OWN if not is_there(name)]:
        raise DevError(f"this Python ({sys.executable}) has no {', '.join(missing)}: use the one that has CUDA torch.")
    host, site = target / "host", target / "site"
    extract(folder / HOST_FILE, host)
    site.mkdir()
    packages = manifest["packages"]
    lacking = [name for name in NEEDED if name in packages and not is_there(packages[name]["module"])]
    for name in dict.fromkeys(it for first in lacking for it in (first, *NEEDED[first]) if it in packages):
        if packages[name]["compiled"] and manifest["python"] != this_python():
            raise DevError(
                f"this Python lacks {', '.join(lacking)}, and {folder} is packed for Python {manifest['python']}: pack "
                f"it again with `--python {this_python()}`."
            )
        extract(folder / f"{name}.zip", site)
    return Unpacked(host, [site, ROOT, *(it for it in sorted(WITHOUT.iterdir()) if not is_there(it.name))])


def extract(archive: Path, target: Path) -> None:
    """Unpack a zip that `packing` has written."""
    with zipfile.ZipFile(archive) as it:
        it.extractall(target)


def is_there(module: str) -> bool:
    """Whether this Python finds a module."""
    return importlib.util.find_spec(module) is not None
