"""Trains the two judges, six minutes each on one thread.

Each learns to name the things of things.json in augmented pictures, and to say "none" of other emoji and of pictures of
nothing; a second head, dropped at the end, tells a thousand emoji apart, which teaches the network to look at shapes.
"""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy
from unguide.demo_model.judges.networks import NETWORKS

from dev.recipe import judge_pictures
from dev.recipe.judge_sprites import Bank, load_bank
from dev.recipe.muon import Muon
from dev.recipe.scenes import LANDSCAPES, Scenes
from dev.recipe.sprites import icon_sets, load_sprites, load_things

LEFT_OUT = {"a": "noto-v1", "b": "fluent-emoji"}
"""The style that each judge never sees: its confidence is calibrated there, and the two see different pictures."""

SEED = {"a": 11, "b": 47}
RATE, KERNEL_RATE = 3e-3, 0.02
BATCH, THINGS_SHARE, NOTHING_SHARE = 64, 0.7, 0.12
MORE_WEIGHT = 0.35
"""The weight of a thing's further icons together, or faces and taxis would crowd out whole cats and plain cars."""

LANDSCAPES_EACH, LANDSCAPE_SHARE = 24, 0.1
SMOOTHING, DECAY = 0.05, 0.998
EMOJI_WEIGHT = 0.3  # of the loss of the second head
HARD_FROM, HARDEST = 0.4, 0.9  # pictures get harder up to this share of the training, or the judge learns nothing


