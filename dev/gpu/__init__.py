"""`python dev gpu`: everything that only a GPU can show, in ten minutes, on a machine without a network.

`python dev gpu --pack FOLDER` makes the folder that such a machine needs beside this repository. Without a GPU the same
command runs with tiny models on the CPU.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from dev import ROOT, device, hosts
from dev.console import DevError, say

PATIENCE = 6.0  # by which a CPU stretches the time limits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gpu`."""
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="only write what a machine without a network needs")
    parser.add_argument("--python", metavar="VERSION", help="with --pack: that machine's Python (default: this one's)")
    parser.add_argument("--packed", type=Path, metavar="FOLDER", help="use such a folder and this very Python")
    parser.add_argument("--device", choices=device.DEVICES, help="where models run (default: the GPU, if there is one)")
    parser.add_argument("--small", action="store_true", help="tiny models and few tests, as where there is no GPU")
    parser.add_argument("--only", nargs="+", metavar="PART", help="only these parts (see docs/benchmark.md)")
    output = ROOT / "output" / "bench"
    parser.add_argument("--output", type=Path, default=output, help="where gpu.json goes (default: output/bench)")


def stands_alone(options: argparse.Namespace) -> bool:
    """Whether the command needs no `.dev`: with a packed folder."""
    return options.packed is not None


def run(options: argparse.Namespace) -> int:
    """Pack, or measure; 0 if all parts have run to their ends."""
    from dev.gpu import packing, unpacking

    if options.pack:
        packing.pack(options.pack, options.host, options.python or packing.this_python())
        return 0
    with tempfile.TemporaryDirectory(prefix="unguide-gpu-") as scratch:
        if options.packed:
            env = unpacking.unpack(options.packed, Path(scratch)).environment()
        else:
            env = {**os.environ, hosts.VARIABLE: str(options.host)}
        return measure(options, env, Path(scratch))


def measure(options: argparse.Namespace, env: dict[str, str], scratch: Path) -> int:
    """Run the parts in this environment; 0 if all have run to their ends."""
    from dev.gpu.results import DONE, Results
    from dev.gpu.runner import MACHINE, PARTS, RunConfig, run_parts

    if unknown := set(options.only or ()) - {part.name for part in PARTS}:
        raise DevError(f"there is no part {min(unknown)!r}: choose from {', '.join(part.name for part in PARTS)}.")
    results, log = Results(options.output / "gpu.json"), options.output / "gpu.log"
    log.unlink(missing_ok=True)
    run_parts([MACHINE], results, RunConfig(env, scratch, log))
    has_gpu = results.content["figures"].get("device") == 1
    if options.device == device.CUDA and not has_gpu:
        torch = results.content.get("torch")
        raise DevError(f"`--device cuda` needs an NVIDIA GPU, and torch {torch} finds none here.")
    chosen = options.device or (device.CUDA if has_gpu else device.CPU)
    small = options.small or chosen == device.CPU
    env = {**env, device.VARIABLE: chosen, **({"OMP_NUM_THREADS": "1"} if small else {})}
    patience = 1.0 if chosen == device.CUDA else PATIENCE
    results.content["small"] = small
    parts = [part for part in PARTS if not options.only or part.name in options.only]
    run_parts(parts, results, RunConfig(env, scratch, log, small, patience))
    results.finish()
    figures, seconds = results.content["figures"], results.content["seconds"]
    say(f"{results.path}: {len(figures)} figures, {seconds:.0f} s; more: {log}")
    return 0 if all(part["status"] == DONE for part in results.content["parts"].values()) else 1
