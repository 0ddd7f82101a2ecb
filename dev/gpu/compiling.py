"""A model under torch.compile, by the host's own function, as its node TorchCompileModel calls it."""

from __future__ import annotations

import functools
import time

import torch
import torch._dynamo
from comfy.model_management import get_torch_device
from comfy_api.torch_helpers import set_torch_compile_wrapper
from torch._dynamo.utils import counters
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide

from dev.bench.reference import relative_error
from dev.bench.sampling_methods import ERASED, UNRELATED, SamplingSetup, synchronise
from dev.gpu.child import Reporter, Request
from dev.gpu.models import attempted, new_setup

KINDS = ("plain", "unrelated", "erased")
COUNTED, FAST = "eager", "inductor"  # backends: one that makes no code is enough to count compilations
STEPS = 3


@torch.inference_mode()
def measure(request: Request, report: Reporter) -> None:
    """How often plain, unrelated and erased pictures compile the model, their errors, and the time that it saves."""
    device = get_torch_device()
    setup = new_setup(request, device)
    setup.model.model.diffusion_model._forward_pre_hooks.clear()  # the setup's counter: it would be compiled, too
    plain = {kind: draw(setup, setup.model, kind) for kind in KINDS}
    for backend in (COUNTED,) if request.small else (COUNTED, FAST):
        result = attempted(functools.partial(compiled, setup, backend, plain, report), device)
        report(**{backend: result})
        if backend == COUNTED and "failed" not in result:
            report(figures={"compilations": result["erased"]["compilations"]})


def draw(setup: SamplingSetup, model, kind: str) -> tuple[torch.Tensor, float]:
    """A picture of a kind by MODEL with the setup's LoRA, and the seconds that it takes the second time."""
    steered = model if kind == "plain" else unguide(model, setup.lora, SteeringConfig())
    prompt = ERASED if kind == "erased" else UNRELATED
    setup.draw(steered, prompt, STEPS, 1)
    synchronise(model.load_device)
    began = time.perf_counter()
    picture = setup.draw(steered, prompt, STEPS, 1)
    synchronise(model.load_device)
    return picture, time.perf_counter() - began


def compiled(setup: SamplingSetup, backend: str, plain: dict, report: Reporter) -> dict:
    """Kind -> compilations so far, relative error and seconds of the compiled model, reported as each is known."""
    torch._dynamo.reset()
    counters.clear()
    model = setup.model.clone()
    set_torch_compile_wrapper(model, backend=backend)
    result = {}
    for kind, (expected, uncompiled) in plain.items():
        began = time.perf_counter()
        picture, seconds = draw(setup, model, kind)
        result[kind] = {
            "compilations": counters["stats"]["unique_graphs"],
            "error": relative_error(picture, expected),
            "seconds_with_compiling": round(time.perf_counter() - began, 2),
            "seconds": round(seconds, 4), "uncompiled_seconds": round(uncompiled, 4),
        }  # fmt: skip
        report(**{backend: result})
    return result
