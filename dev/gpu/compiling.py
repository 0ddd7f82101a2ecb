"""A model under torch.compile, by the host's own function, as its node TorchCompileModel calls it."""

from __future__ import annotations

import functools
import time

import torch

from dev.gpu.child import Asked, Tell
from dev.gpu.subjects import attempted, stage_of, start

KINDS = ("plain", "unrelated", "erased")
COUNTED, FAST = "eager", "inductor"  # backends: one that makes no code is enough to count compilations
STEPS = 3


def measure(asked: Asked, tell: Tell) -> None:
    """How often it is compiled for plain, unrelated and erased pictures, that these are right, and what is gained."""
    device = start(asked)
    with torch.inference_mode():
        stage = stage_of(asked, device)
        stage.model.model.diffusion_model._forward_pre_hooks.clear()  # the stage's counter: it would be compiled, too
        plain = {kind: drawn(stage, stage.model, kind) for kind in KINDS}
        for backend in (COUNTED,) if asked.small else (COUNTED, FAST):
            found = attempted(functools.partial(compiled, stage, backend, plain, tell), device)
            tell(**{backend: found})
            if backend == COUNTED and "failed" not in found:
                tell(figures={"compilations": found["erased"]["compilations"]})


def drawn(stage, model, kind: str) -> tuple[torch.Tensor, float]:
    """A picture of a kind by MODEL with the stage's LoRA, and the seconds that it takes a second time."""
    from unguide.unguide_ops.steering import SteeringSettings
    from unguide.unguide_ops.unguidance import unguide

    from dev.bench.ways import ERASED, UNRELATED, synchronise

    its = model if kind == "plain" else unguide(model, stage.lora, SteeringSettings())
    prompt = ERASED if kind == "erased" else UNRELATED
    stage.draw(its, prompt, STEPS, 1)
    synchronise(model.load_device)
    began = time.perf_counter()
    picture = stage.draw(its, prompt, STEPS, 1)
    synchronise(model.load_device)
    return picture, time.perf_counter() - began


def compiled(stage, backend: str, plain: dict, tell: Tell) -> dict:
    """What becomes of each kind by the compiled model, told at once: compilations so far, relative error, seconds."""
    import torch._dynamo
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from torch._dynamo.utils import counters

    from dev.bench.two_copies import relative_error

    torch._dynamo.reset()
    counters.clear()
    model = stage.model.clone()
    set_torch_compile_wrapper(model, backend=backend)
    found = {}
    for kind, (expected, uncompiled) in plain.items():
        began = time.perf_counter()
        picture, seconds = drawn(stage, model, kind)
        found[kind] = {
            "compilations": counters["stats"]["unique_graphs"],
            "error": relative_error(picture, expected),
            "seconds_with_compiling": round(time.perf_counter() - began, 2),
            "seconds": round(seconds, 4), "uncompiled_seconds": round(uncompiled, 4),
        }  # fmt: skip
        tell(**{backend: found})
    return found
