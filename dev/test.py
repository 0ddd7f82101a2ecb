"""`python dev test`: pytest in the environment, with the host it should test against."""

from __future__ import annotations

import argparse
import os
import sys

from dev import device, hosts
from dev.environment import ROOT
from dev.hosts import LATEST, FrontEnd
from dev.stages import become

EXTRA = "pytest"
NEEDS = ("archive", "browser", "diffusers", "evaluate", "sweep", FrontEnd(LATEST).section)
ON_ONE_GPU = 4  # processes at most: each has a CUDA context and a copy of the model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where models run; all else beyond `--host` and `--torch` is pytest's."""
    parser.add_argument(
        "--device", choices=device.DEVICES, default=device.CPU, help="where models run (default: cpu; cuda: a GPU)"
    )


def run(options: argparse.Namespace) -> int:
    """Run pytest from the repository root: the whole suite on all cores, or what the arguments name on one."""
    from dev import browser

    device.require(options.device)
    browser.get()
    cores = os.cpu_count() or 1
    processes = cores if options.device == device.CPU else min(cores, ON_ONE_GPU)
    whole = [] if options.extra else ["-n", str(processes), "--dist", "loadfile"]
    command = [sys.executable, "-m", "pytest", *whole, *options.extra]
    chosen = {hosts.VARIABLE: str(options.host), device.VARIABLE: options.device}
    return become(command, cwd=ROOT, env={**os.environ, **chosen})
