"""The card's units of work, one a file: each trains or loads a class's LoRA, draws, and returns numbers as JSON data.

What a cell measures of a picture is kept, and not only means, so that tables can be made anew without drawing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from unguide.unguide_ops import host
from unguide.unguide_ops.concept import EncodedConcept, concept_from
from unguide.unguide_ops.concept_lora import ConceptLoRA
from unguide.unguide_ops.files.atomic import write_whole
from unguide.unguide_ops.files.lora_file import load_lora, save_lora
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide

from dev.bench.attacks import SEED, Attack, attacks_without_words, soft_prompts_on
from dev.bench.card import seeing
from dev.bench.card.prompts import (
    NAME,
    OTHER,
    REST,
    SYNONYM,
    CardPrompt,
    card_prompts,
    exchanged,
    reference_of,
    words_of,
)
from dev.bench.card.ways import BASE, EXCHANGED, LABELS, Drawn, Request, WayDoesNotApplyError, Ways
from dev.bench.gate_scores import of_texts, scores_along
from dev.bench.report import as_floats, grid
from dev.bench.sessions import Session, session_of
from dev.bench.words import photo, read_words
from dev.recipe.sprites import load_things

NAMES_TIMES, KEY_TIMES = 4, 2  # as many pictures of the name, and of the parts that H0 is made of
KEY = (SYNONYM, OTHER)
FOREST = "forest"
OTHERS_OF_MANY = 10  # things that are not forgotten
GATE_STEPS, GATE_SEEDS = (0, 5, 10), 2  # of 50; noises per prompt


@dataclass(frozen=True)
class Cell:
    """What to draw: a class's prompts, what a gate says of them, attacks on the class, it without words; or many."""

    model: str
    part: str
    concept: str
    pictures: int  # of each prompt, or more of the important ones

    @property
    def stem(self) -> str:
        """The cell's file below the card's folder, without suffix."""
        return f"{self.model}/{self.part}-{self.concept}"


def trained_lora(session: Session, name: str, folder: Path) -> tuple[ConceptLoRA, dict]:
    """A class's LoRA by the defaults, and what its training cost; trained once, and then read from its files."""
    path = folder / session.name / f"{name}.safetensors"
    costs = path.with_suffix(".training.json")
    if not costs.is_file():
        began = time.monotonic()
        trained = session.train(name)
        seconds, report = time.monotonic() - began, trained.report()
        save_lora(path, trained.lora)
        cost = {"seconds": seconds, "calls": report["evaluations"] + report["evaluations_calibration"],
                "file_mib": path.stat().st_size / 2**20, "erasure": report["erasure"]}  # fmt: skip
        write_whole(costs, json.dumps(cost).encode())
    return load_lora(path), json.loads(costs.read_text(encoding="utf-8"))


@torch.inference_mode()
def draw_prompts(
    folder: Path, cell: Cell, asked: Sequence[str] = tuple(LABELS), of_parts: Sequence[str] | None = None
) -> dict:
    """A worker's task: every prompt of a class by every way, or the ways `asked` and the prompts `of_parts`.

    Returns `training`, `rows` (one a prompt and way, EXCHANGED among them: see `row_of`), `refused` (way -> why), and
    `instead` (way -> what the erased pictures are like beside the base's own of the reference).
    """
    session, name = session_of(cell.model), cell.concept
    lora, training = trained_lora(session, name, folder)
    ways, refused = Ways(session, lora, words_of(name)), {}
    prompts = [
        prompt
        for prompt in card_prompts(name, frozenset(seeing.judges().names))
        if of_parts is None or prompt.part in of_parts
    ]
    drawn: dict[tuple[str, str], Drawn] = {}
    rows = []
    for way in asked:
        for prompt in prompts:
            number = cell.pictures * (NAMES_TIMES if prompt.part == NAME else KEY_TIMES if prompt.part in KEY else 1)
            request = Request(prompt.text, session.encode(prompt.text), {"samples": session.empty(number)})
            try:
                drawn[way, prompt.text] = ways.draw(way, request)
            except WayDoesNotApplyError as reason:
                refused[way] = str(reason)
                break
            rows.append(row_of(way, prompt, drawn[way, prompt.text], drawn[BASE, prompt.text]))
    for prompt in prompts:
        if prompt.part in REST:
            pictures = session.draw(exchanged(prompt, name), number=cell.pictures)
            rows.append(row_of(EXCHANGED, prompt, Drawn(pictures, 0.0), drawn[BASE, prompt.text]))
    reference, shown = reference_of(name)
    own = session.draw(reference, number=cell.pictures * 10)
    erased = [prompt.text for prompt in prompts if prompt.part in (NAME, SYNONYM)]
    instead = {
        way: what_is_drawn([drawn[way, text].pictures for text in erased], own, shown)
        for way in asked
        if way not in refused
    }
    instead["reference"] = what_is_drawn([own], own, shown)
    picture_of(prompts, drawn, [way for way in asked if way not in refused], cell.pictures).save(
        folder / f"{cell.stem}.png"
    )
    return {"training": training, "rows": rows, "refused": refused, "instead": instead, "reference": shown}


