"""The models that parts measure: of random weights in the size in use, or tiny ones in their place."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from unguide.unguide_ops.concept import EncodedConcept, concept_from

from dev.bench.memory import peak_resident_mib
from dev.bench.random_model_session import random_model_setup
from dev.bench.sampling_methods import SamplingSetup, synchronise
from dev.families import full
from dev.families.random_model import RandomModel
from dev.families.tiny import TINY
from dev.gpu.child import Request


@dataclass(frozen=True)
class MeasuredModel:
    """`model` with weights in `dtype`, which it computes in unless `cast` is another; `tiny` names the small one.

    `iterations` of its training, if the whole preset would take minutes.
    """

    model: RandomModel
    dtype: torch.dtype
    tiny: str
    cast: torch.dtype | None = None
    iterations: int | None = None


MODELS = {
    "sd15": MeasuredModel(full.SD15, torch.float16, "SD 1.x"),
    "sd15 in fp8": MeasuredModel(full.SD15, torch.float8_e4m3fn, "SD 1.x", cast=torch.float16),
    "sdxl": MeasuredModel(full.SDXL, torch.float16, "SDXL"),
    "flux": MeasuredModel(full.FLUX_DEV, torch.bfloat16, "Flux dev", iterations=10),
}


def random_model(request: Request) -> RandomModel:
    """The request's model, or the tiny one in its place."""
    measured_model = MODELS[request.model]
    if not request.small:
        return measured_model.model
    return next(tiny for tiny in TINY if tiny.name == measured_model.tiny)


def new_setup(request: Request, device: torch.device) -> SamplingSetup:
    """The model as a sampling setup, its weights drawn on the device; a tiny one computes in single precision."""
    model, dtype, cast = random_model(request), MODELS[request.model].dtype, MODELS[request.model].cast
    if not request.small:
        return random_model_setup(model, model.size, dtype, cast=cast, made_on=device)
    single = torch.float32
    return random_model_setup(model, model.size, dtype if cast else single, cast=single if cast else None)


def encoded_concept(request: Request, model: RandomModel | None = None) -> EncodedConcept:
    """The cat, in the made-up prompts of the request's model, or of another."""
    return EncodedConcept.of(concept_from("cat", "", "", "", ""), (model or random_model(request)).prompt)


def measured(work: Callable, device: torch.device) -> tuple[Any, dict]:
    """What the work returns, its `seconds`, and `peak_gib`: a GPU's own memory, or the process's since it began."""
    synchronise(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    result = work()
    synchronise(device)
    seconds = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_resident_mib()
    return result, {"seconds": round(seconds, 3), "peak_gib": round(peak / 1024, 3)}


def attempted(work: Callable[[], dict], device: torch.device) -> dict:
    """What the work returns, or its error in words as `failed`: the part goes on."""
    try:
        return work()
    except Exception as error:  # out of memory, or a loss that is NaN or infinite: that is measured, too
        problem = f"{type(error).__name__}: {error}"
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {"failed": problem[:300]}
