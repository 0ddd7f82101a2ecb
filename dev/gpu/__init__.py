"""`python dev gpu`: everything that only a GPU can tell, in eight minutes, on a machine without a network.

`python dev gpu --pack FOLDER` makes the folder that such a machine needs beside this repository. Without a GPU the same
command runs through in small on the CPU.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from dev import device, hosts
from dev.environment import ROOT
from dev.stages import DevError, say

PATIENCE = 6.0  # times the limits, where a CPU does the work


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `gpu`."""
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="only write what a machine without a network needs")
    parser.add_argument("--python", metavar="VERSION", help="with --pack: that machine's Python (default: this one's)")
    parser.add_argument("--packed", type=Path, metavar="FOLDER", help="use such a folder and this very Python")
    parser.add_argument("--device", choices=device.DEVICES, help="where models run (default: the GPU, if there is one)")
    parser.add_argument("--small", action="store_true", help="tiny models and few tests, as where there is no GPU")
    parser.add_argument("--only", nargs="+", metavar="PART", help="only these parts (see docs/benchmark.md)")
    output = ROOT / "output" / "bench"
    parser.add_argument("--output", type=Path, default=output, help="where gpu.json goes (default: output/bench)")


def stands_alone(options: argparse.Namespace) -> bool:
    """With a packed folder nothing is set up in `.dev`."""
    return options.packed is not None


def run(options: argparse.Namespace) -> int:
    """Pack, or measure; 0 when all parts have run to their ends."""
    from dev.gpu import packed, packing

    if options.pack:
        packing.pack(options.pack, options.host, options.python or packing.this_python())
        return 0
    with tempfile.TemporaryDirectory(prefix="unguide-gpu-") as scratch:
        if options.packed:
            env = packed.unpack(options.packed, Path(scratch)).environment()
        else:
            env = {**os.environ, hosts.VARIABLE: str(options.host)}
        return measure(options, env, Path(scratch))


def measure(options: argparse.Namespace, env: dict[str, str], scratch: Path) -> int:
    """Run the parts in this environment; 0 when all have run to their ends."""
    from dev.gpu.parts import MACHINE, PARTS, Surroundings, run_parts
    from dev.gpu.results import DONE, Results

    if unknown := set(options.only or ()) - {it.name for it in PARTS}:
        raise DevError(f"there is no part {min(unknown)!r}: choose from {', '.join(it.name for it in PARTS)}.")
    results = Results(options.output / "gpu.json")
    log = options.output / "gpu.log"
    log.unlink(missing_ok=True)
    run_parts([MACHINE], results, Surroundings(env, scratch, log))
    there = results.whole["figures"].get("device") == 1
    if options.device == device.CUDA and not there:
        raise DevError(f"`--device cuda` needs an NVIDIA GPU, and torch {results.whole.get('torch')} finds none here.")
    chosen = options.device or (device.CUDA if there else device.CPU)
    small = options.small or chosen == device.CPU
    around = Surroundings(
        {**env, device.VARIABLE: chosen, **({"OMP_NUM_THREADS": "1"} if small else {})}, scratch, log, small,
        1.0 if chosen == device.CUDA else PATIENCE,
    )  # fmt: skip
    results.whole["small"] = small
    run_parts([it for it in PARTS if not options.only or it.name in options.only], results, around)
    results.finish()
    say(f"{results.path}: {len(results.whole['figures'])} figures, {results.whole['seconds']:.0f} s; more: {log}")
    return 0 if all(it["status"] == DONE for it in results.whole["parts"].values()) else 1
