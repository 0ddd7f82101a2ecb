"""The real host, and the pack in it, inside this process: for tests, the recipe and the benchmark."""

import atexit
import functools
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dev import PACK_NAME
from dev.device import CPU, chosen
from dev.environment import make_base
from dev.hosts import HOST


def start_host(
    host: Path = HOST, base: Path | None = None, device: str | None = None, flags: Sequence[str] = ()
) -> None:
    """Make the ComfyUI in `host` importable, with its data in `base`; does nothing the second time.

    Its models run on `device`: "cpu", anything else is the GPU that it finds; by default on the chosen one. `flags`
    are further arguments of its main.py, such as --lowvram.
    """
    if str(host) in sys.path:
        return
    sys.path.insert(0, str(host))
    on_cpu = ["--cpu"] if (device or chosen()) == CPU else []
    folder = ["--base-directory", str(base)] if base else []
    arguments, sys.argv = sys.argv, ["main.py", *on_cpu, *folder, *flags]
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
    """Start the host with the pack on the chosen device, with a data folder that is removed when this process ends."""
    base = Path(tempfile.mkdtemp(prefix="unguide-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    start_host(host, make_base(base), flags=flags)
    load_pack()


def load_pack() -> None:
    """Run the pack's own `__init__`, as the host does when it loads it from custom_nodes."""
    pack = sys.modules[PACK_NAME]
    if not hasattr(pack, "comfy_entrypoint"):
        assert pack.__spec__ and pack.__spec__.loader
        pack.__spec__.loader.exec_module(pack)
