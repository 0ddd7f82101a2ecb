"""The same picture when the host keeps weights in main memory, or in fp8."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy.model_management import get_torch_device

from dev.bench.reference import relative_error
from dev.bench.sampling_methods import ERASED, unguidance
from dev.gpu.child import Reporter, Request
from dev.gpu.model_costs import SHORT, identical, times
from dev.gpu.models import new_setup


@torch.inference_mode()
def measure(request: Request, report: Reporter) -> None:
    """Times as ratios to plain pictures; whether unrelated ones are the base's; how far erased ones are from usual."""
    setup = new_setup(request, get_torch_device())
    picture = unguidance(setup, ERASED, SHORT, 1)
    not_loaded = setup.model.model_size() - setup.model.loaded_size()
    report(flags=request.flags, left_in_main_memory_mib=round(not_loaded / 2**20, 1),
           finite=bool(picture.isfinite().all()))  # fmt: skip
    usual = Path(request.folder, "usual.pt")
    if not usual.exists():  # in the first of these parts
        torch.save(picture.clone(), usual)
    report(error=relative_error(picture, torch.load(usual, weights_only=True)))
    report(figures={"bit_identical": int(identical(setup, 1))})
    report(**{f"{SHORT} steps": times(setup, SHORT, 1, 1)})
