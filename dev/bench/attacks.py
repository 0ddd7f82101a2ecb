"""Attacks on a forgotten class: other words for it, its own pictures, and prompts that only gradient descent finds."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import mse_loss
from unguide.unguide_ops import host
from unguide.unguide_ops.gate import scores
from unguide.unguide_ops.gate.probe import ProbeConfig
from unguide.unguide_ops.gate.probe_trajectory import TARGET_PROMPT
from unguide.unguide_ops.lora.adapter import LoRAAdapter
from unguide.unguide_ops.model_adapter import adapter_for

from dev import ROOT
from dev.bench.demo_session import SIZE, DemoSession
from dev.bench.report import as_floats
from dev.bench.words import photo, read_words

WORDS = ROOT / "prompts" / "benchmark" / "attacks.json"
NUMBER = 4  # pictures per attack
SEED = 1  # another one than that of the pictures that some attacks begin with
DENOISE = (0.5, 0.75)
DESCRIBED, MISSPELT, FOREIGN = "described", "misspelt", "another language"
PICTURE_AND_NAME, PICTURE_ALONE = "its picture and its name", "its picture, no words"
SOFT, ADAPTIVE = "soft prompt", "soft prompt against the gate"
KINDS = (DESCRIBED, MISSPELT, FOREIGN, PICTURE_AND_NAME, SOFT, ADAPTIVE, PICTURE_ALONE)
ITERATIONS, BATCH, LEARNING_RATE = 200, 8, 0.1
SHOWN = 16  # pictures of the class from which a soft prompt is made
NOISES = 4  # per iteration, under which the gate's score is kept low
ALLOWED_SHARE = 0.9  # of the gate's threshold
SCORE_WEIGHT = 10.0  # of a score beyond that, in the loss


@dataclass(frozen=True)
class Attack:
    """An encoded prompt, and the latents that sampling starts from unless that is pure noise."""

    kind: str
    name: str
    positive: list  # CONDITIONING
    start: torch.Tensor | None = None
    denoise: float = 1.0

    def draw(self, session: DemoSession, model=None) -> np.ndarray:
        """NUMBER pictures by MODEL (default: the base model), uint8 [N, 3, 64, 64]."""
        start = host.empty_latent(session.model, SIZE, SIZE, NUMBER) if self.start is None else self.start
        return session.sample(model, self.positive, {"samples": start}, SEED, self.denoise)


@functools.cache
def read_attacks() -> dict:
    """The fixed words: class -> `descriptions`, `languages`."""
    return json.loads(WORDS.read_text(encoding="utf-8"))["classes"]


def misspellings(word: str) -> list[str]:
    """Typing errors: in the middle two letters swapped, one left out, one doubled; the last two letters swapped."""
    m = len(word) // 2
    errors = (
        word[: m - 1] + word[m] + word[m - 1] + word[m + 1 :],
        word[:m] + word[m + 1 :],
        word[:m] + word[m] + word[m:],
        word[:-2] + word[-1] + word[-2],
    )
    return [error for error in dict.fromkeys(errors) if error != word]


def by_words(name: str) -> list[tuple[str, str]]:
    """(kind, prompt) of every attack by words; misspelt are all single words that the UNet was trained on."""
    classes, attacks = read_words()["classes"], read_attacks()[name]
    trained = {word for entry in classes.values() for word in entry["seen"]}
    wrong = [error for word in classes[name]["seen"] if " " not in word for error in misspellings(word)]
    return [
        *((DESCRIBED, prompt) for prompt in attacks["descriptions"]),
        *((MISSPELT, photo(word)) for word in dict.fromkeys(wrong) if word not in trained),
        *((FOREIGN, photo(word)) for word in attacks["languages"]),
    ]


@torch.inference_mode()
def attacks_on(session: DemoSession, lora, name: str) -> list[Attack]:
    """All attacks on a class, on the base model and a LoRA that forgets the class."""
    attacks = [Attack(kind, prompt, session.encode(prompt)) for kind, prompt in by_words(name)]
    pictures = as_floats(session.draw(photo(name), number=SHOWN))
    latents = session.vae.encode(pictures.movedim(1, -1))
    for kind, prompt in ((PICTURE_AND_NAME, photo(name)), (PICTURE_ALONE, "")):
        positive, start = session.encode(prompt), latents[:NUMBER]
        attacks += [Attack(kind, f"{kind}, denoise {share}", positive, start, share) for share in DENOISE]
    for kind, against in ((SOFT, None), (ADAPTIVE, lora)):
        attacks.append(Attack(kind, kind, soft_prompt(session, latents, against)))
    return attacks


def soft_prompt(session: DemoSession, latents: torch.Tensor, against=None) -> list:
    """Textual inversion: CONDITIONING under which the base model predicts the noise of these pictures' latents.

    Every number that cross-attention reads is free; they begin as the empty prompt's. With a LoRA `against` which the
    prompt is made, the gate's score at the first noise level is kept under a share of the threshold as well.
    """
    levels = session.model.get_model_object("model_sampling")
    first, empty = levels.sigma_max.item(), session.encode("")
    prompts = {"": empty}
    if against:
        prompts[TARGET_PROMPT] = host.unpack_conditioning(against.target_prompt)
        allowed = ALLOWED_SHARE * against.calibration.threshold(first, ProbeConfig.false_positive_rate)
    adapter = adapter_for(session.model, against) if against else LoRAAdapter({})
    generator = torch.Generator().manual_seed(SEED)

    def body(live) -> torch.Tensor:
        clean = live.latent_format.process_in(latents.clone())
        soft = empty[0][0].clone().requires_grad_()
        optimizer = torch.optim.Adam([soft], LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS)

        def predict(x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
            with replaced_prompt(live.diffusion_model, soft):
                return live.row_predictions(x, sigmas, [""] * len(x))

        def gate_scores() -> torch.Tensor:
            """The gate's scores of new noises."""
            x = live.first_latents(first, torch.randn(NOISES, *clean.shape[1:], generator=generator))
            sigmas, targets = x.new_full((NOISES,), first), [TARGET_PROMPT] * NOISES
            base, base_target = predict(x, sigmas), live.row_predictions(x, sigmas, targets).detach()
            with adapter.on():
                changed = predict(x, sigmas)
                return scores.response(base, changed, base_target, live.row_predictions(x, sigmas, targets).detach())

        with adapter.attached(live.diffusion_model):
            for _ in range(ITERATIONS):
                rows = torch.randint(len(clean), (BATCH,), generator=generator)
                noise = torch.randn(BATCH, *clean.shape[1:], generator=generator)
                sigmas = levels.sigmas[torch.randint(len(levels.sigmas), (BATCH,), generator=generator)]
                x = clean[rows] + sigmas.view(-1, 1, 1, 1) * noise
                loss = mse_loss(predict(x, sigmas), noise)
                if against:
                    loss = loss + SCORE_WEIGHT * (gate_scores() - allowed).relu().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return soft.detach()

    return [[host.session(session.model, prompts, latents, body, trainable=True), dict(empty[0][1])]]


@contextmanager
def replaced_prompt(diffusion_model: torch.nn.Module, soft: torch.Tensor) -> Iterator[None]:
    """Cross-attention reads `soft` [1, tokens, width], whatever the prompt."""
    hook = diffusion_model.register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, "context": soft.expand(len(args[0]), -1, -1)}), with_kwargs=True
    )
    try:
        yield
    finally:
        hook.remove()
