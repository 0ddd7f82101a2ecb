"""The part that describes the machine: its card, and the versions of what runs on it."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch

from dev.gpu.child import Reporter, Request
from dev.hosts import HOST


def measure(request: Request, report: Reporter) -> None:
    """`device` (1: CUDA, 0: the CPU), the card's name and memory, and versions."""
    cuda = torch.cuda.is_available()
    report(
        figures={"device": int(cuda)},
        machine={
            "card": torch.cuda.get_device_name() if cuda else f"none: {platform.processor() or platform.machine()}",
            "card_gib": round(torch.cuda.mem_get_info()[1] / 2**30, 1) if cuda else None,
            "torch": torch.__version__,
            "cuda": torch.version.cuda if cuda else None,
            "python": platform.python_version(),
            "host": version_of(HOST),
        },
    )


def version_of(host: Path) -> str:
    """The version of the ComfyUI in that folder."""
    match = re.search(r'__version__ = "([^"]+)"', (host / "comfyui_version.py").read_text(encoding="utf-8"))
    return match[1] if match else "unknown"
