"""The device that tests and measurements run on: the CPU, or the host's GPU with `--device cuda`."""

from __future__ import annotations

import os

from dev.console import DevError

CPU, CUDA = "cpu", "cuda"
DEVICES = (CPU, CUDA)
VARIABLE = "UNGUIDE_DEVICE"  # how a command tells the processes that it starts


def chosen() -> str:
    """CPU or CUDA, as the command that started this process said. DevError for any other name in VARIABLE."""
    name = os.environ.get(VARIABLE) or CPU
    if name not in DEVICES:
        raise DevError(f"{VARIABLE} is {name!r}: set it to {' or '.join(DEVICES)}.")
    return name


def require(device: str) -> None:
    """DevError, in one sentence, if `device` is CUDA and torch finds no GPU that it can use."""
    if device != CUDA:
        return
    import torch  # the module is imported before the environment exists

    if not torch.cuda.is_available():
        raise DevError(
            f"`--device cuda` needs an NVIDIA GPU, and torch {torch.__version__} finds none: run it on a machine with "
            f"one, or leave `--device` out to use the CPU."
        )
