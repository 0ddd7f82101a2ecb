"""What pictures, training and calibrating take on a model: time, evaluations, memory."""

from __future__ import annotations

import dataclasses

import torch

from dev.gpu.child import Asked, Tell
from dev.gpu.subjects import OURS, SUBJECTS, attempted, measured, model_of, stage_of, start

ROUNDS = 3  # of which the median counts
SHORT, USUAL, LONG = 4, 20, 50  # steps of a picture
MANY = 4  # pictures a batch


def measure(asked: Asked, tell: Tell) -> None:
    """First what is asked about most."""
    device = start(asked)
    name, found = asked.about, {}
    with torch.inference_mode():
        stage, made = measured(lambda: stage_of(asked, device), device)
        tell(making=made)
        usual = times(stage, USUAL, 1, 1 if asked.small else ROUNDS)
        ratios = {kind: usual[f"ours, {kind}"]["wall"] for kind in ("unrelated", "erased")}
        tell(**{f"{USUAL} steps": usual}, figures={f"{name}_{kind}_ratio_{USUAL}": it for kind, it in ratios.items()})
        tell(figures={"bit_identical": int(all(identical(stage, batch) for batch in (1, MANY)))})
        tell(memory={way: peak_of(stage, way, 1) for way in OURS})
        found = attempted(lambda: trained(asked, stage, checkpointing=False), device)
        tell(training=found)
        if "failed" not in found and SUBJECTS[name].iterations is None:
            tell(figures={f"{name}_train_seconds": found["seconds"], f"{name}_train_peak_gib": found["peak_gib"]})
        tell(calibrating=attempted(lambda: calibrated(asked, stage), device))
        tell(**{"training, with checkpointing": attempted(lambda: trained(asked, stage, True), device)})
        tell(**{f"memory, batch {MANY}": {way: peak_of(stage, way, MANY) for way in OURS}})
        others = ((USUAL, MANY), (SHORT, 1), (LONG, 1), (SHORT, MANY), (LONG, MANY))
        for steps, batch in () if asked.small else others:
            tell(**{f"{steps} steps, batch {batch}": times(stage, steps, batch, 1)})


def times(stage, steps: int, batch: int, rounds: int) -> dict:
    """Plain, unrelated and erased pictures side by side: see `ways.costs`."""
    from dev.bench.ways import costs

    found = costs(stage, steps, batch, rounds, OURS)
    return {way: {name: round(value, 4) for name, value in its.items()} for way, its in found.items()}


def identical(stage, batch: int) -> bool:
    """Whether unrelated pictures are the base's, bit for bit."""
    from dev.bench import ways

    return torch.equal(ways.plain(stage, ways.UNRELATED, SHORT, batch), ways.ours(stage, ways.UNRELATED, SHORT, batch))


def peak_of(stage, way: str, batch: int) -> float:
    """The most memory that a picture takes in some way, GiB."""
    from dev.bench.ways import WAYS

    draw, prompt = WAYS[way]
    return measured(lambda: draw(stage, prompt, 2, batch), stage.model.load_device)[1]["peak_gib"]


def concept_on(it):
    """The cat, in the made-up prompts of a RandomModel."""
    from unguide.unguide_ops.concept import EncodedConcept, concept_from

    return EncodedConcept.of(concept_from("cat", "", "", "", ""), it.prompt)


def trained(asked: Asked, stage, checkpointing: bool) -> dict:
    """Training by the preset for objects, or its first iterations."""
    from unguide.unguide_ops.settings import preset
    from unguide.unguide_ops.training import train

    it, size = model_of(asked), stage.lora.calibration.width
    settings = preset("object", width=size, height=size, checkpointing=checkpointing)
    iterations = 2 if asked.small else SUBJECTS[asked.about].iterations
    if iterations:
        settings = dataclasses.replace(settings, iterations=iterations, reuse=min(iterations, settings.reuse))
    training, took = measured(lambda: train(stage.model, concept_on(it), settings), stage.model.load_device)
    return {**training.report(), **took, "finite": training.lora.is_finite}


def calibrated(asked: Asked, stage) -> dict:
    """Measuring the gate of the stage's LoRA."""
    from unguide.unguide_ops.calibrate import calibrate

    it, size = model_of(asked), stage.lora.calibration.width
    captions = {"captions": 3} if asked.small else {}
    (_, evaluations), took = measured(
        lambda: calibrate(stage.model, stage.lora, concept_on(it), size, size, **captions), stage.model.load_device
    )
    return {"evaluations": evaluations, **took}
