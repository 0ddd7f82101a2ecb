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


def new_stable_diffusion():
    """The host's SD 1.5 UNet as a MODEL, its weights random: what is measured is memory."""
    import comfy.model_management
    import comfy.model_patcher
    from comfy.supported_models import SD15

    config = SD15({**SD15.unet_config, "in_channels": 4, "out_channels": 4, "image_size": 32, "model_channels": 320,
                   "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "num_heads": 8,
                   "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
                   "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "legacy": False,
                   "use_spatial_transformer": True})  # fmt: skip
    device = comfy.model_management.get_torch_device()
    config.set_inference_dtype(torch.float16 if device.type == "cuda" else torch.float32, None)
    model = config.get_model({}, "")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(model.eval(), load_device=device, offload_device=offload)


def full_size_stage(side: int):
    """The stage of `ways` with that UNet, latents of side x side, a random LoRA and a gate that takes the target."""
    from unguide.unguide_ops import host, targets
    from unguide.unguide_ops.calibration import Calibration, Level
    from unguide.unguide_ops.lora import ConceptLoRA, LowRankPair, Place

    from dev.bench.ways import ERASED, UNRELATED, Stage

    torch.manual_seed(0)
    model = new_stable_diffusion()
    names, generator, pairs = host.file_names(model, "kohya"), torch.Generator().manual_seed(0), {}
    for path, linear in targets.select(host.diffusion_model(model), targets.CROSS_ATTENTION).linears.items():
        pair = LowRankPair.create(linear.in_features, linear.out_features, 4, 1.0, generator)
        pair.up = 0.01 * torch.randn(pair.up.shape, generator=generator)
        pairs[names[Place(path)]] = pair
    target = torch.randn(1, 77, 768)
    prompts = {ERASED: [[target, {}]], UNRELATED: [[-target, {}]], "": [[torch.zeros(1, 77, 768), {}]]}
    level = Level(sigma=14.6, neutral=(0.0, 0.01, 0.02), preserved=(), target=(1.0,))
    known = Calibration(
        base=host.fingerprint(model), width=8 * side, height=8 * side, cfg=7.5, steps=10, levels=(level,)
    )
    lora = ConceptLoRA(pairs, target_prompt=host.pack_conditioning(prompts[ERASED]), calibration=known)

    def copy():
        torch.manual_seed(0)
        return new_stable_diffusion()

    return Stage(model, lora, prompts, torch.zeros(1, 4, side, side), copy)


def run(case: str) -> float:
    """The peak of one case, MiB."""
    start_host()
    load_pack()
    from unguide.unguide_ops import host
    from unguide.unguide_ops.concept import Concept, EncodedConcept
    from unguide.unguide_ops.settings import preset
    from unguide.unguide_ops.training import train

    torch.manual_seed(0)
    with torch.inference_mode():
        empty = resident_mib()
        if case in SAMPLING:
            from dev.bench import ways

            draw = dict(zip(SAMPLING, (ways.plain, ways.ours, ways.weight_swap, ways.host_hooks, ways.two_copies),
                            strict=True))[case]  # fmt: skip
            stage = full_size_stage(SIZE // 8)
            draw(stage, ways.ERASED, 1, 1)
            return peak_mib(stage.model.load_device, empty)
        model = new_stable_diffusion()
        device = model.load_device

        def encode(prompt: str) -> list:
            return [[torch.randn(1, 77, 768), {}]]

        if case == "inference":
            latent = {"samples": torch.zeros(1, 4, SIZE // 8, SIZE // 8)}
            host.ksample(model, 0, 2, 7.5, "euler", "normal", encode("a"), encode(""), latent, 1.0)
        else:
            concept = EncodedConcept.of(Concept(target="a", reference="b", preserve=("c", "d")), encode)
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
