"""`python dev test`: pytest in the environment, with the host it should test against."""

from __future__ import annotations

import argparse
import os
import sys

from dev import ROOT, browser, device, hosts
from dev.console import become
from dev.hosts import LATEST, FrontEnd

EXTRA = "pytest"
NEEDS = ("archive", "browser", "diffusers", "evaluate", "sweep", FrontEnd(LATEST).section)
PURE, PURE_VARIABLE = "pure", "UNGUIDE_PURE"
# A process a core: with torch's threads beside them, which wait for each other, tiny models become ten times slower.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
ON_ONE_GPU = 4  # processes at most: each has a CUDA context and a copy of the model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--device`; all else beyond `--host` and `--torch` goes to pytest, a first word `pure` excepted."""
    parser.add_argument(
        "--device", choices=device.DEVICES, default=device.CPU, help="where models run (default: cpu; cuda: a GPU)"
    )


def run(options: argparse.Namespace) -> int:
    """Run pytest from the repository root: the whole suite on all cores, or what the arguments name on one.

    `pure` means the tests of equations, gate, lists, files and metrics alone: in seconds, without a ComfyUI.
    """
    device.require(options.device)
    if options.extra[:1] == [PURE]:
        command = [sys.executable, "-m", "pytest", "tests/pure", *options.extra[1:]]
        return become(command, cwd=ROOT, env={**os.environ, PURE_VARIABLE: "1"})
    browser.get()
    cores = os.cpu_count() or 1
    processes = cores if options.device == device.CPU else min(cores, ON_ONE_GPU)
    parallel = [] if options.extra else ["-n", str(processes), "--dist", "loadfile"]
    command = [sys.executable, "-m", "pytest", *parallel, *options.extra]
    variables = {hosts.VARIABLE: str(options.host), device.VARIABLE: options.device}
    return become(command, cwd=ROOT, env={**ONE_THREAD, **os.environ, **variables})
