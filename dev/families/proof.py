"""What is to be shown for each family: it trains, it is steered as two copies of it would be, others read its files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch

from dev.bench.two_copies import blend, merge, relative_error
from dev.families.random_model import RandomModel

TARGET, REFERENCE, OTHER = "the cat", "the ground", "the dog"
STEPS, CFG, W = 3, 3.0, -1.0


class Proof:
    """One tiny model, and the LoRA that forgets a made-up concept of it."""

    def __init__(self, tiny: RandomModel, dtype: torch.dtype = torch.float32, load: Callable | None = None, **training):
        """`load()` makes the MODEL, anew each time; the random one itself unless given."""
        from unguide.unguide_ops import host
        from unguide.unguide_ops.concept import Concept, EncodedConcept
        from unguide.unguide_ops.settings import TrainingSettings
        from unguide.unguide_ops.training import train

        self.tiny, self.load = tiny, load or (lambda: tiny.model(dtype))
        self.model = self.load()
        concept = Concept(target=TARGET, reference=REFERENCE, synonyms=("the kitten",), preserve=(OTHER, "the horse"))
        self.concept = EncodedConcept.of(concept, tiny.prompt)
        self.settings = TrainingSettings(**{
            "iterations": 2, "steps": 4, "width": tiny.size, "height": tiny.size, "batch_size": 2, "reuse": 2,
            "rank": 2, "targets": "automatic", "schedule": "constant", "learning_rate": tiny.learning_rate,
            "retain_weight": 0.0, "start_guidance": 1.0,
            **training,
        })  # fmt: skip
        self.latent = host.empty_latent(self.model, tiny.size, tiny.size)
        self.weights = self.snapshot()
        self.training = train(self.model, self.concept, self.settings)
        self.lora = self.training.lora

    def snapshot(self) -> dict[str, torch.Tensor]:
        """Copies of the model's weights as they are now, in main memory, wherever the model is."""
        return {name: it.to("cpu", copy=True) for name, it in self.model.model.diffusion_model.state_dict().items()}

    def is_untouched(self) -> bool:
        """Whether the model's weights and forwards are what they were before the training."""
        now = self.snapshot()
        same = all(torch.equal(it, now[name]) for name, it in self.weights.items())
        return same and not any("forward" in vars(it) for it in self.model.model.modules())

    def losses(self) -> tuple[float, float]:
        """The erasing loss on a fixed batch, without the LoRA and with it."""
        from unguide.unguide_ops import host
        from unguide.unguide_ops.branch import Branch
        from unguide.unguide_ops.fitting import branch_of
        from unguide.unguide_ops.lessons import lessons_at, trajectory
        from unguide.unguide_ops.objective import row_losses

        branch = branch_of(self.model, self.lora)
        noise = torch.randn(self.latent.shape, generator=torch.Generator().manual_seed(7))

        def body(live) -> tuple[float, float]:
            path = trajectory(live, Branch({}), noise, TARGET, 1.0, 4, [0, 1], lambda x0: None)
            latents, sigmas = zip(*path, strict=True)
            it = lessons_at(live, torch.cat(latents), list(sigmas), [TARGET] * 2, [[], []], REFERENCE, 0.0, 8)
            with branch.attached(live.diffusion_model):
                before = row_losses(live.row_predictions(it.latents, it.sigmas, it.prompts), it.goals).mean().item()
                with branch.on():
                    after = row_losses(live.row_predictions(it.latents, it.sigmas, it.prompts), it.goals).mean().item()
            return before, after

        return host.session(self.model, self.concept.prompts, self.latent, body)

    def draw(self, model, prompt: str = TARGET) -> torch.Tensor:
        """The latent that a stock KSampler gives; guided, unless the model guides itself."""
        from unguide.unguide_ops import host, targets

        cfg = targets.guidance(host.diffusion_model(self.model), CFG)
        positive, negative = self.tiny.prompt(prompt), self.tiny.prompt("")
        latent = {"samples": self.latent.repeat(2, *[1] * (self.latent.ndim - 1))}
        return host.ksample(model, 3, STEPS, cfg, "euler", "simple", positive, negative, latent, 1.0)["samples"]

    def steered(self, w: float = W, lora=None, told=lambda course: None):
        """The MODEL under UnGuidance, as published."""
        from unguide.unguide_ops.steering import SteeringSettings
        from unguide.unguide_ops.unguidance import unguide

        asked = SteeringSettings(w=w, sides="cond and uncond", eta=1.0)
        return unguide(self.model, lora or self.lora, asked, told)

    def error_against_copies(self) -> float:
        """Of UnGuidance, against two copies of the model, the LoRA merged into one of them."""
        copies = blend(self.model, (merge(self.load(), self.lora), W))
        return relative_error(self.draw(self.steered()), self.draw(copies))

    def effect(self) -> float:
        """How far UnGuidance takes a picture."""
        return relative_error(self.draw(self.steered()), self.draw(self.model))

    def error_against_the_stock_loader(self, path: Path) -> tuple[float, int]:
        """Of our branch at w = 0, the file read back, against the host's own loader; and the keys it did not use."""
        import comfy.sd
        import comfy.utils
        from unguide.unguide_ops import files, host

        files.save_lora(path, self.lora)
        with listening() as said:
            stock, _ = comfy.sd.load_lora_for_models(self.model, None, comfy.utils.load_torch_file(str(path)), 1.0, 0.0)
        left = sum("lora key not loaded" in it for it in said)
        used = sum(len(them) for them in stock.patches.values())
        places = host.places(self.model)
        missing = len({places[name] for name in self.lora.pairs}) - used
        return relative_error(self.draw(self.steered(0.0, files.load_lora(path))), self.draw(stock)), left + missing

    def grid(self) -> tuple[torch.Tensor, int]:
        """The trainer's grid without a VAE, and the evaluations that it took."""
        from unguide.unguide_ops import host
        from unguide.unguide_ops.showcase import showcase

        return showcase(self.model, self.lora, self.concept, self.latent, 2, host.decoder(self.model, None))

    def decisions(self) -> list:
        """The gate's, about the target and then about another prompt; calibrated on a few captions.

        As if these had not been changed: to a random model they may be the target, and the gate would not decide.
        """
        from unguide.unguide_ops.calibrate import calibrate
        from unguide.unguide_ops.calibration import Level
        from unguide.unguide_ops.steering import SteeringSettings
        from unguide.unguide_ops.unguidance import unguide

        lora, _ = calibrate(self.model, self.lora, self.concept, self.tiny.size, self.tiny.size, captions=4)
        assert lora.calibration
        levels = tuple(Level(sigma=it.sigma, neutral=(0.0, 0.0, 0.0), preserved=(), target=it.target)
                       for it in lora.calibration.levels)  # fmt: skip
        lora.calibration = lora.calibration.model_copy(update={"levels": levels})
        found = []
        for prompt in (TARGET, OTHER):
            courses: list = []
            self.draw(unguide(self.model, lora, SteeringSettings(), courses.append), prompt)
            found.append(courses[0].decisions[0])
        return found


@contextmanager
def listening():
    """What the host logs meanwhile."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger().removeHandler(handler)
