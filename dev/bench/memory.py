"""Peak memory of training and sampling with a full-size Stable Diffusion 1.5 of random weights.

Each case runs in a process of its own, so that its peak is its own: `python -m dev.bench.memory CASE` prints it in MiB.
On a GPU the peak is torch's of that device, on a CPU the process's resident set less what it had before the model.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import resource
import subprocess
import sys

import torch

from dev.environment import ROOT
from dev.families.full import SD15
from dev.inprocess import load_pack, start_host

SIZE = 512
TRAINING = ("inference", "training", "training with checkpointing")
SAMPLING = ("sampling, plain", "sampling, ours, erased", "sampling, weight swap", "sampling, host weight hooks",
            "sampling, two copies")  # fmt: skip


def measure(cases: tuple[str, ...]) -> dict[str, float]:
    """Peak memory of each case, MiB."""
    return {case: json.loads(_run(case))["peak_mib"] for case in cases}


def _run(case: str) -> str:
    command = [sys.executable, "-m", "dev.bench.memory", case]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]


def half_on_a_gpu() -> torch.dtype:
    """What a checkpoint is loaded in: half precision on a GPU, single on a CPU."""
    import comfy.model_management

    return torch.float16 if comfy.model_management.get_torch_device().type == "cuda" else torch.float32


def run(case: str) -> float:
    """The peak of one case, MiB."""
    start_host()
    load_pack()
    from unguide.unguide_ops import host
    from unguide.unguide_ops.concept import Concept, EncodedConcept
    from unguide.unguide_ops.settings import preset
    from unguide.unguide_ops.training import train

    with torch.inference_mode():
        empty = resident_mib()
        if case in SAMPLING:
            from dev.bench import ways
            from dev.bench.random_stage import new_stage

            draw = dict(zip(SAMPLING, (ways.plain, ways.ours, ways.weight_swap, ways.host_hooks, ways.two_copies),
                            strict=True))[case]  # fmt: skip
            stage = new_stage(SD15, SIZE, half_on_a_gpu())
            draw(stage, ways.ERASED, 1, 1)
            return peak_mib(stage.model.load_device, empty)
        model = SD15.model(half_on_a_gpu())
        device = model.load_device

        if case == "inference":
            latent = {"samples": torch.zeros(1, 4, SIZE // 8, SIZE // 8)}
            host.ksample(model, 0, 2, 7.5, "euler", "normal", SD15.prompt("a"), SD15.prompt(""), latent, 1.0)
        else:
            concept = EncodedConcept.of(Concept(target="a", reference="b", preserve=("c", "d")), SD15.prompt)
            free = {"width": SIZE, "height": SIZE, "checkpointing": case != "training"}
            least = host.TrainingMemory(1, case != "training")  # whatever this machine has
            host.TrainingMemory.of = lambda *_: least
            short = dataclasses.replace(preset("object", **free), iterations=2, steps=2, reuse=2, batch_size=1)
            train(model, concept, short)
        return peak_mib(device, empty)


def peak_mib(device: torch.device, empty: float) -> float:
    """What was taken at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resident_mib(peak=True) - empty


def resident_mib(peak: bool = False) -> float:
    """Resident memory of this process, MiB."""
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with open("/proc/self/status", encoding="utf-8") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=(*TRAINING, *SAMPLING))
    print(json.dumps({"peak_mib": run(parser.parse_args().case)}))
