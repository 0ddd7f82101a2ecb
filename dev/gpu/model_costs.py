"""What pictures, training and calibrating cost on a model: time, model calls, memory."""

from __future__ import annotations

import dataclasses

import torch
from comfy.model_management import get_torch_device
from unguide.unguide_ops.concept import EncodedConcept
from unguide.unguide_ops.gate.calibrate import calibrate
from unguide.unguide_ops.training.config import preset
from unguide.unguide_ops.training.trainer import train

from dev.bench.sampling_methods import METHODS, UNRELATED, SamplingSetup, costs, plain, unguidance
from dev.gpu.child import Reporter, Request
from dev.gpu.models import MODELS, attempted, encoded_concept, measured, new_setup

MEASURED = ("plain", "ours, unrelated", "ours, erased")  # of METHODS
ROUNDS = 3  # of which the median counts
SHORT, USUAL, LONG = 4, 20, 50  # steps of a picture
BATCH = 4


@torch.inference_mode()
def measure(request: Request, report: Reporter) -> None:
    """Report the most important measurements first."""
    device, name = get_torch_device(), request.model
    setup, cost = measured(lambda: new_setup(request, device), device)
    report(making=cost)
    usual = times(setup, USUAL, 1, 1 if request.small else ROUNDS)
    ratios = {f"{name}_{it}_ratio_{USUAL}": usual[f"ours, {it}"]["wall"] for it in ("unrelated", "erased")}
    report(**{f"{USUAL} steps": usual}, figures=ratios)
    report(figures={"bit_identical": int(all(identical(setup, batch) for batch in (1, BATCH)))})
    report(memory={method: peak_of(setup, method, 1) for method in MEASURED})
    training = attempted(lambda: trained(request, setup, checkpointing=False), device)
    report(training=training)
    if "failed" not in training and MODELS[name].iterations is None:
        report(figures={f"{name}_train_{it}": training[it] for it in ("seconds", "peak_gib")})
    report(calibrating=attempted(lambda: calibrated(request, setup), device))
    report(**{"training, with checkpointing": attempted(lambda: trained(request, setup, True), device)})
    report(**{f"memory, batch {BATCH}": {method: peak_of(setup, method, BATCH) for method in MEASURED}})
    others = ((USUAL, BATCH), (SHORT, 1), (LONG, 1), (SHORT, BATCH), (LONG, BATCH))
    for steps, batch in () if request.small else others:
        report(**{f"{steps} steps, batch {batch}": times(setup, steps, batch, 1)})


def times(setup: SamplingSetup, steps: int, batch: int, rounds: int) -> dict:
    """Plain, unrelated and erased pictures side by side: see `sampling_methods.costs`."""
    by_method = costs(setup, steps, batch, rounds, MEASURED)
    return {method: {name: round(value, 4) for name, value in cost.items()} for method, cost in by_method.items()}


def identical(setup: SamplingSetup, batch: int) -> bool:
    """Whether unrelated pictures are the base model's, bit for bit."""
    return torch.equal(*(draw(setup, UNRELATED, SHORT, batch) for draw in (plain, unguidance)))


def peak_of(setup: SamplingSetup, method: str, batch: int) -> float:
    """The most memory that a batch of pictures takes by one of METHODS, GiB."""
    draw, prompt = METHODS[method]
    return measured(lambda: draw(setup, prompt, 2, batch), setup.model.load_device)[1]["peak_gib"]


def trained(
    request: Request, setup: SamplingSetup, checkpointing: bool, concept: EncodedConcept | None = None,
    iterations: int | None = None,
) -> dict:  # fmt: skip
    """What training by the preset for objects costs, or its first iterations; by default the cat's."""
    size = setup.lora.calibration.width
    iterations = 2 if request.small else iterations or MODELS[request.model].iterations
    config = preset("object", width=size, height=size, checkpointing=checkpointing)
    if iterations:
        config = dataclasses.replace(config, iterations=iterations, reuse=min(iterations, config.reuse))
    concept = concept or encoded_concept(request)
    training, cost = measured(lambda: train(setup.model, concept, config), setup.model.load_device)
    return {**training.report(), **cost, "finite": training.lora.is_finite}


def calibrated(request: Request, setup: SamplingSetup) -> dict:
    """What calibrating the gate of the setup's LoRA costs."""
    size, captions = setup.lora.calibration.width, {"captions": 3} if request.small else {}
    (_, evaluations), cost = measured(
        lambda: calibrate(setup.model, setup.lora, encoded_concept(request), size, size, **captions),
        setup.model.load_device,
    )
    return {"evaluations": evaluations, **cost}