def row_of(way: str, prompt: CardPrompt, drawn: Drawn, base: Drawn) -> dict:
    """What is measured of a prompt's pictures by a way; each list has an entry a picture."""
    pictures, of_base = as_floats(drawn.pictures), as_floats(base.pictures)
    identical = [bool((a == b).all()) for a, b in zip(drawn.pictures, base.pictures, strict=True)]
    return {
        **asdict(prompt), "way": way, "calls": drawn.calls, "seen": seeing.seen(pictures), "identical": identical,
        "ssim": seeing.likeness(pictures, of_base), "distance": seeing.distances(pictures, of_base),
        "score": [it["score"] for it in drawn.decisions], "steered": [it["erased"] for it in drawn.decisions],
        "threshold": [it["threshold"] for it in drawn.decisions],
        "rest_right": seeing.rest_is_right(prompt, drawn.pictures) if prompt.part in REST else [],
    }  # fmt: skip


def what_is_drawn(pictures: list[np.ndarray], own: np.ndarray, reference: str) -> dict:
    """How the pictures in place of the class compare with the base's `own` of the reference."""
    together = np.concatenate(pictures)
    floats = as_floats(together)
    return {
        "recognised": seeing.shares(seeing.seen(floats), reference),
        "unsure": seeing.unsure(floats), "saturation": seeing.saturation(floats), "clipped": seeing.clipped(together),
        "kid": seeing.kid(floats, as_floats(own)), "diversity": seeing.diversity(as_floats(pictures[0])),
    }  # fmt: skip


@torch.inference_mode()
def score_gate(folder: Path, cell: Cell) -> dict:
    """A worker's task: every statistic that a gate could use, of every prompt of a class under some noises.

    Returns `parts` (prompt -> its part) and `scores` (statistic -> step of 50 -> prompt -> a score for each noise).
    Statistics of the text alone stand at step 0; there are none where a layer does not read the text itself.
    """
    session, name = session_of(cell.model), cell.concept
    lora, _ = trained_lora(session, name, folder)
    parts = {it.text: it.part for it in card_prompts(name, frozenset(seeing.judges().names))}
    along = scores_along(session.model, lora, session.encode, list(parts), GATE_SEEDS, GATE_STEPS, session.cfg)
    scores = {
        statistic: {
            str(step): {text: [by_case[text, seed] for seed in range(GATE_SEEDS)] for text in parts}
            for step, by_case in by_step.items()
        }
        for statistic, by_step in along.items()
    }
    places, network = host.layer_slices(session.model), host.diffusion_model(session.model)
    linears = {it: network.get_submodule(places[it].path) for it in lora.pairs}
    width = session.encode(name)[0][0].shape[-1]
    if all(pair.down.shape[1] == width for pair in lora.pairs.values()):
        texts = of_texts(linears, lora, session.encode, concept_from(name, "", "", "", ""), list(parts))
        scores |= {it: {"0": {text: [value] for text, value in zip(parts, values, strict=True)}}
                   for it, values in texts.items()}  # fmt: skip
    return {"parts": parts, "scores": scores}


def picture_of(prompts: list[CardPrompt], drawn: dict, ways: list[str], number: int) -> Image.Image:
    """Rows: a prompt of each part. Columns: the ways, so many pictures each."""
    shown = list({prompt.part: prompt.text for prompt in reversed(prompts)}.values())[::-1]
    cells = [[[*as_floats(drawn[way, text].pictures[:number])] for way in ways] for text in shown]
    rows = [text if len(text) < 40 else f"{text[:38]}..." for text in shown]
    return grid(rows, [LABELS[way].replace(" ", "\n", 1) for way in ways], cells)


