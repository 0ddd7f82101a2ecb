"""A child process in which an untrusted file is opened: how that ended, what it took, and what it tried to do."""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from untrusted_files.corpus import CORPUS
from untrusted_files.parsers import PARSERS

from dev import device

TIMEOUT = 30.0  # seconds
MEMORY = 3 << 30  # bytes of address space beyond what a child begins with
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "socket.",
             "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.symlink", "os.truncate",
             "shutil.", "exec", "compile", "pickle.find_class", "ctypes.")  # fmt: skip
"""Audit events that opening a file never needs; opening another file for writing is forbidden as well."""

needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork") or device.chosen() != device.CPU,
    reason="each file is opened in a forked process, which cannot use the GPU of its parent",
)


@cache
def import_everything() -> None:
    """Open every good file in this process, so that its children need not import anything."""
    "".encode("cp437")  # the names in some zips
    with tempfile.TemporaryDirectory() as folder:
        for parser, files in CORPUS.items():
            for name, make in files.items():
                path = Path(folder, name)
                path.write_bytes(make())
                PARSERS[parser](path)


def run_in_child(task: Callable[..., dict], *arguments, timeout: float = TIMEOUT) -> dict:
    """What the task returns in a child of this process; if the child dies or does not end, `error` and `message`."""
    import_everything()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=lambda: sender.send(task(*arguments)))
    child.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(timeout) else {"error": "hangs", "message": f"still runs: {timeout} s"}
    except EOFError:
        child.join()
        return {"error": "dies", "message": f"exit code {child.exitcode}"}
    finally:
        child.kill()
        child.join()
        receiver.close()


def open_file(parser: str, arguments: tuple) -> dict:
    """Open a file: the `error`'s type or "", its `message`, processor `seconds`, `peak` bytes, events it `tried`."""
    events: list[str] = []
    watching = True
    limit_resources()

    def hook(event: str, details: tuple) -> None:
        writes = event == "open" and details[2] & (os.O_WRONLY | os.O_RDWR)
        harmless = parser == "drawn" and event in ("exec", "compile")  # the host's sampling makes a class each time
        if watching and not harmless and (writes or event.startswith(FORBIDDEN)):
            events.append(f"{event} {str(details)[:200]}")

    sys.addaudithook(hook)
    error = message = ""
    before, start = peak_bytes(), time.process_time()
    try:
        PARSERS[parser](*arguments)
    except BaseException as caught:  # libraries in other languages raise such
        error, message = type(caught).__name__, str(caught)
    seconds, watching = time.process_time() - start, False
    return {"error": error, "message": message, "seconds": seconds, "peak": peak_bytes() - before, "tried": events}


def limit_resources() -> None:
    """Limit the memory of this process, on Linux, and its threads to one: its parent's do not exist here."""
    import resource

    torch.set_num_threads(1)
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def peak_bytes() -> int:
    """The most memory that this process has had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
