"""Import libraries that only some measures need, and that are not installed with the pack."""

from __future__ import annotations

import importlib
from types import ModuleType

PACKAGES = {"open_clip": "open_clip_torch"}  # names for pip that differ from the module's


def require(module: str) -> ModuleType:
    """The imported module. Raises ImportError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.split(".")[0]
        raise ImportError(
            f"This measure needs a library that cannot be imported ({error}). Run, with the Python that runs ComfyUI: "
            f"pip install {PACKAGES.get(top, top)}"
        ) from error
