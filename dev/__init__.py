"""The tools of those who work on the pack: `python dev demo | test | serve | bench ...` from the repository root.

The repository, whatever its folder is called, is the package `unguide` here. Modules of it that need no ComfyUI can be
imported at once; the pack's own `__init__` runs when `inprocess.load_pack` has a ComfyUI to load it into.
"""

import importlib.util
import sys
from pathlib import Path

PACK_NAME = "unguide"
ROOT = Path(__file__).resolve().parent.parent

if PACK_NAME not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        PACK_NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec
    sys.modules[PACK_NAME] = importlib.util.module_from_spec(spec)