class Pictures:
    """Draws training batches from a bank of sprites."""

    def __init__(self, bank: Bank, styles: list[str], strength: float = 1.0):
        """Landscapes of these styles stand in for the sprites of the five scenes."""
        self.bank, self.strength = bank, strength
        scenes = torch.tensor([bank.things.index(name) for name in LANDSCAPES])
        keep = ~torch.isin(bank.labels, scenes)
        self.landscapes = landscapes(styles)
        opaque = torch.full_like(self.landscapes[:, :1], 255)
        self.sprites = torch.cat([bank.pictures[keep], torch.cat([self.landscapes, opaque], 1)])
        self.labels = torch.cat([bank.labels[keep], scenes.repeat_interleave(len(self.landscapes) // len(scenes))])
        self.scene = torch.isin(self.labels, scenes).byte()
        more = torch.cat([bank.more[keep], torch.zeros(len(self.landscapes), dtype=torch.bool)])
        thing = self.labels < len(bank.things)
        kind = 2 * self.labels + more
        odds = torch.where(more, MORE_WEIGHT, 1.0) / torch.bincount(kind)[kind]
        odds = odds / torch.zeros(bank.classes).index_add(0, self.labels, odds)[self.labels]
        self.odds = torch.where(thing, THINGS_SHARE * odds / odds[thing].sum(), 0)
        if not thing.all():
            self.odds += torch.where(thing, 0, (1 - THINGS_SHARE) * odds / odds[~thing].sum())

    def batch(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures [number, 3, 64, 64] and their classes; the class behind the last is "nothing"."""
        chosen = torch.multinomial(self.odds, number, replacement=True)
        chosen = chosen[self.scene[chosen].argsort(stable=True)]  # a shuffled forest would still be a forest
        pictures, labels = self.draw(chosen), self.labels[chosen]
        nothing = max(2, round(NOTHING_SHARE * number))
        pictures[:nothing] = judge_pictures.nothings(pictures[:nothing], pictures[nothing : 2 * nothing])
        labels[:nothing] = self.bank.classes
        return pictures, labels

    def targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Classes -> what a judge should say: the thing, "none" (the last), or -100 (anything, if alike)."""
        things, others = len(self.bank.things), self.bank.others
        alike = (labels >= things + others) & (labels < self.bank.classes)
        return torch.where(alike, -100, labels.clamp(max=things))

    def draw(self, chosen: torch.Tensor) -> torch.Tensor:
        """The sprites of these numbers on backgrounds of any kind, augmented."""
        backgrounds = judge_pictures.backgrounds(len(chosen), self.strength)
        place = torch.rand(len(chosen)) < LANDSCAPE_SHARE * self.strength
        which = torch.randint(len(self.landscapes), (int(place.sum()),))
        backgrounds[place] = self.landscapes[which] / 255
        return judge_pictures.compose(self.sprites[chosen] / 255, backgrounds, self.strength)


def landscapes(styles: list[str]) -> torch.Tensor:
    """The five scenes, as many of each, uint8 [N, 3, 64, 64]."""
    scenes, rng = Scenes(load_sprites(styles), load_things()), np.random.default_rng(5)
    drawn = [scenes.landscape(rng, name) for name in LANDSCAPES for _ in range(LANDSCAPES_EACH)]
    return torch.from_numpy(np.rint(np.stack(drawn)).astype(np.uint8)).permute(0, 3, 1, 2)


def learn(which: str, pictures: Pictures, seconds: float) -> nn.Module:
    """Train a judge's network for so many seconds of processor time; returns the average of its weights."""
    things, classes = len(pictures.bank.things), pictures.bank.classes
    network = NETWORKS[which](things + 1).to(memory_format=torch.channels_last)
    emoji = nn.Linear(network.head.in_features, classes + 1)
    kernels = [p for p in network.body.parameters() if p.ndim == 4 and len(p) > 1]
    vectors = [p for p in (*network.parameters(), *emoji.parameters()) if not any(p is kernel for kernel in kernels)]
    optimizers = Muon(kernels, KERNEL_RATE), torch.optim.AdamW(vectors, RATE, (0.9, 0.98), weight_decay=0.03)
    average, began, step = copy.deepcopy(network).eval(), time.process_time(), 0
    while (progress := (time.process_time() - began) / seconds) < 1:
        for optimizer, rate in zip(optimizers, (KERNEL_RATE, RATE), strict=True):
            optimizer.param_groups[0]["lr"] = rate * min(1, step / 100, 1.4 * (1.01 - progress))
            optimizer.zero_grad()
        pictures.strength = HARDEST * min(1.0, 0.05 + progress / HARD_FROM)
        drawn, labels = pictures.batch(BATCH)
        drawn = (drawn * 2 - 1).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            features = network.body(drawn)
            logits, emoji_logits = network.head(features), emoji(features)
        loss = cross_entropy(logits.float(), pictures.targets(labels), label_smoothing=SMOOTHING)
        loss = loss + EMOJI_WEIGHT * cross_entropy(emoji_logits.float(), labels, label_smoothing=SMOOTHING)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        track(average, network, min(DECAY, step / (step + 9)))
        if step % 200 == 0:
            right = (logits.argmax(1) == labels)[labels < things].float().mean().item()
            print(f"{which} step {step}, {progress:.0%}: loss {loss.item():.3f}, things right {right:.0%}", flush=True)
    return average


@torch.no_grad()
def track(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average of the weights a little towards those of the network."""
    for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)


@torch.no_grad()
def calibrate(network: nn.Module, pictures: Pictures, number: int = 2048) -> float:
    """The temperature that makes the judge's confidence right on the left-out style."""
    drawn, labels = zip(*(pictures.batch(256) for _ in range(number // 256)), strict=True)
    logits = torch.cat([network(part * 2 - 1) for part in drawn])
    labels = pictures.targets(torch.cat(labels))
    logits, labels = logits[labels >= 0], labels[labels >= 0]
    temperatures = torch.linspace(0.5, 3, 51)
    best = min(temperatures, key=lambda t: cross_entropy(logits / t, labels).item())
    right = (logits.argmax(1) == labels).float().mean().item()
    print(f"left-out style: right {right:.1%}, temperature {best:.2f}")
    return best.item()


def train(which: str, out_folder: Path, seconds: float = 340) -> None:
    """Train judge "a" or "b" for so many seconds of processor time; writes its weights and its entry in judges.json."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(SEED[which])
    left_out = LEFT_OUT[which]
    styles = [style for style, pin in icon_sets().items() if pin["use"] != "held out" and style != left_out]
    bank = load_bank(styles)
    network = learn(which, Pictures(bank, styles), seconds)
    temperature = calibrate(network, Pictures(load_bank([left_out]), [left_out], 0.5))
    out_folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half() for name, value in network.state_dict().items() if value.is_floating_point()}
    save_file({name: value.contiguous() for name, value in weights.items()}, out_folder / f"{which}.safetensors")
    path = out_folder / "judges.json"
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"judges": {}}
    entries["names"] = bank.things
    entries["judges"][which] = {"temperature": round(temperature, 3), "left_out": left_out, "styles": styles}
    path.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
