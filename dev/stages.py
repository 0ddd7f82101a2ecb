"""Run the slow commands of the set-up calmly: one line each, their output in `.dev/setup.log`."""

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
STEERS_TERMINALS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class DevError(Exception):
    """What a developer has to know in one sentence; the command ends with it and exit code 2."""


def say(text: str, end: str = "\n") -> None:
    """Write to the terminal at once; names from anywhere cannot steer it."""
    sys.stdout.write(STEERS_TERMINALS.sub("?", text) + end)
    sys.stdout.flush()


def duration(seconds: float) -> str:
    """Seconds as `9 s` or `3 min 05 s`."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def run(title: str, command: Sequence[str], env: Mapping[str, str]) -> None:
    """Run `command` to its end under one line that shows `title` and the time; DevError if it fails."""
    began = time.monotonic()
    live = sys.stdout.isatty()
    head = f"\r  {title} ..."
    say(head.lstrip("\r"), end="")
    with LOG.open("a", encoding="utf-8") as log:
        start = log.tell()
        # close_fds=False: the command inherits the set-up's lock
        with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, close_fds=False) as process:
            try:
                while process.poll() is None:
                    time.sleep(0.2)
                    if live:
                        say(f"{head} {duration(time.monotonic() - began)}", end="")
            except BaseException:
                process.terminate()
                raise
    say(f"{head if live else ''} {duration(time.monotonic() - began)}")
    if process.returncode:
        raise DevError(explain(title, LOG.read_bytes()[start:].decode(errors="replace")))


def become(command: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> int:
    """Hand the terminal over to `command`; returns its exit code, where it returns at all."""
    if os.name == "posix":  # one process: signals and the exit code need no forwarding
        os.chdir(cwd or Path.cwd())
        os.execve(command[0], list(command), dict(env or os.environ))
    with subprocess.Popen(command, cwd=cwd, env=env) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the console has told the child as well; it ends by itself


def explain(title: str, output: str) -> str:
    """One sentence for what pip, or venv, said in `output`."""
    other = re.search(r"DO NOT MATCH THE HASHES.*?\n +(\S+) .*?Expected sha256 (\w+)\s+Got +(\w+)", output, re.DOTALL)
    missing = re.search(r"No matching distribution found for (\S+)", output)
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "no output")
    if "No space left on device" in output or "Disk quota exceeded" in output:
        reason = "the disk is full: make room and run the command again"
    elif NETWORK.search(output):
        reason = "pip cannot reach its package index: connect to the network, or correct pip's configuration"
    elif other:
        reason = (
            f"{other[1]} has the SHA-256 {other[3]}, but dev/pins.ini expects {other[2]}: get it from a package index "
            "you trust, or correct `sha256` if you changed the pin"
        )
    elif missing:
        reason = f"pip's package index has no {missing[1]} for this Python and system: use another of either"
    elif "ensurepip is not available" in output:
        reason = "this Python has no ensurepip: install it (Debian and Ubuntu: the package python3-venv)"
    else:
        reason = last
    return f"{title} failed, as {reason} (pip's output: {LOG})."
