"""Smaller cards, emulated on the one that is there: on which of them training and sampling fit."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management as management
import torch
from unguide.unguide_ops.training.config import preset
from unguide.unguide_ops.training.trainer import train

from dev.bench.sampling_methods import ERASED, SamplingSetup, unguidance
from dev.gpu.child import Reporter, Request
from dev.gpu.models import attempted, encoded_concept, measured, new_setup

CARDS = (24, 16, 12, 8)  # GiB


@torch.inference_mode()
def measure(request: Request, report: Reporter) -> None:
    """On each card a picture, and as much of a training as takes the most memory."""
    device = management.get_torch_device()
    setup = new_setup(request, device)
    for gib in CARDS:
        with emulated_card(gib, device):
            sampled = attempted(lambda: sampling(setup), device)
            trained = attempted(lambda: training(request, setup), device)
        report(**{f"{gib} GiB": {"sampling": sampled, "training": trained}})
        if "failed" not in trained:
            report(figures={f"smallest_card_{request.model}_train_gib": gib})


def sampling(setup: SamplingSetup) -> dict:
    """What an erased picture of two steps costs."""
    return measured(lambda: unguidance(setup, ERASED, 2, 1), setup.model.load_device)[1]


def training(request: Request, setup: SamplingSetup) -> dict:
    """What two iterations of the preset for objects cost, which take as much memory as all of them.

    Training chooses the rows at once and checkpointing by itself.
    """
    size = setup.lora.calibration.width
    config = dataclasses.replace(preset("object", width=size, height=size), iterations=2, reuse=2, steps=4)
    result, cost = measured(lambda: train(setup.model, encoded_concept(request), config), setup.model.load_device)
    return {**result.report(), **cost}


@contextmanager
def emulated_card(gib: int, device: torch.device) -> Iterator[None]:
    """Within it, this process has a card of so many GiB, as torch and the host see it."""
    limit, on_gpu = gib << 30, device.type == "cuda"
    get_total, get_free = management.get_total_memory, management.get_free_memory

    def total_memory(dev=None, torch_total_too=False):
        if dev is not None and torch.device(dev) != device:
            return get_total(dev, torch_total_too)
        return (limit, limit) if torch_total_too else limit

    def free_memory(dev=None, torch_free_too=False):
        if dev is not None and torch.device(dev) != device:
            return get_free(dev, torch_free_too)
        free = max(0, limit - (torch.cuda.memory_allocated(device) if on_gpu else 0))
        return (free, free) if torch_free_too else free

    empty_card(device)
    management.get_total_memory, management.get_free_memory = total_memory, free_memory
    if on_gpu:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
    try:
        yield
    finally:
        management.get_total_memory, management.get_free_memory = get_total, get_free
        if on_gpu:
            torch.cuda.set_per_process_memory_fraction(1.0, device)


def empty_card(device: torch.device) -> None:
    """Take all models off the device, and give back what torch keeps of its memory."""
    management.unload_all_models()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
