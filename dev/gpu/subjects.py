"""What a part measures: a model of random weights in the size that people use, or a tiny one in its place."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dev.families import full
from dev.families.random_model import RandomModel
from dev.families.tiny import TINY
from dev.gpu.child import Asked
from dev.hosts import HOST
from dev.inprocess import start_scratch_host

OURS = ("plain", "ours, unrelated", "ours, erased")  # of dev.bench.ways


@dataclass(frozen=True)
class Subject:
    """`model` with weights in `dtype`, which it computes in unless `cast` is another; `tiny` is the small one's name.

    `iterations` of its training, where the whole preset would take minutes.
    """

    model: RandomModel
    dtype: torch.dtype
    tiny: str
    cast: torch.dtype | None = None
    iterations: int | None = None


SUBJECTS = {
    "sd15": Subject(full.SD15, torch.float16, "SD 1.x"),
    "sd15 in fp8": Subject(full.SD15, torch.float8_e4m3fn, "SD 1.x", cast=torch.float16),
    "sdxl": Subject(full.SDXL, torch.float16, "SDXL"),
    "flux": Subject(full.FLUX_DEV, torch.bfloat16, "Flux dev", iterations=10),
}


def start(asked: Asked, flags: tuple[str, ...] | None = None) -> torch.device:
    """The host and the pack in this process, with the part's own flags unless there are others; the models' device."""
    start_scratch_host(HOST, asked.flags if flags is None else flags)
    import comfy.model_management

    return comfy.model_management.get_torch_device()


def stage_of(asked: Asked, device: torch.device):
    """The subject as a Stage of dev.bench.ways, its weights drawn on the device."""
    from dev.bench.random_stage import new_stage

    it, model = SUBJECTS[asked.about], model_of(asked)
    if not asked.small:
        return new_stage(model, model.size, it.dtype, cast=it.cast, made_on=device)
    single = torch.float32
    return new_stage(model, model.size, it.dtype if it.cast else single, cast=single if it.cast else None)


def model_of(asked: Asked) -> RandomModel:
    """The subject's model, or the tiny one in its place."""
    it = SUBJECTS[asked.about]
    return next(model for model in TINY if model.name == it.tiny) if asked.small else it.model


def measured(work: Callable, device: torch.device) -> tuple[object, dict]:
    """What the work returns, its `seconds`, and `peak_gib`: a GPU's own memory, or the process's since it began."""
    from dev.bench.memory import resident_mib
    from dev.bench.ways import synchronise

    synchronise(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    result = work()
    synchronise(device)
    seconds = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else resident_mib(peak=True)
    return result, {"seconds": round(seconds, 3), "peak_gib": round(peak / 1024, 3)}


def attempted(work: Callable[[], dict], device: torch.device) -> dict:
    """What the work found; `failed` in words if it could not be done, so that the part goes on."""
    try:
        return work()
    except Exception as error:  # out of memory, or a loss that is no number: that is a finding
        words = f"{type(error).__name__}: {error}"
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {"failed": words[:300]}
