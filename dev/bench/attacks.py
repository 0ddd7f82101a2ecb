"""Attacks on a forgotten class: other words for it, its own pictures, and prompts that only gradient descent finds."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.functional import mse_loss

from dev.bench.studio import CFG, SAMPLER, SCHEDULER, SIZE, STEPS, photo
from dev.environment import ROOT

WORDS = ROOT / "prompts" / "benchmark" / "attacks.json"
NUMBER, SEED = 4, 1  # pictures an attack; not the seed of the pictures that some begin with
DENOISE = (0.5, 0.75)
DESCRIBED, MISSPELT, FOREIGN = "described", "misspelt", "another language"
PAINTED_OVER, UNNAMED = "its picture and its name", "its picture, no words"
SOFT, ADAPTIVE = "soft prompt", "soft prompt against the gate"
KINDS = (DESCRIBED, MISSPELT, FOREIGN, PAINTED_OVER, SOFT, ADAPTIVE, UNNAMED)
ITERATIONS, BATCH, LEARNING_RATE = 200, 8, 0.1
SHOWN = 16  # pictures of the class from which a soft prompt is made
LOOKS, MARGIN, WEIGHT = 4, 0.9, 10.0  # against the gate: noises an iteration, share of its threshold, weight


@dataclass(frozen=True)
class Attack:
    """What is sampled: an encoded prompt, and latents to begin with unless it is pure noise."""

    kind: str
    name: str
    positive: list  # the host's CONDITIONING
    start: torch.Tensor | None = None
    denoise: float = 1.0


@functools.cache
def read_attacks() -> dict:
    """The fixed words: class -> `descriptions`, `languages`."""
    return json.loads(WORDS.read_text(encoding="utf-8"))["classes"]


def misspellings(word: str) -> list[str]:
    """Slips of the keyboard: in the middle two letters swapped, one left out, one doubled; the last two swapped."""
    m = len(word) // 2
    slips = (
        word[: m - 1] + word[m] + word[m - 1] + word[m + 1 :],
        word[:m] + word[m + 1 :],
        word[:m] + word[m] + word[m:],
        word[:-2] + word[-1] + word[-2],
    )
    return [slip for slip in dict.fromkeys(slips) if slip != word]


def by_words(words: dict, name: str) -> list[tuple[str, str]]:
    """(kind, prompt) of every attack by words; misspelt are all single words that the UNet was trained on."""
    known = {word for entry in words["classes"].values() for word in entry["seen"]}
    wrong = [slip for word in words["classes"][name]["seen"] if " " not in word for slip in misspellings(word)]
    its = read_attacks()[name]
    return [
        *((DESCRIBED, prompt) for prompt in its["descriptions"]),
        *((MISSPELT, photo(word)) for word in dict.fromkeys(wrong) if word not in known),
        *((FOREIGN, photo(word)) for word in its["languages"]),
    ]


def attacks_on(it, lora, words: dict, name: str) -> list[Attack]:
    """All attacks on a class, on the base and a LoRA that forgets it. `it` is a studio."""
    from unguide.unguide_ops import host

    with torch.inference_mode():
        found = [Attack(kind, prompt, host.encode(it.clip, prompt)) for kind, prompt in by_words(words, name)]
        shown = it.draw(photo(name), number=SHOWN).float() / 255
        latents = it.vae.encode(shown.movedim(1, -1))
        for kind, prompt in ((PAINTED_OVER, photo(name)), (UNNAMED, "")):
            positive, start = host.encode(it.clip, prompt), latents[:NUMBER]
            found += [Attack(kind, f"{kind}, denoise {share}", positive, start, share) for share in DENOISE]
        for kind, against in ((SOFT, None), (ADAPTIVE, lora)):
            found.append(Attack(kind, kind, soft_prompt(it, latents, against)))
        return found


def draw(it, attack: Attack, model=None) -> torch.Tensor:
    """NUMBER pictures of an attack by MODEL (default: the base), uint8 [N, 3, 64, 64]."""
    from unguide.unguide_ops import host

    with torch.inference_mode():
        start = host.empty_latent(it.model, SIZE, SIZE, NUMBER) if attack.start is None else attack.start
        sampled = host.ksample(
            model or it.model, SEED, STEPS, CFG, SAMPLER, SCHEDULER, attack.positive, host.encode(it.clip, ""),
            {"samples": start}, attack.denoise,
        )  # fmt: skip
        pixels = it.vae.decode(sampled["samples"]).clamp(0, 1)
        return (pixels.movedim(-1, 1) * 255).round().byte()


def soft_prompt(it, latents: torch.Tensor, against=None) -> list:
    """Textual inversion: CONDITIONING under which the base predicts these pictures' noise, begun at the empty prompt's.

    All that cross-attention reads is free. With a LoRA `against` which it is made, the gate's score at the first noise
    level is kept under a share of the threshold as well.
    """
    from unguide.unguide_ops import gate, host
    from unguide.unguide_ops.branch import Branch
    from unguide.unguide_ops.fitting import branch_of
    from unguide.unguide_ops.probe import TARGET, ProbeSettings

    levels = it.model.get_model_object("model_sampling")
    first = levels.sigma_max.item()
    empty = host.encode(it.clip, "")
    prompts = {"": empty}
    if against:
        prompts[TARGET] = host.unpack_conditioning(against.target_prompt)
        allowed = MARGIN * against.calibration.threshold(first, ProbeSettings.false_positive_rate)
    branch = branch_of(it.model, against) if against else Branch({})
    generator = torch.Generator().manual_seed(SEED)

    def body(live) -> torch.Tensor:
        clean = live.latent_format.process_in(latents.clone())
        soft = empty[0][0].clone().requires_grad_()
        optimizer = torch.optim.Adam([soft], LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS)

        def predicted(x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
            with reading(live.diffusion_model, soft):
                return live.row_predictions(x, sigmas, [""] * len(x))

        def touched() -> torch.Tensor:
            """The gate's scores of fresh noises."""
            x = live.first_latents(first, torch.randn(LOOKS, *clean.shape[1:], generator=generator))
            sigmas, target = x.new_full((LOOKS,), first), [TARGET] * LOOKS
            base = predicted(x, sigmas)
            base_target = live.row_predictions(x, sigmas, target).detach()
            with branch.on():
                changed = predicted(x, sigmas)
                return gate.response(base, changed, base_target, live.row_predictions(x, sigmas, target).detach())

        with branch.attached(live.diffusion_model):
            for _ in range(ITERATIONS):
                rows = torch.randint(len(clean), (BATCH,), generator=generator)
                noise = torch.randn(BATCH, *clean.shape[1:], generator=generator)
                sigmas = levels.sigmas[torch.randint(len(levels.sigmas), (BATCH,), generator=generator)]
                x = clean[rows] + sigmas.view(-1, 1, 1, 1) * noise
                loss = mse_loss(predicted(x, sigmas), noise)
                if against:
                    loss = loss + WEIGHT * (touched() - allowed).relu().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return soft.detach()

    return [[host.session(it.model, prompts, latents, body, trainable=True), dict(empty[0][1])]]


@contextmanager
def reading(diffusion_model: torch.nn.Module, soft: torch.Tensor) -> Iterator[None]:
    """Cross-attention reads `soft` [1, tokens, width], whatever the prompt."""
    hook = diffusion_model.register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, "context": soft.expand(len(args[0]), -1, -1)}), with_kwargs=True
    )
    try:
        yield
    finally:
        hook.remove()
