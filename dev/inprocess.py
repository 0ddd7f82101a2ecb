"""The real host, and the pack in it, inside this very process: for tests, the recipe and the benchmark."""

import atexit
import functools
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dev import device
from dev.environment import PACK_NAME, ROOT, make_base
from dev.hosts import HOST


def start_host(
    host: Path = HOST, base: Path | None = None, where: str | None = None, flags: Sequence[str] = ()
) -> None:
    """Make the ComfyUI in `host` importable, with its data in `base`; does nothing the second time.

    Its models run on `where`: "cpu", anything else is the GPU that it finds; by default on the chosen device. `flags`
    are further arguments of its main.py, such as --lowvram.
    """
    if str(host) in sys.path:
        return
    sys.path.insert(0, str(host))
    chosen = ["--base-directory", str(base)] if base else []
    on_cpu = (where or device.chosen()) == device.CPU
    arguments, sys.argv = sys.argv, ["main.py", *(["--cpu"] if on_cpu else []), *chosen, *flags]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args  # noqa: F401 - parses the arguments
        import comfy.utils
    finally:
        sys.argv = arguments
    comfy.utils.PROGRESS_BAR_ENABLED = False


@functools.cache
def start_scratch_host(host: Path = HOST, flags: tuple[str, ...] = ()) -> None:
    """The same on the chosen device with the pack, and with data of its own that is gone when this process ends."""
    base = Path(tempfile.mkdtemp(prefix="unguide-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    start_host(host, make_base(base), flags=flags)
    load_pack()


def load_pack() -> None:
    """The pack as the package `unguide`, as the host would load it from custom_nodes."""
    if PACK_NAME in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        PACK_NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec and spec.loader
    sys.modules[PACK_NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK_NAME])
