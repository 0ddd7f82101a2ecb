"""The same picture where the host keeps weights in main memory, or in fp8."""

from __future__ import annotations

from pathlib import Path

import torch

from dev.device import CPU, chosen
from dev.gpu.child import Asked, Tell
from dev.gpu.pictures import SHORT, identical, times
from dev.gpu.subjects import stage_of, start

ACTED = {"--lowvram": 300_000.0, "--novram": 0.1}
"""Flags that the host does not take on a CPU: there, so many bytes of weights are loaded and the others fetched."""
MOST = "MOST"  # in the flags: all of the card's memory but ROOM_GIB
ROOM_GIB = 1.6  # what the host keeps free whatever is reserved (0.8), and half of Stable Diffusion 1.5 in fp16


def measure(asked: Asked, tell: Tell) -> None:
    """Times as ratios to plain pictures; whether unrelated ones are the base's; how far erased ones are from usual."""
    flags = tuple(f"{most_to_reserve():.2f}" if flag == MOST else flag for flag in asked.flags)
    acted = [ACTED[flag] for flag in flags if flag in ACTED and chosen() == CPU]
    device = start(asked, () if acted else flags)
    for memory in acted:
        load_no_more_than(memory)
    from dev.bench import ways
    from dev.bench.two_copies import relative_error

    with torch.inference_mode():
        stage = stage_of(asked, device)
        drawn = ways.ours(stage, ways.ERASED, SHORT, 1)
        left = stage.model.model_size() - stage.model.loaded_size()
        tell(flags=flags, left_in_main_memory_mib=round(left / 2**20, 1), finite=bool(drawn.isfinite().all()))
        usual = Path(asked.folder, "usual.pt")
        if not usual.exists():  # the first of these parts
            torch.save(drawn.clone(), usual)
        tell(error=relative_error(drawn, torch.load(usual, weights_only=True)))
        tell(figures={"bit_identical": int(identical(stage, 1))})
        tell(**{f"{SHORT} steps": times(stage, SHORT, 1, 1)})


def load_no_more_than(memory: float) -> None:
    """Let the host load so many bytes of any model's weights, in this process."""
    import comfy.model_management

    whole = comfy.model_management.LoadedModel.model_load
    comfy.model_management.LoadedModel.model_load = lambda self, *args, **kwargs: whole(self, memory, True)


def most_to_reserve() -> float:
    """GiB, for --reserve-vram; 1 where there is no card."""
    free = torch.cuda.mem_get_info()[0] / 2**30 if torch.cuda.is_available() else 0.0
    return max(1.0, free - ROOM_GIB)
