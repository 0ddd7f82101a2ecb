"""Smaller cards, acted on the one that is there: on which of them training and sampling fit."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dev.gpu.child import Asked, Tell
from dev.gpu.pictures import concept_on
from dev.gpu.subjects import attempted, measured, model_of, stage_of, start

CARDS = (24, 16, 12, 8)  # GiB


def measure(asked: Asked, tell: Tell) -> None:
    """On each card a picture, and as much of a training as takes the most memory."""
    device = start(asked)
    with torch.inference_mode():
        stage = stage_of(asked, device)
        for gib in CARDS:
            with card_of(gib, device):
                sampled = attempted(lambda: sampling(stage), device)
                trained = attempted(lambda: training(asked, stage), device)
            tell(**{f"{gib} GiB": {"sampling": sampled, "training": trained}})
            if "failed" not in trained:
                tell(figures={f"smallest_card_{asked.about}_train_gib": gib})


def sampling(stage) -> dict:
    """An erased picture of two steps."""
    from dev.bench import ways

    _, took = measured(lambda: ways.ours(stage, ways.ERASED, 2, 1), stage.model.load_device)
    return took


def training(asked: Asked, stage) -> dict:
    """Two iterations of the preset for objects, which take as much memory as all; with the rows at once, and the
    checkpointing, that training chooses by itself.
    """
    from unguide.unguide_ops.settings import preset
    from unguide.unguide_ops.training import train

    size = stage.lora.calibration.width
    whole = preset("object", width=size, height=size)
    settings = dataclasses.replace(whole, iterations=2, reuse=2, steps=4)
    done, took = measured(lambda: train(stage.model, concept_on(model_of(asked)), settings), stage.model.load_device)
    return {**done.report(), **took}


@contextmanager
def card_of(gib: int, device: torch.device) -> Iterator[None]:
    """While it lasts, this process has a card of so many GiB, as torch and the host see it."""
    import comfy.model_management as management

    limit = gib << 30
    total, free = management.get_total_memory, management.get_free_memory

    def acted_total(dev=None, torch_total_too=False):
        if dev is not None and torch.device(dev) != device:
            return total(dev, torch_total_too)
        return (limit, limit) if torch_total_too else limit

    def acted_free(dev=None, torch_free_too=False):
        if dev is not None and torch.device(dev) != device:
            return free(dev, torch_free_too)
        taken = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        left = max(0, limit - taken)
        return (left, left) if torch_free_too else left

    forget(device)
    management.get_total_memory, management.get_free_memory = acted_total, acted_free
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / there), device)
    try:
        yield
    finally:
        management.get_total_memory, management.get_free_memory = total, free
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0, device)


def forget(device: torch.device) -> None:
    """Take all models off the device, and give back what torch keeps of its memory."""
    import comfy.model_management

    comfy.model_management.unload_all_models()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
