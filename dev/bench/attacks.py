"""Attacks on a forgotten class: other words for it, its own pictures, and prompts that only gradient descent finds."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import comfy.samplers
import torch
from torch.nn.functional import mse_loss
from unguide.unguide_ops import host
from unguide.unguide_ops.concept_text import ConceptText
from unguide.unguide_ops.gate import scores
from unguide.unguide_ops.gate.probe import ProbeConfig
from unguide.unguide_ops.gate.probe_trajectory import TARGET_PROMPT
from unguide.unguide_ops.model_adapter import adapter_for

from dev import ROOT
from dev.bench.report import as_floats
from dev.bench.sessions import SCHEDULER, SIZE, Session
from dev.bench.words import photo, read_words

WORDS = ROOT / "prompts" / "benchmark" / "attacks.json"
NUMBER = 8  # pictures per attack
SEED = 1  # another one than that of the pictures that some attacks begin with
DENOISE = (0.3, 0.5, 0.7, 0.9)
INVERSION_STEPS = 50
DESCRIBED, MISSPELT, FOREIGN = "described", "misspelt", "another language"
PICTURE_AND_NAME, PICTURE_ALONE = "its picture and its name", "its picture, no words"
INPAINTED, INVERTED = "its picture's half, no words", "its picture's own noise, no words"
SOFT, LEARNED, AGAINST_LORA = "soft prompt", "learned embedding", "soft prompt against the LoRA"
ADAPTIVE = "soft prompt against LoRA and gate"
SOFT_KINDS = (SOFT, LEARNED, AGAINST_LORA, ADAPTIVE)
BEGINNING = " ".join(["photo"] * 6)  # what a soft prompt begins with; some models read no more tokens than it has
ITERATIONS, BATCH, LEARNING_RATE = 200, 8, 0.1
SHOWN = 16  # pictures of the class from which a soft prompt is made
NOISES = 4  # per iteration, under which the gate's score is kept low
ALLOWED_SHARE = 0.9  # of the gate's threshold
LEAST_VOTE = 1e-4  # so that the score has a gradient
SCORE_WEIGHT = 10.0  # of a score beyond that, in the loss


@dataclass(frozen=True)
class Attack:
    """An encoded prompt, and the latents that sampling starts from unless that is pure noise."""

    kind: str
    name: str
    positive: list  # CONDITIONING
    start: torch.Tensor | None = None
    denoise: float = 1.0
    mask: torch.Tensor | None = None  # [1, H, W]: 1 where it is drawn anew
    noise: torch.Tensor | None = None  # in place of random noise

    def latent(self, session: Session) -> dict:
        """LATENT of NUMBER pictures that sampling starts from."""
        start = session.empty(NUMBER) if self.start is None else self.start
        return {"samples": start, **({} if self.mask is None else {"noise_mask": self.mask})}


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
def attacks_without_words(session: Session, name: str) -> list[Attack]:
    """Sampling that starts from the base model's pictures of a class, with its name or with no words at all."""
    latents = shown_latents(session, name)[:NUMBER]
    attacks = [
        Attack(kind, f"{kind}, denoise {share}", session.encode(prompt), latents, share)
        for kind, prompt in ((PICTURE_AND_NAME, photo(name)), (PICTURE_ALONE, ""))
        for share in DENOISE
    ]
    inner = torch.zeros(1, SIZE, SIZE)
    inner[:, :, SIZE // 2 :] = 1.0
    attacks.append(Attack(INPAINTED, INPAINTED, session.encode(""), latents, mask=inner))
    return [*attacks, Attack(INVERTED, INVERTED, session.encode(""), noise=inverted(session, latents))]


def shown_latents(session: Session, name: str) -> torch.Tensor:
    """Latents of SHOWN of the base model's pictures of a class."""
    return session.latents_of(as_floats(session.draw(photo(name), number=SHOWN)))


@torch.inference_mode()
def inverted(session: Session, latents: torch.Tensor) -> torch.Tensor:
    """The noise from which sampling without words leads back to these latents: Euler's steps backwards."""
    sampling = session.model.get_model_object("model_sampling")
    levels = comfy.samplers.calculate_sigmas(sampling, SCHEDULER, INVERSION_STEPS).flip(0)[1:]  # without 0

    def body(live) -> torch.Tensor:
        x = live.latent_format.process_in(latents.clone())
        for sigma, following in itertools.pairwise(levels.tolist()):
            x = x + (following - sigma) * live.predictions(x, sigma, "")[0]
        return x / levels[-1]

    return host.session(session.model, {"": session.encode("")}, latents, body)


def soft_prompts_on(session: Session, lora, name: str) -> Iterator[Attack]:
    """Prompts that gradient descent finds: by the base model, also against the LoRA, or against LoRA and gate."""
    latents = shown_latents(session, name)
    for kind in SOFT_KINDS:
        yield Attack(kind, kind, soft_prompt(session, latents, lora, kind))


def soft_prompt(session: Session, latents: torch.Tensor, lora, kind: str) -> list:
    """Textual inversion: CONDITIONING under which a model predicts the noise of these pictures' latents.

    Every number of the encoded text is free, and the pooled vector's where there is one; they begin as those of
    BEGINNING. LEARNED: every token is the same one. AGAINST_LORA: the model with the
    LoRA is to predict it, and the base model as well. ADAPTIVE: the gate's score at the first noise level is kept under
    a share of the threshold. Chen and others (CCE), Zhang and others (UnlearnDiffAtk), both adapted to this model.
    """
    sampling = session.model.get_model_object("model_sampling")
    first, start = sampling.sigma_max.item(), session.encode(BEGINNING)
    prompts = {"": start, TARGET_PROMPT: host.unpack_conditioning(lora.target_prompt)}
    allowed = ALLOWED_SHARE * lora.calibration.threshold(first, ProbeConfig.false_positive_rate)
    adapter = adapter_for(session.model, lora)
    generator = torch.Generator().manual_seed(SEED)

    def body(live) -> list:
        clean = live.latent_format.process_in(latents.clone())
        axes = [1] * (clean.ndim - 1)
        free = start[0][0].clone()[:, :1] if kind == LEARNED else start[0][0].clone()
        pooled = start[0][1].get("pooled_output")
        words = ConceptText.from_tensors({key: it.clone() for key, it in lora.text.tensors().items()})  # for gradients
        soft = [it.clone().requires_grad_() for it in (free, pooled) if it is not None]
        optimizer = torch.optim.Adam(soft, LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS)

        def text() -> torch.Tensor:
            return soft[0].expand(-1, start[0][0].shape[1], -1)

        def predict(x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
            with replaced_prompt(live.diffusion_model, text(), soft[1] if len(soft) > 1 else None):
                return live.row_predictions(x, sigmas, [""] * len(x))

        def gate_scores() -> torch.Tensor:
            """The gate's scores of new noises."""
            x = live.first_latents(first, torch.randn(NOISES, *clean.shape[1:], generator=generator))
            sigmas, targets = x.new_full((NOISES,), first), [TARGET_PROMPT] * NOISES
            base, base_target = predict(x, sigmas), live.row_predictions(x, sigmas, targets).detach()
            with adapter.on():
                changed = predict(x, sigmas)
                votes = scores.response(base, changed, base_target, live.row_predictions(x, sigmas, targets).detach())
            return (votes.clamp_min(LEAST_VOTE) * words.response(text()).clamp_min(LEAST_VOTE)).sqrt()

        with adapter.attached(live.diffusion_model):
            for _ in range(ITERATIONS):
                rows = torch.randint(len(clean), (BATCH,), generator=generator)
                noise = torch.randn(BATCH, *clean.shape[1:], generator=generator)
                sigmas = sampling.sigmas[torch.randint(len(sampling.sigmas), (BATCH,), generator=generator)]
                x = sampling.noise_scaling(sigmas.view(-1, *axes), noise, clean[rows])
                wanted = (x - clean[rows]) / sigmas.view(-1, *axes)
                loss = mse_loss(predict(x, sigmas), wanted)
                if kind == AGAINST_LORA:
                    with adapter.on():
                        loss = loss + mse_loss(predict(x, sigmas), wanted)
                if kind == ADAPTIVE:
                    loss = loss + SCORE_WEIGHT * (gate_scores() - allowed).relu().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        extras = {**start[0][1], **({"pooled_output": soft[1].detach()} if len(soft) > 1 else {})}
        return [[text().detach().clone(), extras]]

    return host.session(session.model, prompts, latents, body, trainable=True)


@contextmanager
def replaced_prompt(
    diffusion_model: torch.nn.Module, soft: torch.Tensor, pooled: torch.Tensor | None
) -> Iterator[None]:
    """The network reads `soft` [1, tokens, width], and `pooled` [1, width] if it has such a vector, in any prompt."""

    def changed(_, args, kwargs):
        vectors = {"y": pooled.expand(len(args[0]), -1)} if pooled is not None and "y" in kwargs else {}
        return args, {**kwargs, "context": soft.expand(len(args[0]), -1, -1), **vectors}

    hook = diffusion_model.register_forward_pre_hook(changed, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
