"""What is checked of each model family: it trains, it is steered as two copies would be, others read its files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from logging.handlers import BufferingHandler
from pathlib import Path

import comfy.sd
import comfy.utils
import torch
from unguide.unguide_ops import host
from unguide.unguide_ops.concept import Concept, EncodedConcept
from unguide.unguide_ops.files import lora_file
from unguide.unguide_ops.gate.calibrate import calibrate
from unguide.unguide_ops.gate.calibration import KnownScores, LevelScores
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.preview_grid import preview_grid
from unguide.unguide_ops.guidance.unguidance import unguide
from unguide.unguide_ops.lora import target_layers
from unguide.unguide_ops.lora.adapter import LoRAAdapter
from unguide.unguide_ops.model_adapter import adapter_for
from unguide.unguide_ops.training.batches import batch_at, student_trajectory
from unguide.unguide_ops.training.config import TrainingConfig
from unguide.unguide_ops.training.loss import prediction_losses
from unguide.unguide_ops.training.trainer import train

from dev.bench.reference import blend, merge, relative_error
from dev.families.random_model import RandomModel

TARGET, REFERENCE, OTHER = "the cat", "the sky", "the dog"
STEPS, CFG, W = 3, 3.0, -1.0


class FamilyCheck:
    """One tiny model, and the LoRA that forgets a made-up concept of it."""

    def __init__(self, tiny: RandomModel, dtype: torch.dtype = torch.float32, load: Callable | None = None, **training):
        """`load()` makes a new MODEL, by default the random one; `training` are further settings of the training."""
        self.tiny, self.load = tiny, load or (lambda: tiny.model(dtype))
        self.model = self.load()
        concept = Concept(target=TARGET, reference=REFERENCE, synonyms=("the kitten",), preserve=(OTHER, "the horse"))
        self.concept = EncodedConcept.of(concept, tiny.prompt)
        self.settings = TrainingConfig(**{
            "iterations": 2, "steps": 4, "width": tiny.size, "height": tiny.size, "batch_size": 2, "reuse": 2,
            "rank": 4, "targets": "automatic", "schedule": "constant", "learning_rate": tiny.learning_rate,
            "retain_weight": 0.0, "start_guidance": 1.0,
            **training,
        })  # fmt: skip
        self.latent = host.empty_latent(self.model, tiny.size, tiny.size)
        self.weights = self.snapshot()
        self.training = train(self.model, self.concept, self.settings)
        self.lora = self.training.lora

    def snapshot(self) -> dict[str, torch.Tensor]:
        """Copies of the model's weights as they are now, in main memory, wherever the model is."""
        weights = self.model.model.diffusion_model.state_dict()
        return {name: weight.to("cpu", copy=True) for name, weight in weights.items()}

    def is_untouched(self) -> bool:
        """Whether the model's weights and forwards are what they were before the training."""
        now = self.snapshot()
        same = all(torch.equal(weight, now[name]) for name, weight in self.weights.items())
        return same and not any("forward" in vars(module) for module in self.model.model.modules())

    def losses(self) -> tuple[float, float]:
        """The erasing loss on a fixed batch, without the LoRA and with it."""
        adapter = adapter_for(self.model, self.lora)
        noise = torch.randn(self.latent.shape, generator=torch.Generator().manual_seed(7))

        def body(live) -> tuple[float, float]:
            trajectory = student_trajectory(live, LoRAAdapter({}), noise, TARGET, 1.0, 4, [0, 1], lambda x0: None)
            latents, sigmas = zip(*trajectory, strict=True)
            batch = batch_at(live, torch.cat(latents), list(sigmas), [TARGET] * 2, [[], []], REFERENCE, 0.0, 8)

            def loss() -> float:
                predicted = live.row_predictions(batch.latents, batch.sigmas, batch.prompts)
                return prediction_losses(predicted, batch.goals).mean().item()

            with adapter.attached(live.diffusion_model):
                before = loss()
                with adapter.on():
                    return before, loss()

        return host.session(self.model, self.concept.prompts, self.latent, body)

    def draw(self, model, prompt: str = TARGET) -> torch.Tensor:
        """The latent that a stock KSampler gives; guided, unless the model guides itself."""
        cfg = target_layers.effective_cfg(host.diffusion_model(self.model), CFG)
        positive, negative = self.tiny.prompt(prompt), self.tiny.prompt("")
        latent = {"samples": self.latent.repeat(2, *[1] * (self.latent.ndim - 1))}
        return host.ksample(model, 3, STEPS, cfg, "euler", "simple", positive, negative, latent, 1.0)["samples"]

    def steered(self, w: float = W, lora=None):
        """The MODEL under UnGuidance by the published formula, with another LoRA if one is given."""
        config = SteeringConfig(w=w, lora_branch="cond and uncond", eta=1.0)
        return unguide(self.model, lora or self.lora, config)

    def error_against_copies(self) -> float:
        """The relative error of UnGuidance against two copies of the model, the LoRA merged into one of them."""
        copies = blend(self.model, (merge(self.load(), self.lora), W))
        return relative_error(self.draw(self.steered()), self.draw(copies))

    def effect(self) -> float:
        """How far UnGuidance changes a picture, relative to the base model's."""
        return relative_error(self.draw(self.steered()), self.draw(self.model))

    def error_against_the_stock_loader(self, path: Path) -> tuple[float, int]:
        """The relative error of our adapter alone, from its file, against the host's own loader; and the number of the
        file's keys that the host's loader did not use.
        """
        lora_file.save_lora(path, self.lora)
        log = BufferingHandler(capacity=10**6)
        logging.getLogger().addHandler(log)
        try:
            stock, _ = comfy.sd.load_lora_for_models(self.model, None, comfy.utils.load_torch_file(str(path)), 1.0, 0.0)
        finally:
            logging.getLogger().removeHandler(log)
        unused = sum("lora key not loaded" in record.getMessage() for record in log.buffer)
        used = sum(len(patches) for patches in stock.patches.values())
        slices = host.layer_slices(self.model)
        unused += len({slices[name] for name in self.lora.pairs}) - used
        return relative_error(self.draw(self.steered(0.0, lora_file.load_lora(path))), self.draw(stock)), unused

    def grid(self) -> tuple[torch.Tensor, int]:
        """The trainer's preview grid without a VAE, and the model calls that it took."""
        return preview_grid(self.model, self.lora, self.concept, self.latent, 2, host.decoder(self.model, None))

    def decisions(self) -> list:
        """The gate's decisions about the target prompt and then about another; calibrated on a few captions.

        The captions' scores are set to 0: to a random model they may be as the target's, and the gate would not decide.
        """
        lora, _ = calibrate(self.model, self.lora, self.concept, self.tiny.size, self.tiny.size, captions=4)
        assert lora.calibration
        others = {"neutral": (0.0, 0.0, 0.0), "preserved": ()}
        levels = tuple(LevelScores(sigma=it.sigma, target=it.target, **others) for it in lora.calibration.levels)
        text = lora.calibration.text and KnownScores(target=lora.calibration.text.target, **others)
        lora.calibration = lora.calibration.model_copy(update={"levels": levels, "text": text})
        reports: list = []
        for prompt in (TARGET, OTHER):
            self.draw(unguide(self.model, lora, SteeringConfig(), reports.append), prompt)
        return [report.decisions[0] for report in reports]
