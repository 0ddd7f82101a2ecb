"""The development environment in `.dev`: `venv` (packages), ComfyUI (dev/hosts.py) and `base` (its data folders).

Beside `venv`, `torch-VERSION` has the same packages with another torch. Everything here runs on the standard library
alone. A part is finished when its stamp, written last, holds the hash of `pins.ini`; a part without one was
interrupted and is made again, one with another hash is brought up to date.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from dev import PACK_NAME, ROOT, console, hostfiles, pins
from dev.console import DevError
from dev.hosts import FrontEnd, Host
from dev.pins import HOME
from dev.venv import Venv, packages_for

VENV = HOME / "venv"
OTHER_TORCH = "torch-"  # prefix of the folders of environments with another torch
BASE = HOME / "base"
SCRATCH = HOME / "tmp"
BASE_FOLDERS = ("custom_nodes", "models", "input", "output", "temp", "user/default")
DISK_GB = 10 if platform.system() == "Linux" else 3  # Linux wheels of torch bring CUDA along


def venv_with(torch: str | None) -> Venv:
    """The virtual environment with this torch; without one, that of this process, else that of `pins.ini`."""
    running = Path(sys.prefix)
    if torch is None and running.name.startswith(OTHER_TORCH) and Venv(HOME / running.name).inside():
        torch = running.name.removeprefix(OTHER_TORCH)
    if torch in (None, pins.read()["packages"]["torch"]):
        return Venv(VENV)
    return Venv(HOME / (OTHER_TORCH + torch), packages_for(torch))


def prepare(venv: Venv, host: Host, needs: Iterable[str] = ()) -> None:
    """Set up what is missing to run this host.

    `needs` names further sections of `pins.ini`: packages to import, and front ends.
    """
    if not (venv.has("packages") and host.is_unpacked() and host.front_end.is_there()):
        HOME.mkdir(exist_ok=True)
        with lock():
            set_up(venv, host)
    for section in needs:
        if section.startswith(FrontEnd.PREFIX):
            front_end = FrontEnd(section.removeprefix(FrontEnd.PREFIX))
            if not front_end.is_there():
                with lock(), scratch() as env:
                    install_front_end(venv, front_end, env)
        elif not venv.has(section):  # it lists what its packages need, too: hence --no-deps
            with lock():
                install_packages(venv, section, "--no-deps", f"installing what the {section} needs", os.environ)
    make_base(BASE)


def set_up(venv: Venv, host: Host) -> None:
    """Create or update the environment, the host and its front end."""
    began = time.monotonic()
    console.say(f"Setting up {HOME}, once:")
    console.LOG.unlink(missing_ok=True)
    with scratch() as env:
        make_venv(venv, env)
        if not host.is_unpacked():
            hostfiles.install(pins.read()[f"host {host.name}"], host.folder, SCRATCH, venv.pip, env)
        if not host.front_end.is_there():
            install_front_end(venv, host.front_end, env)
        if not venv.has("packages"):
            venv.unmark()
            install_packages(venv, "packages", "--only-binary=:all:", "installing torch and the other packages", env)
    console.say(f"Done in {console.duration(time.monotonic() - began)}.")


def install_packages(venv: Venv, section: str, option: str, title: str, env: Mapping[str, str]) -> None:
    """Install the packages of a section of `pins.ini`."""
    console.run(title, [*venv.pip, "install", option, "--progress-bar", "off", *venv.packages(section)], env)
    venv.mark(section)


def install_front_end(venv: Venv, front_end: FrontEnd, env: Mapping[str, str]) -> None:
    """Install a front end into its folder."""
    hostfiles.install_front_end(venv.packages(front_end.section), front_end.folder, SCRATCH, venv.pip, env)


def make_venv(venv: Venv, env: Mapping[str, str]) -> None:
    """Make an empty virtual environment, unless there is a complete one, whatever its pins."""
    if venv.was_complete():
        return
    if venv.inside():
        raise DevError(f"{venv.folder} is incomplete: run the command with your own Python, not with that one.")
    if not venv.folder.exists():
        check_space()
    venv.unmark()
    console.run("creating a virtual environment", [sys.executable, "-m", "venv", "--clear", str(venv.folder)], env)
    check_space()  # now that the remains of an interrupted set-up are gone


def make_folders(base: Path) -> None:
    """Make `base` a ComfyUI base directory without packs."""
    for name in BASE_FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)


def make_base(base: Path) -> Path:
    """Make `base` a ComfyUI base directory with this pack, and no other, linked in; returns it."""
    make_folders(base)
    link = base / "custom_nodes" / PACK_NAME
    if link.exists() and os.path.samefile(link, ROOT):
        return base
    if os.path.lexists(link):
        try:
            os.readlink(link)
        except OSError:
            raise DevError(f"{link} should be a link to {ROOT}: move that folder out of the way.") from None
        link.unlink()  # the checkout has moved
    if os.name == "nt":  # a junction, as a symbolic link there needs special rights
        subprocess.run(["cmd", "/c", "mklink", "/J", str(link), str(ROOT)], check=True, capture_output=True)
    else:
        link.symlink_to(ROOT, target_is_directory=True)
    return base


@contextlib.contextmanager
def scratch() -> Iterator[dict[str, str]]:
    """An empty folder for downloads on the same disk as the result, as a system's /tmp may be small.

    Yields the environment variables of a command that uses it.
    """
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir()
    try:
        yield {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(SCRATCH))}
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)


def check_space() -> None:
    """Refuse to start a download for which the disk has no room."""
    free = shutil.disk_usage(HOME).free / 1e9
    if free < DISK_GB:
        raise DevError(f"the disk of {HOME} has {free:.1f} GB free, but the set-up needs {DISK_GB} GB: make room.")


def explain_os_error(error: OSError) -> str:
    """A sentence for a set-up that the file system refused."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk with {HOME} is full: make room (about {DISK_GB} GB) and run the command again."
    file = f" ({error.filename})" if error.filename else ""
    return f"the set-up in {HOME} failed: {error.strerror or error}{file}: put that right and run it again."


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Admit one set-up at a time; pip inherits the lock, so a pip left behind still holds it."""
    if os.name == "nt":
        yield
        return
    import fcntl  # not on Windows

    with open(HOME / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say("Waiting for another set-up in .dev to end ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        os.set_inheritable(file.fileno(), True)
        yield
