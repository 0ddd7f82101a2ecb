"""What `python dev` writes to the terminal, its errors, and the programs that it starts there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

LOG = Path(__file__).resolve().parent.parent / ".dev" / "setup.log"
NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeoutError|ReadTimeoutError|NameResolutionError|ProxyError|SSLError"
    r"|Temporary failure in name resolution|getaddrinfo failed|Connection (refused|reset)|Network is unreach"
)
CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class DevError(Exception):
    """An error that ends the command with its message, one sentence, and exit code 2."""


def say(text: str, end: str = "\n") -> None:
    """Write to the terminal at once, without control characters: text may hold file names from anywhere."""
    sys.stdout.write(CONTROL_CHARACTERS.sub("?", text) + end)
    sys.stdout.flush()


def duration(seconds: float) -> str:
    """Seconds as `9 s` or `3 min 05 s`."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def run(title: str, command: Sequence[str], env: Mapping[str, str]) -> None:
    """Run a step of the set-up to its end; DevError if it fails.

    The terminal shows one line with `title` and the time; the command's output goes to LOG.
    """
    began = time.monotonic()
    live = sys.stdout.isatty()
    say(f"  {title} ...", end="")
    with LOG.open("a", encoding="utf-8") as log:
        start = log.tell()
        # close_fds=False: the command inherits the set-up's lock
        with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, close_fds=False) as process:
            try:
                while process.poll() is None:
                    time.sleep(0.2)
                    if live:
                        say(f"\r  {title} ... {duration(time.monotonic() - began)}", end="")
            except BaseException:
                process.terminate()
                raise
    say((f"\r  {title} ... " if live else " ") + duration(time.monotonic() - began))
    if process.returncode:
        raise DevError(explain(title, LOG.read_bytes()[start:].decode(errors="replace")))


def become(command: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> int:
    """Replace this process by `command`; on Windows, run it and return its exit code."""
    if os.name == "posix":  # one process: signals and the exit code need no forwarding
        os.chdir(cwd or Path.cwd())
        os.execve(command[0], list(command), dict(env or os.environ))
    with subprocess.Popen(command, cwd=cwd, env=env) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # Ctrl-C reaches the child as well, which then ends by itself


def explain(title: str, output: str) -> str:
    """The sentence for a set-up step that failed, from what pip or venv wrote."""
    hashes = re.search(r"DO NOT MATCH THE HASHES.*?\n +(\S+) .*?Expected sha256 (\w+)\s+Got +(\w+)", output, re.DOTALL)
    missing = re.search(r"No matching distribution found for (\S+)", output)
    if "No space left on device" in output or "Disk quota exceeded" in output:
        reason = "the disk is full: make room and run the command again"
    elif NETWORK.search(output):
        reason = "pip cannot reach its package index: connect to the network, or correct pip's configuration"
    elif hashes:
        reason = (
            f"{hashes[1]} has the SHA-256 {hashes[3]}, but dev/pins.ini expects {hashes[2]}: get it from a package "
            "index you trust, or correct `sha256` if you changed the pin"
        )
    elif missing:
        reason = f"pip's package index has no {missing[1]} for this Python and system: use another of either"
    elif "ensurepip is not available" in output:
        reason = "this Python has no ensurepip: install it (Debian and Ubuntu: the package python3-venv)"
    else:
        reason = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "no output")
    return f"{title} failed, as {reason} (pip's output: {LOG})."
