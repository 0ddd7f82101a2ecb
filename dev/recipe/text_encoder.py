"""The text encoder: CLIP's text model, small, taught by a sentence model what words and phrases mean.

Every output from the end token on, padding included, carries the meaning of the whole prompt, as those outputs are
most of what cross-attention sees; the output at the last token of each thing of a phrase carries that thing alone.
"""

import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from dev.recipe import text_corpus, text_teacher
from dev.recipe.text_student import END, POSITIONS, START, TextStudent, Vocabulary

CONFIG = {
    "num_hidden_layers": 2, "hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768,
    "hidden_act": "quick_gelu", "max_position_embeddings": POSITIONS, "eos_token_id": END,
    "projection_dim": 192, "vocab_size": 49408, "model_type": "clip_text_model",
}  # fmt: skip
PHRASES = 60_000
FLATTEN = 0.1  # how far the teacher's components are brought to equal strength: 0 leaves them, 0.5 makes them equal
SHARES = {"english": 0.34, "drawable": 0.22, "phrases": 0.43, "empty": 0.01}  # of the groups in a batch
BATCH, FULL_BATCH, FULL_EVERY, PADS = 256, 48, 4, 4
"""Prompts a step. Every fourth step has all 77 positions; the others a few places behind the end, drawn at random."""

LEARNING_RATE, WARM_UP = 2e-3, 0.03
THING, CONTRAST, SHARPNESS, ALIKE = 0.5, 0.1, 10.0, 0.85
"""Weights of the things' loss and the contrast; prompts whose targets are more than ALIKE are not contrasted."""


def project(vectors: torch.Tensor, fitted: int, width: int) -> torch.Tensor:
    """The teacher's vectors [N, 384] as unit vectors [N, width]: the principal components of the first `fitted`."""
    sample = vectors[:fitted] - vectors[:fitted].mean(0)
    strength, axes = torch.linalg.eigh(sample.T @ sample / fitted)
    strength, axes = strength.flip(0)[:width], axes.flip(1)[:, :width]
    matrix = axes * (strength / strength[0]) ** -FLATTEN
    return functional.normalize((vectors - vectors[:fitted].mean(0)) @ matrix, dim=-1)


class TrainingPrompts:
    """The prompts to learn from, and what each should mean: a row of `targets`, of norm 1."""

    def __init__(self, width: int):
        self.groups = {
            "english": [f"the {word}" for word in text_corpus.english()],
            "drawable": [f"the {word}" for word in text_corpus.drawable()],
            "phrases": text_corpus.phrases(PHRASES),
            "empty": [""],
        }
        phrases = list(dict.fromkeys(phrase for group in self.groups.values() for phrase in group))
        things = [thing for phrase in self.groups["phrases"] for _, thing in text_corpus.things_in(phrase)]
        self.row = {phrase: number for number, phrase in enumerate(dict.fromkeys(phrases + things))}
        vectors = text_teacher.embed([text_corpus.sentence(phrase) for phrase in self.row])
        self.targets = project(vectors, len(phrases), width)
        templates = " ".join(text_corpus.TEMPLATES).replace("{}", "a an my")
        self.vocabulary = Vocabulary({word for text in (*self.row, templates) for word in text.split()} - {"|"})

    def prompt(self, phrase: str, draw: random.Random) -> tuple[list[int], list[tuple[int, int]]]:
        """A caption of `phrase` as rows of the token table, and (position, target) of each thing's last token."""
        before, *segments, behind = text_corpus.caption(phrase, draw)
        tokens, ends = [START, *self.vocabulary.tokens(before)], {}
        for number, segment in enumerate(segments):
            tokens += self.vocabulary.tokens(segment)
            ends[number] = len(tokens) - 1
        things = [(ends[number], self.row[thing]) for number, thing in text_corpus.things_in(phrase) if thing]
        return [*tokens, *self.vocabulary.tokens(behind), END], things

    def batch(self, size: int, full: bool, draw: random.Random):
        """Token rows and positions [size, length], lengths, targets; (sample, position, target) of things."""
        kinds = draw.choices(list(SHARES), list(SHARES.values()), k=size)
        phrases = [draw.choice(self.groups[kind]) for kind in kinds]
        prompts = [self.prompt(phrase, draw) for phrase in phrases]
        length = POSITIONS if full else max(len(tokens) for tokens, _ in prompts) + PADS
        ids = np.full((size, length), END)
        positions = np.tile(np.arange(length), (size, 1))
        for sample, (tokens, _) in enumerate(prompts):
            ids[sample, : len(tokens)] = tokens
            behind = draw.sample(range(len(tokens), POSITIONS), length - len(tokens))
            positions[sample, len(tokens) :] = sorted(behind)
        things = [(sample, *thing) for sample, (_, ends) in enumerate(prompts) for thing in ends]
        samples, ends, thing_rows = torch.tensor(things).unbind(1)
        lengths = torch.tensor([len(tokens) for tokens, _ in prompts])
        rows = torch.tensor([self.row[phrase] for phrase in phrases])
        ids, positions = torch.from_numpy(self.vocabulary.row_of[ids]), torch.from_numpy(positions)
        return ids, positions, lengths, self.targets[rows], (samples, ends, self.targets[thing_rows])


