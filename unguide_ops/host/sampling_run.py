"""A sampling run of the host: its noise levels, which of its prompts are negative, and what it costs."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

import comfy.hooks
import comfy.sampler_helpers
import comfy.samplers
import torch

from .evaluation_counter import EvaluationCounter
from .other_packs import replaced_forwards
from .pack_state import Snapshot
from .session import pixels
from .types import Conditioning

NEGATIVE_NAMES = re.compile(r"neg|uncond|null|empty|avoid|unwanted", re.IGNORECASE)
"""Found in the names that guiders give to negative prompts ("negative", "nag_negative", "empty_negative_prompt",
"uncond"). All other prompts are positive, and the gate decides on them."""


SCHEDULE = 100  # steps of the schedule from which `noisy_picture` takes its noise level


class RestartRun(Exception):  # noqa: N818 # not an error
    """Raised in a prediction to begin the sampling run again from the same noise."""


class SamplingRun:
    """A sampling run, which `RestartRun` may begin again.

    `batch_size` is the number of pictures, `positive_ids` and `negative_ids` are the uuids of its prompts' entries.
    """

    def __init__(self, guider: Any, noise: torch.Tensor, latent_image: torch.Tensor, sigmas: torch.Tensor):
        """Of a guider of the host that samples from noise and a latent image [B, ...] at noise levels [steps + 1]."""
        self.guider, self.noise, self.latent_image = guider, noise, latent_image
        self.replaced_forwards = replaced_forwards(guider.model_patcher.model.diffusion_model)
        self.batch_size = len(noise)
        # the host gives each entry of a prompt its uuid; for areas it adds entries to all prompts, behind their own,
        # with uuids of other prompts
        negative = {name for name in guider.conds if NEGATIVE_NAMES.search(name)}
        self.negative_ids = {e["uuid"] for name in negative for e in guider.conds[name] or ()}
        self.positive_ids = {
            e["uuid"] for name, cond in guider.conds.items() if name not in negative for e in cond or ()
        }
        self.sigmas: list[float] = sigmas.tolist()
        self.counter = EvaluationCounter()
        self.across_restarts: dict[Any, Any] = {}  # values that outlive a `RestartRun`
        self._changed: dict[str, dict[str, str]] = {}  # see `add_changed_prompts`: names in `guider.conds`
        self.reset()

    def reset(self) -> None:
        """Go to the first step, at the beginning and after each `RestartRun`."""
        self.plain_evaluations = 0  # model calls that plain sampling would have made
        self.call_count = 0  # predictions that the sampler has asked for
        self.pack_states: dict[Any, Snapshot] = {}  # other packs' state after the last prediction of each series
        self.initial_pack_state: Snapshot | None = None  # other packs' state before the first prediction
        self._step = 0

    def noisy_picture(self, share: float, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float] | None:
        """The latent image as the model has it, it with noise [B, ...], and the noise level; None if it is empty.

        `share`: of a DDIM schedule's way from the picture to pure noise.
        """
        if not self.latent_image.any():
            return None
        model, device = self.guider.inner_model, self.guider.model_patcher.load_device
        picture = model.process_latent_in(self.latent_image.to(device))
        sampling = model.model_sampling
        schedule = comfy.samplers.calculate_sigmas(sampling, "ddim_uniform", SCHEDULE)
        sigma = schedule[round((1 - share) * SCHEDULE)].item()
        level = picture.new_full((len(picture), *[1] * (picture.ndim - 1)), sigma)
        return picture, sampling.noise_scaling(level, noise.to(picture), picture), sigma

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its pictures, in pixels."""
        return pixels(self.guider.model_patcher, self.noise)

    @property
    def cfg(self) -> float | None:
        """The guidance scale, or None if the guider has none; for the host's dual guidance, the first of the two."""
        return getattr(self.guider, "cfg1", getattr(self.guider, "cfg", None))

    @property
    def evaluations(self) -> int:
        """Model calls made so far, those before a restart included."""
        return self.counter.count

    @property
    def steps(self) -> int:
        """The number of sampling steps."""
        return max(0, len(self.sigmas) - 1)

    def step(self, sigma: float) -> int:
        """The index of the step, from 0, that a prediction at this noise level belongs to.

        To be called in the order of the run. If the noise level has risen (restart sampling), it is the next step that
        begins at least as high, or the present one if there is none because the sampler adds noise by itself.
        """
        levels, low, high = self.sigmas, 1 - 1e-5, 1 + 1e-5
        if sigma > levels[self._step] * high:
            later = (i for i in range(self._step + 1, self.steps) if levels[i] >= sigma * low)
            self._step = next(later, self._step)
        while self._step + 1 < self.steps and sigma <= levels[self._step + 1] * high <= levels[self._step] * high:
            self._step += 1
        return self._step

    @property
    def changes_weights(self) -> bool:
        """Whether prompts carry hooks for which the host changes the model's weights during the run."""
        groups = [e["hooks"] for cond in self.guider.conds.values() for e in cond or () if e.get("hooks")]
        return any(group.get_type(comfy.hooks.EnumHookType.Weight) for group in groups)

    def add_prompt(self, name: str, conditioning: Conditioning) -> None:
        """Add a prompt to the run under a name, for `PredictionCall.predict_instead`.

        Raises ValueError if its text encoder is another than that of the run's prompts.
        """
        width = conditioning[0][0].shape[-1]
        entries = (e for cond in self.guider.conds.values() for e in cond or ())
        run_widths = {e["cross_attn"].shape[-1] for e in entries if "cross_attn" in e}
        if run_widths and width not in run_widths:
            raise ValueError(
                f"The LoRA's target prompt is {width} numbers wide, this run's prompts {min(run_widths)}: it was "
                f"encoded for another model. Put UnGuide Calibrate after the LoRA."
            )
        self.guider.conds[name] = comfy.sampler_helpers.convert_cond(conditioning)

    @property
    def positive_entries(self) -> list[dict]:
        """The host's entries of all positive prompts."""
        conds = (cond or () for cond in self.guider.conds.values())
        return [entry for cond in conds for entry in cond if entry["uuid"] in self.positive_ids]

    def add_changed_prompts(self, name: str, change: Callable[[dict], dict]) -> None:
        """Add a changed copy of each positive prompt to the run, for `PredictionCall`'s `changed=name`.

        `change(entry)` gives the host's entry of a prompt with another text.
        """
        names = self._changed[name] = {}
        for cond_name, cond in list(self.guider.conds.items()):
            if cond and cond[0]["uuid"] in self.positive_ids:
                names[cond_name] = f"{name} {cond_name}"
                self.guider.conds[names[cond_name]] = [{**change(entry), "uuid": uuid.uuid4()} for entry in cond]

    def changed_prompt(self, name: str, entry: dict) -> dict:
        """The changed copy of an entry of a positive cond, or the entry itself if there is none.

        For areas the host adds entries to all conds, in the same order to a cond and to its changed copy.
        """
        for cond_name, changed_name in self._changed[name].items():
            pairs = zip(self.guider.conds[cond_name], self.guider.conds[changed_name], strict=False)
            for original, changed in pairs:
                if original["uuid"] == entry["uuid"] and original.get("area") == entry.get("area"):
                    return changed
        return entry
