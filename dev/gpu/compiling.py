"""A model under torch.compile, by the host's own function, as its node TorchCompileModel calls it."""

from __future__ import annotations

import time

import torch

from dev.gpu.child import Asked, Tell
from dev.gpu.subjects import attempted, stage_of, start

COUNTED, FAST = "eager", "inductor"  # backends: one that makes no code is enough to count compilations
STEPS = 4


def measure(asked: Asked, tell: Tell) -> None:
    """How often it is compiled for plain, unrelated and erased pictures, that these are right, and what is gained."""
    device = start(asked)
    with torch.inference_mode():
        stage = stage_of(asked, device)
        stage.model.model.diffusion_model._forward_pre_hooks.clear()  # the stage's counter: it would be compiled, too
        plain = drawings(stage, stage.model)
        tell(uncompiled_seconds={name: seconds for name, (_, seconds) in plain.items()})
        found = attempted(lambda: compiled(stage, COUNTED, plain), device)
        tell(**{COUNTED: found})
        if "failed" not in found:
            tell(figures={"compilations": found["compilations"]})
        if not asked.small:
            tell(**{FAST: attempted(lambda: compiled(stage, FAST, plain), device)})


def drawings(stage, model) -> dict[str, tuple[torch.Tensor, float]]:
    """Plain, unrelated and erased pictures by MODEL with the stage's LoRA, and the seconds of a second time."""
    from unguide.unguide_ops.steering import SteeringSettings
    from unguide.unguide_ops.unguidance import unguide

    from dev.bench.ways import ERASED, UNRELATED, synchronise

    guided = unguide(model, stage.lora, SteeringSettings())
    found = {}
    for name, its, prompt in (("plain", model, UNRELATED), (UNRELATED, guided, UNRELATED), (ERASED, guided, ERASED)):
        stage.draw(its, prompt, STEPS, 1)
        synchronise(model.load_device)
        began = time.perf_counter()
        found[name] = stage.draw(its, prompt, STEPS, 1), 0.0
        synchronise(model.load_device)
        found[name] = found[name][0], round(time.perf_counter() - began, 4)
    return found


def compiled(stage, backend: str, plain: dict) -> dict:
    """The same drawn by the compiled model: compilations, relative errors, and seconds as ratios to `plain`."""
    import torch._dynamo
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from torch._dynamo.utils import counters

    from dev.bench.two_copies import relative_error

    torch._dynamo.reset()
    counters.clear()
    model = stage.model.clone()
    set_torch_compile_wrapper(model, backend=backend)
    began = time.perf_counter()
    found = drawings(stage, model)
    return {
        "compilations": counters["stats"]["unique_graphs"],
        "seconds_in_all": round(time.perf_counter() - began, 2),
        "errors": {name: relative_error(its, plain[name][0]) for name, (its, _) in found.items()},
        "wall": {name: round(seconds / plain[name][1], 4) for name, (_, seconds) in found.items()},
    }
