"""Every control of the training, and the presets that set them at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import torch

from . import targets
from .concept import Concept

OPTIMIZERS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD}
CONSTANT, LINEAR, COSINE = "constant", "linear", "cosine"
SCHEDULES = (CONSTANT, LINEAR, COSINE)
CONCEPT_DIRECTIONS, RANDOM = "concept directions", "random"
INITIALISATIONS = (CONCEPT_DIRECTIONS, RANDOM)


@dataclass(frozen=True)
class TrainingSettings:
    """The controls; where the paper has one, under its name. The defaults forget an object."""

    iterations: int = 60
    learning_rate: float = 0.02  # with concept directions: of each layer's own output, by iteration
    rank: int = 4
    alpha: float = 8.0  # raw multiplier of the low-rank change
    targets: str = targets.CROSS_ATTENTION
    negative_guidance: float = 0.0  # g of the objective; sampling with w = -1 adds 1
    start_guidance: float = 9.0  # CFG of the trajectory that the latents are taken from
    steps: int = 10  # of that trajectory's DDIM schedule
    width: int = 512  # pixels
    height: int = 512
    seed: int = 0
    optimizer: str = "Adam"
    schedule: str = COSINE  # of the learning rate
    initialisation: str = CONCEPT_DIRECTIONS  # of the layers that read the text
    ridge: float = 0.01  # of the concept directions: the more, the more neighbours they let through
    batch_size: int = 4  # latents an iteration
    reuse: int = 10  # iterations that a trajectory serves
    train_synonyms: bool = True  # erase the synonyms as well, by turns
    retain_weight: float = 3.0  # of the mean retain loss
    retain_prompts: int = 1  # prompts that must stay as they are, for each latent
    pattern: str = ""  # of the target layers' names, with custom targets
    checkpointing: bool = False  # compute activations twice instead of keeping them
    early_stop: bool = False

    def erased(self, concept: Concept) -> tuple[str, ...]:
        """The prompts to erase, the target first."""
        return concept.erased if self.train_synonyms else concept.erased[:1]

    @property
    def lessons(self) -> int:
        """How many rows of a batch an iteration learns from, at most."""
        return self.batch_size * (1 + (self.retain_prompts if self.retain_weight else 0))

    def new_optimizer(self, parameters: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
        """One of torch's own. Raises ValueError for a name that is not in OPTIMIZERS."""
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"`optimizer` is {self.optimizer!r}: use one of {', '.join(OPTIMIZERS)}.")
        return OPTIMIZERS[self.optimizer](parameters, lr=self.learning_rate)

    def new_schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """One of torch's own; all but the constant one end at 0. Raises ValueError for an unknown name."""
        if self.schedule == CONSTANT:
            return torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        if self.schedule == LINEAR:
            return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, self.iterations)
        if self.schedule == COSINE:
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.iterations)
        raise ValueError(f"`schedule` is {self.schedule!r}: use one of {', '.join(SCHEDULES)}.")


OBJECT = TrainingSettings()
PAPER_OBJECT = TrainingSettings(
    iterations=200, learning_rate=3e-5, rank=1, negative_guidance=2.0, steps=50, schedule=CONSTANT,
    initialisation=RANDOM, batch_size=1, reuse=1, train_synonyms=False, retain_weight=0.0, retain_prompts=0,
)  # fmt: skip
NUDITY = replace(  # so many layers add up
    OBJECT, targets=targets.ALL_BUT_CROSS_ATTENTION, learning_rate=0.003, negative_guidance=2.0
)
PAPER_NUDITY = replace(PAPER_OBJECT, targets=targets.ALL_BUT_CROSS_ATTENTION)
PRESETS = {"object": OBJECT, "nudity": NUDITY, "object, as in the paper": PAPER_OBJECT,
           "nudity, as in the paper": PAPER_NUDITY}  # fmt: skip
FREE = ("width", "height", "seed", "checkpointing", "early_stop")
"""What no preset sets."""


def controls(settings: TrainingSettings) -> dict:
    """What a preset sets, JSON-like: the page shows it (web/presets.json)."""
    return {name: value for name, value in asdict(settings).items() if name not in FREE}


def preset(name: str, **free) -> TrainingSettings:
    """A preset's settings, with the fields that it leaves FREE. Raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"`preset` is {name!r}: use one of {', '.join(map(repr, PRESETS))}.")
    return replace(PRESETS[name], **{field: value for field, value in free.items() if field in FREE})
