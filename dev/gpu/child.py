"""The process of one part: `python -m dev.gpu.child MODULE REQUEST` writes what it measures as lines of JSON to stdout.

Whatever else is printed in this process goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import dataclass, replace

from dev.device import CPU, chosen
from dev.hosts import HOST
from dev.inprocess import start_scratch_host

EMULATED = {"--lowvram": 300_000.0, "--novram": 0.1}
"""Flags that the host does not take on a CPU -> how many bytes of weights are loaded there; others are fetched."""
MOST_MEMORY = "MOST"  # as a flag's value: all of the card's memory but FREE_GIB
FREE_GIB = 1.6  # what the host keeps free whatever is reserved (0.8), and half of Stable Diffusion 1.5 in fp16


@dataclass(frozen=True)
class Request:
    """What a part is to measure: a model of dev.gpu.models, or none, on a ComfyUI with these further flags.

    `folder` is shared by all parts. `small`: with tiny models and few tests.
    """

    part: str
    model: str
    flags: tuple[str, ...]
    folder: str
    small: bool


class Reporter:
    """`report(**values)` writes values at once; `figures` and `machine` among them have a meaning (see Results.add)."""

    def __init__(self):
        """Take stdout for itself."""
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def __call__(self, **values) -> None:
        """Write the values."""
        self._out.write(json.dumps(values) + "\n")
        self._out.flush()


def start_host(request: Request) -> Request:
    """Start ComfyUI with the pack in this process; return the request with the flags as they were used."""
    flags = tuple(f"{reserved_gib():.2f}" if flag == MOST_MEMORY else flag for flag in request.flags)
    emulated = [EMULATED[flag] for flag in flags if flag in EMULATED and chosen() == CPU]
    start_scratch_host(HOST, () if emulated else flags)
    for memory in emulated:
        load_at_most(memory)
    return replace(request, flags=flags)


def load_at_most(memory: float) -> None:
    """Let the host load so many bytes of any model's weights in this process."""
    from comfy.model_management import LoadedModel

    load = LoadedModel.model_load
    LoadedModel.model_load = lambda self, *args, **kwargs: load(self, memory, True)


def reserved_gib() -> float:
    """MOST_MEMORY as a number; 1 without a card."""
    import torch

    free = torch.cuda.mem_get_info()[0] / 2**30 if torch.cuda.is_available() else 0.0
    return max(1.0, free - FREE_GIB)


def main(module: str, fields: dict) -> None:
    """Run `measure(request, report)` of the module; if it is about a model, start ComfyUI first."""
    report, request = Reporter(), Request(**{**fields, "flags": tuple(fields["flags"])})
    if request.model:
        request = start_host(request)
    importlib.import_module(module).measure(request, report)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