def attack(folder: Path, cell: Cell) -> dict:
    """A worker's task: prompts that gradient descent finds for a class, by every way. Returns `rows`: see `by_all`."""
    session = session_of(cell.model)
    lora, _ = trained_lora(session, cell.concept, folder)
    return by_all(session, lora, cell.concept, soft_prompts_on(session, lora, cell.concept))


def draw_without_words(folder: Path, cell: Cell) -> dict:
    """A worker's task: sampling that starts from a class's pictures, by every way. Returns `rows`: see `by_all`."""
    session = session_of(cell.model)
    lora, _ = trained_lora(session, cell.concept, folder)
    return by_all(session, lora, cell.concept, attacks_without_words(session, cell.concept))


def by_all(session: Session, lora: ConceptLoRA, name: str, attacks: Iterable[Attack]) -> dict:
    """Each attack by every way that applies: `kind`, `case`, `way`, what is `seen` in each picture, and the gate's."""
    ways, rows = Ways(session, lora, words_of(name)), []
    for it in attacks:
        request = Request(None, it.positive, it.latent(session), SEED, it.denoise, it.noise)
        for way in LABELS:
            try:
                drawn = ways.draw(way, request)
            except WayDoesNotApplyError:
                continue
            rows.append({
                "kind": it.kind, "case": it.name, "way": way, "shows": name, "calls": drawn.calls,
                "seen": seeing.seen(as_floats(drawn.pictures)), "score": [entry["score"] for entry in drawn.decisions],
                "steered": [entry["erased"] for entry in drawn.decisions],
            })  # fmt: skip
    return {"rows": rows}


@torch.inference_mode()
def draw_many(folder: Path, cell: Cell) -> dict:
    """A worker's task: as many concepts as `cell.concept` says, forgotten at once by UnGuidance in a row.

    Returns `rows`, one a prompt: whether it is `forgotten`, what is `seen`, `calls` per picture, whether its pictures
    are the base's (`identical`); and `order`, the share of pictures that are the same with the row reversed.
    """
    session, number = session_of(cell.model), int(cell.concept)
    things = [name for name, thing in load_things()["things"].items() if not thing.get("scene")]
    forgotten, others = things[:number], things[number : number + OTHERS_OF_MANY]
    loras = [lora_of_thing(session, name, folder) for name in forgotten]
    rows, same = [], []
    for name in (*forgotten, *others):
        base = session.draw(photo(name), number=cell.pictures)
        drawn = in_a_row(session, loras, name, cell.pictures)
        same.append((in_a_row(session, loras[::-1], name, cell.pictures).pictures == drawn.pictures).all((1, 2, 3)))
        rows.append({
            "forgotten": name in forgotten, "shows": name, "calls": drawn.calls,
            "seen": seeing.seen(as_floats(drawn.pictures)), "seen_in_base": seeing.seen(as_floats(base)),
            "identical": (drawn.pictures == base).all((1, 2, 3)).tolist(),
        })  # fmt: skip
    return {"rows": rows, "order": float(np.concatenate(same).mean())}


def lora_of_thing(session: Session, name: str, folder: Path) -> ConceptLoRA:
    """A LoRA that forgets any thing that the model knows: a class as its preset says, another one for a forest."""
    if name in read_words()["classes"]:
        return trained_lora(session, name, folder)[0]
    synonyms = "\n".join(photo(word) for word in load_things()["things"][name]["words"][1:])
    concept = concept_from("", photo(name), photo(FOREST), synonyms, "")
    return session.train(EncodedConcept.of(concept, session.encode)).lora


def in_a_row(session: Session, loras: Sequence[ConceptLoRA], name: str, number: int) -> Drawn:
    """A thing's pictures with UnGuidance of all LoRAs in a row."""
    model, counter = session.model, host.EvaluationCounter()
    for lora in loras:
        model = unguide(model, lora, SteeringConfig())
    pictures = session.draw(photo(name), counter.count_on(model), number)
    return Drawn(pictures, counter.count / number)


TASKS = {
    "prompts": draw_prompts,
    "gate": score_gate,
    "attacks": attack,
    "no words": draw_without_words,
    "many": draw_many,
}
"""A cell's part -> its task."""
