"""Peak memory of training and sampling with a full-size Stable Diffusion 1.5 of random weights.

Each case runs in a process of its own, so that its peak is its own. On a GPU that is torch's peak on the device, on a
CPU the process's resident set less what it was before the model.
"""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Iterable

import comfy.model_management
import psutil
import torch
from unguide.unguide_ops import host
from unguide.unguide_ops.concept import Concept, EncodedConcept
from unguide.unguide_ops.training.config import preset
from unguide.unguide_ops.training.trainer import train

from dev.bench import new_pool, sampling_methods
from dev.bench.random_model_session import random_model_setup
from dev.families.full import SD15

SIZE = 512
TRAINING = ("inference", "training", "training with checkpointing")
SAMPLING = {
    "sampling, plain": sampling_methods.plain,
    "sampling, ours, erased": sampling_methods.unguidance,
    "sampling, weight swap": sampling_methods.weight_swap,
    "sampling, host weight hooks": sampling_methods.host_hooks,
    "sampling, two copies": sampling_methods.two_copies,
}


def measure(cases: Iterable[str]) -> dict[str, float]:
    """Peak memory of each case, MiB."""
    peaks = {}
    for case in cases:
        with new_pool(1) as pool:
            peaks[case] = pool.submit(peak_of, case).result()
    return peaks


def loading_dtype() -> torch.dtype:
    """What a checkpoint is loaded in: half precision on a GPU, single on a CPU."""
    return torch.float16 if comfy.model_management.get_torch_device().type == "cuda" else torch.float32


@torch.inference_mode()
def peak_of(case: str) -> float:
    """A task for a process of its own: runs the case, and returns its peak in MiB."""
    before = resident_mib()
    if case in SAMPLING:
        setup = random_model_setup(SD15, SIZE, loading_dtype())
        SAMPLING[case](setup, sampling_methods.ERASED, 1, 1)
    elif case == "inference":
        latent = {"samples": torch.zeros(1, 4, SIZE // 8, SIZE // 8)}
        positive, negative = SD15.prompt("a"), SD15.prompt("")
        host.ksample(SD15.model(loading_dtype()), 0, 2, 7.5, "euler", "normal", positive, negative, latent, 1.0)
    else:
        checkpointing = case != "training"
        concept = EncodedConcept.of(Concept(target="a", reference="b", preserve=("c", "d")), SD15.prompt)
        one_row = host.TrainingMemory(1, checkpointing)  # whatever memory this machine has
        host.TrainingMemory.of = lambda *_: one_row
        config = preset("object", width=SIZE, height=SIZE, checkpointing=checkpointing)
        short = dataclasses.replace(config, iterations=2, steps=2, reuse=2, batch_size=1)
        train(SD15.model(loading_dtype()), concept, short)
    if comfy.model_management.get_torch_device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_resident_mib() - before


def resident_mib() -> float:
    """The memory that this process holds now, MiB."""
    return psutil.Process().memory_info().rss / 2**20


def peak_resident_mib() -> float:
    """The most memory that this process has held so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
