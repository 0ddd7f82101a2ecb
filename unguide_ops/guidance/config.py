"""The configuration of UnGuidance: how a concept LoRA steers a sampling run (paper section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

from ..gate.probe import ProbeConfig

COND_AND_UNCOND, COND_ONLY = "cond and uncond", "cond only"
LORA_BRANCHES = (COND_AND_UNCOND, COND_ONLY)
BLEND, SWAP, REPLACE = "blend", "swap", "replace"
INSTEAD = (BLEND, SWAP, REPLACE)
STOP, STEER = "stop", "steer"
ON_DOUBT = (STOP, STEER)


@dataclass(frozen=True)
class SteeringConfig:
    """How a concept LoRA steers: with this `w` for every picture, or, if it is None, as a gate decides for each."""

    w: float | None = None
    w_erased: float = 0.0  # for pictures whose prompt touches the concept
    w_unrelated: float = 1.0  # for all other pictures
    instead: str = BLEND  # what is weighed against the base's predictions: see `second_prediction`
    gate_steps: int = 1  # the first steps: nothing is steered, and the gate compares predictions of base and LoRA
    false_positive_rate: float = ProbeConfig.false_positive_rate
    words_first: bool = True  # leave pictures whose words are far from the concept alone, without a model call
    softness: float = 0.0  # see `blend.soft_w`
    second_look: bool = False  # see `ConceptSteering.look_again`
    check_picture: bool = False  # see `given_picture`
    restart: bool = False  # begin again after the gate's steps, if they have found the concept
    lora_branch: str = COND_ONLY  # of classifier-free guidance: the predictions that are blended
    eta: float = 0.0  # see `blend.blend`
    start: float = 0.0  # share of the run after which steering starts
    end: float = 1.0  # share of the run after which it ends
    on_doubt: str = STOP  # for pictures that the gate cannot decide: STOP raises an error, STEER uses w_erased
