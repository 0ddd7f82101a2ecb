"""`python dev test`: pytest in the environment, with the host it should test against."""

from __future__ import annotations

import argparse
import os
import sys

from dev.environment import ROOT
from dev.stages import become

EXTRA = "pytest"
NEEDS = ("archive", "browser", "diffusers", "evaluate", "sweep")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing beyond `--host` and `--torch`: all else is pytest's."""


def run(options: argparse.Namespace) -> int:
    """Run pytest from the repository root: the whole suite on all cores, or what the arguments name on one."""
    from dev import browser

    browser.get()
    whole = [] if options.extra else ["-n", str(os.cpu_count() or 1), "--dist", "loadfile"]  # a process a core
    command = [sys.executable, "-m", "pytest", *whole, *options.extra]
    return become(command, cwd=ROOT, env={**os.environ, "UNGUIDE_HOST": str(options.host)})