def train(out_folder: Path, minutes: float, seed: int = 0) -> None:
    """Train an encoder for `minutes`, besides some for the teacher once, and write its two files to `out_folder`.

    The learning rate follows the clock, so a slower machine takes fewer steps: 1,400 are enough.
    """
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)  # or a step takes seconds
    out_folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    prompts = TrainingPrompts(CONFIG["hidden_size"])
    student = TextStudent(CONFIG, len(prompts.vocabulary.token_ids))
    start_from_meanings(student, prompts)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    began, step, average = time.monotonic(), 0, None
    with tqdm(total=100, desc="text encoder", unit="%", bar_format="{l_bar}{bar}| {elapsed} {postfix}") as bar:
        while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
            rate = LEARNING_RATE * min(1, progress / WARM_UP) * (1 + math.cos(math.pi * progress)) / 2
            optimizer.param_groups[0]["lr"] = rate
            full = step % FULL_EVERY == 0
            with torch.autocast("cpu", torch.bfloat16):
                loss, cosine = distillation_loss(student, *prompts.batch(FULL_BATCH if full else BATCH, full, draw))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            step += 1
            average = cosine if average is None else 0.98 * average + 0.02 * cosine
            bar.set_postfix_str(f"step {step}, cosine to the teacher {average:.3f}", refresh=False)
            bar.update(int(100 * progress) - bar.n)
    export(student, prompts.vocabulary, out_folder)


def distillation_loss(student: TextStudent, ids, positions, lengths, targets, things) -> tuple[torch.Tensor, float]:
    """1 - cosine at the end token, behind it, and at the things; and a contrastive loss at the last position."""
    outputs = functional.normalize(student(ids, positions).float(), dim=-1)
    place = torch.arange(ids.shape[1])
    end = place == lengths[:, None] - 1
    padding = place >= lengths[:, None]
    cosine = (outputs * targets[:, None]).sum(-1)
    ends, paddings = cosine[end].mean(), cosine[padding].mean()
    sample, position, meaning = things
    thing = (outputs[sample, position] * meaning).sum(-1).mean()
    alike = (targets @ targets.T > ALIKE) & ~torch.eye(len(targets), dtype=torch.bool)
    logits = (SHARPNESS * outputs[:, -1] @ targets.T).masked_fill(alike, -torch.inf)
    contrast = functional.cross_entropy(logits, torch.arange(len(targets)))
    loss = (1 - ends) + (1 - paddings) + THING * (1 - thing) + CONTRAST * contrast
    return loss, float(paddings.detach())


@torch.no_grad()
def start_from_meanings(student: TextStudent, prompts: TrainingPrompts) -> None:
    """Initialise each token's row with the mean meaning of the words that have it."""
    table = student.text_model["embeddings"]["token_embedding"].weight
    total, count = torch.zeros_like(table), torch.zeros(len(table), 1)
    for phrase in prompts.groups["english"] + prompts.groups["drawable"]:
        rows = prompts.vocabulary.row_of[prompts.vocabulary.tokens(phrase[4:])]
        total[rows] += prompts.targets[prompts.row[phrase]] / len(rows)
        count[rows] += 1
    table.copy_(total / count.clamp(min=1))


def export(student: TextStudent, vocabulary: Vocabulary, folder: Path) -> None:
    """Write text_encoder.safetensors (fp16, only the token rows in use) and text.json (the model's `text` block)."""
    state = student.state_dict()
    state["token_rows"] = state.pop("text_model.embeddings.token_embedding.weight")
    state = {key: value.half().contiguous() for key, value in state.items()}
    state["token_ids"] = torch.tensor(vocabulary.token_ids, dtype=torch.int32)
    save_file(state, folder / "text_encoder.safetensors")
    (folder / "text.json").write_text(json.dumps(CONFIG, indent=1) + "\n", encoding="utf-8")
