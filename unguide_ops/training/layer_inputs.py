"""What a model's layers read under a prompt, recorded while the model predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch

from ..lora.forward_patch import patched_forwards

if TYPE_CHECKING:
    from ..host import LiveModel

Inputs = dict[str, torch.Tensor]
"""What each layer reads, by its path: [rows, width], on the CPU. Layers that read the same share one tensor."""

Linears = Mapping[str, torch.nn.Linear]
"""By module path."""

NO_CHANGE = 0.01  # of what a layer reads, for another noise, in units of the change for another prompt

LEVEL = 0.5
"""The noise level of the latent, as a share of a trajectory's steps: some models scale and shift the text by it."""


class LayerInputs:
    """Records what Linears of a live model read under its prompts, with one model call a prompt."""

    def __init__(self, live: LiveModel, noises: torch.Tensor, steps: int):
        """`noises`: [2, ...], unit noise; `steps`: of the trajectory that the noise level is taken from."""
        self.live, self.noises = live, noises
        self.sigma = live.ddim_sigmas(steps)[int(LEVEL * steps)]

    def that_read_text_alone(self, linears: Linears, prompt: str, other: str) -> Linears:
        """Those Linears that read nothing but the text, found in three model calls.

        What they read is another under a prompt of another meaning, and the same for another noise.
        """
        cases = ((prompt, 0), (prompt, 1), (other, 0))
        mean, by_noise, by_prompt = (self._recorded(linears, text, noise, _mean) for text, noise in cases)
        return {
            path: linears[path]
            for path in mean
            if (by_noise[path] - mean[path]).norm() < NO_CHANGE * (by_prompt[path] - mean[path]).norm()
        }

    def under(self, prompt: str, linears: Linears) -> Inputs:
        """What each of the Linears reads under a prompt: tokens, or one row for a pooled vector.

        Those that the model does not call are missing. Raises FloatingPointError if a layer is given NaN or infinity.
        """
        inputs = self._recorded(linears, prompt, 0, lambda rows: rows)
        for path, rows in inputs.items():
            if not rows.isfinite().all():
                raise FloatingPointError(
                    f"The model itself computes NaN or infinite values, without the LoRA (in `{path}`): load it in "
                    f"bf16 or fp32, or choose its native `width` and `height`."
                )
        return inputs

    @property
    def device_for_products(self) -> torch.device:
        """Where large matrices are multiplied in double precision: the model's device, if it can."""
        return self.live.device if self.live.device.type == "cuda" else torch.device("cpu")

    @torch.no_grad()
    def _recorded(self, linears: Linears, prompt: str, noise: int, reduce: Callable) -> Inputs:
        """`reduce(rows [rows, width])` of what layers read in one prediction of one latent."""
        recorder = _Recorder(reduce)
        with patched_forwards((linear, partial(recorder.wrap, path)) for path, linear in linears.items()):
            x = self.live.first_latents(self.sigma, self.noises[noise : noise + 1])
            self.live.denoised(x, self.sigma, prompt)
        return {path: calls[0] if len(calls) == 1 else torch.cat(calls) for path, calls in recorder.read.items()}


class _Recorder:
    """Wraps the `forward` of layers so that it keeps what they read, once for all that read the same memory."""

    def __init__(self, reduce: Callable[[torch.Tensor], torch.Tensor]):
        self.reduce = reduce
        self.read: dict[str, list[torch.Tensor]] = {}
        self._kept: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}  # alive, no two inputs have the same address

    def wrap(self, path: str, forward: Callable) -> Callable:
        """The layer's `forward`, recorded under its path."""

        def recording(x, *args, **kwargs):
            key = (x.data_ptr(), *x.shape)
            if key not in self._kept:
                self._kept[key] = x, self.reduce(x.detach().reshape(-1, x.shape[-1])).cpu()
            self.read.setdefault(path, []).append(self._kept[key][1])
            return forward(x, *args, **kwargs)

        return recording


def _mean(rows: torch.Tensor) -> torch.Tensor:
    return rows.float().mean(0, keepdim=True)
