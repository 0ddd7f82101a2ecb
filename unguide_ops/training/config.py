"""`TrainingConfig`, all controls of a training, and the presets, which set most of them at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import torch

from ..concept import Concept
from ..lora import target_layers

OPTIMIZERS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD}
CONSTANT, LINEAR, COSINE, ONE_CYCLE = "constant", "linear", "cosine", "one cycle"
SCHEDULES = (CONSTANT, LINEAR, COSINE, ONE_CYCLE)
CONCEPT_DIRECTIONS, RANDOM = "concept directions", "random"
INITIALISATIONS = (CONCEPT_DIRECTIONS, RANDOM)


@dataclass(frozen=True)
class TrainingConfig:
    """The controls of a training, named as in the paper if it has them. The defaults suit objects."""

    iterations: int = 60
    learning_rate: float = 0.005  # with concept directions: the share of each layer's output changed by an iteration
    rank: int = 4
    alpha: float = 8.0  # plain multiplier of the low-rank change
    targets: str = target_layers.AUTOMATIC
    negative_guidance: float = 0.0  # g of the objective; sampling with w = -1 adds 1
    start_guidance: float = 9.0  # scale of the classifier-free guidance of the trajectories that latents are taken from
    steps: int = 10  # of the trajectories' DDIM schedule
    width: int = 512  # pixels
    height: int = 512  # pixels
    seed: int = 0
    optimizer: str = "Adam"
    schedule: str = ONE_CYCLE  # of the learning rate: what the LoRA starts with is not shaken by the first iterations
    initialisation: str = CONCEPT_DIRECTIONS  # of the layers that are given the encoded prompt
    ridge: float = 0.1  # of the concept directions: with more, they respond to more of the concept's neighbours
    batch_size: int = 4  # latents per iteration
    reuse: int = 10  # iterations per trajectory
    train_synonyms: bool = True  # erase the synonyms as well, in turns with the target
    retain_weight: float = 3.0  # weight of the mean retain loss
    retain_prompts: int = 1  # prompts to retain, per latent
    early_stop: bool = True  # stop as soon as the target is erased and set apart from what is retained
    near_words: int = 0  # of the pack's list of nouns, how many of those nearest to the concept to retain as well
    pattern: str = ""  # regular expression for the target layers, with custom targets
    checkpointing: bool = False  # compute activations twice instead of keeping them

    def erased(self, concept: Concept) -> tuple[str, ...]:
        """The concept's prompts that are erased with these settings, the target first."""
        return concept.erased if self.train_synonyms else concept.erased[:1]

    @property
    def rows_per_iteration(self) -> int:
        """The largest number of examples in an iteration's batch."""
        return self.batch_size * (1 + (self.retain_prompts if self.retain_weight else 0))

    def new_optimizer(self, parameters: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
        """The torch optimizer called `optimizer`. Raises ValueError if it is not one of OPTIMIZERS."""
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"`optimizer` is {self.optimizer!r}: use one of {', '.join(OPTIMIZERS)}.")
        return OPTIMIZERS[self.optimizer](parameters, lr=self.learning_rate)

    def new_schedule(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """The torch scheduler called `schedule`; all but the constant one end at a learning rate of 0.

        Raises ValueError if it is not one of SCHEDULES.
        """
        if self.schedule == CONSTANT:
            return torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        if self.schedule == LINEAR:
            return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, self.iterations)
        if self.schedule == COSINE:
            return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.iterations)
        if self.schedule == ONE_CYCLE:
            return torch.optim.lr_scheduler.OneCycleLR(
                optimizer, self.learning_rate, total_steps=self.iterations + 1, cycle_momentum=False
            )
        raise ValueError(f"`schedule` is {self.schedule!r}: use one of {', '.join(SCHEDULES)}.")


OBJECT = TrainingConfig()
PAPER_OBJECT = TrainingConfig(
    iterations=200, learning_rate=3e-5, rank=1, negative_guidance=2.0, steps=50, schedule=CONSTANT,
    targets=target_layers.CROSS_ATTENTION, initialisation=RANDOM, batch_size=1, reuse=1, train_synonyms=False,
    retain_weight=0.0, retain_prompts=0, early_stop=False,
)  # fmt: skip
NUDITY = replace(  # a lower learning rate, since the changes of so many layers add up
    OBJECT,
    targets=target_layers.ALL_BUT_CROSS_ATTENTION,
    learning_rate=0.003,
    negative_guidance=2.0,
    schedule=COSINE,
)
PAPER_NUDITY = replace(PAPER_OBJECT, targets=target_layers.ALL_BUT_CROSS_ATTENTION)
PRESETS = {"object": OBJECT, "nudity": NUDITY, "object, as in the paper": PAPER_OBJECT,
           "nudity, as in the paper": PAPER_NUDITY}  # fmt: skip
NOT_IN_PRESETS = ("width", "height", "seed", "checkpointing", "near_words")
"""The fields that no preset sets."""


def preset_values(config: TrainingConfig) -> dict:
    """The fields that a preset sets, as JSON values; web/presets.json holds them for the page."""
    return {name: value for name, value in asdict(config).items() if name not in NOT_IN_PRESETS}


def preset(name: str, **fields) -> TrainingConfig:
    """The preset called `name`, with those of `fields` that are in NOT_IN_PRESETS; it ignores the others.

    Raises ValueError for an unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"`preset` is {name!r}: use one of {', '.join(map(repr, PRESETS))}.")
    return replace(PRESETS[name], **{field: value for field, value in fields.items() if field in NOT_IN_PRESETS})
