"""A child process that opens a hostile file, of which is known afterwards what it took and what it tried to do."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from dev.environment import PACK_NAME
from dev.hosts import HOST
from dev.inprocess import start_scratch_host

PATIENCE = 30.0  # seconds, until a child is ended
ROOM = 3 << 30  # bytes of address space beyond what a child begins with
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "socket.",
             "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.symlink", "os.truncate",
             "shutil.", "exec", "compile", "pickle.find_class", "ctypes.")  # fmt: skip
"""Audit events that opening a file has no need of; beside these, opening another for writing."""


@cache
def prepare(host: Path = HOST) -> tempfile.TemporaryDirectory:
    """Have the host, the pack and what is imported late in this process, before children come of it.

    Gives the folder of good files that they open, to be there as long as this process.
    """
    folder = tempfile.TemporaryDirectory(prefix="unguide-reliability-")
    base = Path(folder.name)
    if PACK_NAME not in sys.modules:
        start_scratch_host(host)
    from dev.reliability.parsers import PARSERS
    from dev.reliability.seeds import SEEDS

    "".encode("cp437")  # the names in some zips
    for parser, its in SEEDS.items():
        for name, make in its.items():
            (base / name).write_bytes(make())
            PARSERS[parser](str(base / name))
    return folder


def in_child(task: Callable[..., dict], *arguments, patience: float = PATIENCE) -> dict:
    """What the task returns in a child of this process; if it dies or never ends, that as `error`."""
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=lambda: there.send(task(*arguments)))
    child.start()
    there.close()
    try:
        return (
            here.recv() if here.poll(patience) else {"error": "hangs", "message": f"still at work after {patience} s"}
        )
    except EOFError:
        child.join()
        return {"error": "dies", "message": f"exit code {child.exitcode}"}
    finally:
        child.kill()
        child.join()
        here.close()


def opened(parser: str, given: tuple[str, ...]) -> dict:
    """Open a file: its `error` by type or "", `message`, `seconds` of the processor, `peak` bytes, what it `tried`."""
    from dev.reliability.parsers import PARSERS

    tried: list[str] = []
    watched = True
    limit_memory()

    def hook(event: str, arguments: tuple) -> None:
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        harmless = parser == "drawn" and event in ("exec", "compile")  # the host's sampling makes a class each time
        if watched and not harmless and (writes or event.startswith(FORBIDDEN)):
            tried.append(f"{event} {str(arguments)[:200]}")

    sys.addaudithook(hook)
    error = message = ""
    before, began = peak_bytes(), time.process_time()
    try:
        PARSERS[parser](*given)
    except BaseException as caught:  # of a library in another language as well
        error, message = type(caught).__name__, str(caught)
    seconds, watched = time.process_time() - began, False
    return {"error": error, "message": message, "seconds": seconds, "peak": peak_bytes() - before, "tried": tried}


def limit_memory() -> None:
    """Let this process take no more than ROOM, so that the machine lives on; where the system can tell what it has.

    And compute on one thread: those of the process that it was forked from are not there.
    """
    import resource

    import torch

    torch.set_num_threads(1)

    if sys.platform == "linux":
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + ROOM, has + ROOM))


def peak_bytes() -> int:
    """The most that this process has had in memory."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
