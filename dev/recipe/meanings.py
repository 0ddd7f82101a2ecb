"""What the text encoder understands, measured through its files and beside its teacher."""

import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from dev.device import CPU
from dev.inprocess import start_host
from dev.recipe import text_corpus, text_teacher
from dev.recipe.captions import plural
from dev.recipe.text_student import TextEncoder

BEHIND = (0, 3, 20, 60)
"""Output positions that are looked at: so many behind the end token."""

TEMPLATE = "a photo of the {}"
OTHER_TEMPLATES = ("a drawing of a {}", "the {}", "an image of the {}", "{}")
NEARER = """
    dog cat truck, cat tiger automobile, cat kitten puppy, dog wolf bicycle, airplane helicopter horse,
    automobile truck bird, automobile bus frog, bird owl ship, bird duck tractor, frog turtle airplane,
    deer goat rocket, horse donkey train, horse cow guitar, ship canoe rabbit, ship submarine cake,
    truck tractor butterfly, truck bus sheep, pizza hamburger whale, whale dolphin castle, forest tree pig
"""
"""Triples: the first is nearer to the second than to the third."""

Encode = Callable[[list[str]], torch.Tensor]


def measure(folder: Path) -> dict:
    """Figures of the encoder in `folder`: shares of right answers and cosines; `teacher_...` are its teacher's."""
    encoder = TextEncoder(folder)
    student = {behind: lambda prompts, behind=behind: outputs_behind(encoder, prompts, behind) for behind in BEHIND}
    figures = {f"{name}_behind_{behind}": value for behind in BEHIND for name, value in separation(student[behind])}
    words = nearest_right(lambda prompts: torch.cat([encode(prompts) for encode in student.values()], -1))
    teacher = nearest_right(text_teacher.embed)
    figures |= {f"unseen_{name}": value for name, value in words.items()}
    figures |= {f"teacher_{name}": value for name, value in teacher.items()}
    for who, encode in (("", student[20]), ("teacher_", text_teacher.embed)):
        figures |= {f"{who}triples_right": triples_right(encode), f"{who}pairs_right": pairs_right(encode)}
        figures |= {who + name: value for name, value in attributes(encode).items()}
    figures["things_apart_in_a_pair"] = things_apart(encoder)
    norms = encoder([TEMPLATE.format(name) for name in text_corpus.concepts()]).norm(dim=-1)
    figures |= {"norm_least": norms.min().item(), "norm_most": norms.max().item()}
    return {name: value if isinstance(value, list) else round(value, 4) for name, value in figures.items()}


def outputs_behind(encoder: TextEncoder, prompts: list[str], behind: int) -> torch.Tensor:
    """Unit outputs so many positions behind each prompt's end token, [number of prompts, width]."""
    return functional.normalize(encoder(prompts)[torch.arange(len(prompts)), encoder.ends(prompts) + behind], dim=-1)


def nearest_right(encode: Encode) -> dict:
    """Share of held-out words nearest to their class among the ten and among all concepts, by split; and the wrong."""
    classes, concepts = text_corpus.benchmark()["classes"], list(text_corpus.concepts())
    anchors = encode([TEMPLATE.format(name) for name in concepts])
    cases = [(kind, word, name) for name, entry in classes.items()
             for kind, words in entry["unseen"].items() for word in words]  # fmt: skip
    cosines = encode([TEMPLATE.format(word) for _, word, _ in cases]) @ anchors.T
    among_all = [concepts[best] for best in cosines.argmax(1)]
    ten = [concepts.index(name) for name in classes]
    among_ten = [concepts[ten[best]] for best in cosines[:, ten].argmax(1)]
    figures = {}
    for where, found in (("nearest_right", among_ten), ("nearest_right_of_all", among_all)):
        right = [best == name for best, (_, _, name) in zip(found, cases, strict=True)]
        figures[where] = sum(right) / len(right)
        for split in ("choose", "test"):
            hits = [hit for hit, (kind, _, _) in zip(right, cases, strict=True) if kind == split]
            figures[f"{where}_{split}"] = sum(hits) / len(hits)
        figures[f"{where}_not"] = [case[1] for hit, case in zip(right, cases, strict=True) if not hit]
    return figures


def triples_right(encode: Encode) -> float:
    """Share of the triples in which the nearer one is nearer."""
    triples = [text.split() for text in NEARER.split(",")]
    one, near, far = (encode([TEMPLATE.format(word) for word in column]) for column in zip(*triples, strict=True))
    return ((one * near).sum(-1) > (one * far).sum(-1)).float().mean().item()


def pairs_right(encode: Encode) -> float:
    """Share of the benchmark's pairs whose two nearest of the ten classes are the two in the picture."""
    pairs, classes = sum(text_corpus.benchmark()["pairs"].values(), []), list(text_corpus.benchmark()["classes"])
    cosines = encode([f"a photo of {text}" for text, *_ in pairs]) @ encode([TEMPLATE.format(c) for c in classes]).T
    nearest = [{classes[best] for best in row} for row in cosines.topk(2).indices]
    return sum(found == set(both) for found, (_, *both) in zip(nearest, pairs, strict=True)) / len(pairs)


def separation(encode: Encode):
    """Mean cosine between different concepts, and between one concept's captions in different templates."""
    names = list(text_corpus.concepts())
    first = encode([TEMPLATE.format(name) for name in names])
    others = torch.stack([encode([template.format(name) for name in names]) for template in OTHER_TEMPLATES])
    yield "different_concepts", off_diagonal(first @ first.T)
    yield "nearest_other_concept", (first @ first.T - 2 * torch.eye(len(names))).max(1).values.mean().item()
    yield "same_concept", (first * others).sum(-1).mean().item()


def attributes(encode: Encode) -> dict[str, float]:
    """How far colours, backgrounds and counts are apart, and whether another template's caption finds the right one."""
    tints, nouns = text_corpus.colours(), ["cat", "car", "boat", "horse", "house"]
    kinds = {
        "colours": [[f"{tint} {noun}" for tint in tints] for noun in nouns],
        "backgrounds": [[f"{noun} on a {tint} background" for tint in tints] for noun in nouns],
        "counts": [[noun] + [f"{n} {plural(noun)}" for n in ("two", "three", "five")] for noun in nouns],
    }
    figures = {}
    for kind, rows in kinds.items():
        cosines, right = [], []
        for row in rows:
            anchors = encode([_photo(text) for text in row])
            asked = encode([_photo(text).replace("photo", "drawing").replace("the ", "a ") for text in row])
            cosines.append(off_diagonal(anchors @ anchors.T))
            right.append(((asked @ anchors.T).argmax(1) == torch.arange(len(row))).float().mean().item())
        figures |= {f"different_{kind}": sum(cosines) / len(rows), f"{kind}_right": sum(right) / len(rows)}
    return figures


def _photo(text: str) -> str:
    return f"a photo of {text}" if text.split()[0] in text_corpus.COUNTS else TEMPLATE.format(text)


def things_apart(encoder: TextEncoder) -> float:
    """In "a red car next to a blue boat": share of things whose last token is nearest to that very thing.

    The choice is among the two things and the two with their colours exchanged.
    """
    right, nouns, tints = [], ["car", "boat", "cat", "horse"], ["red", "blue", "green", "yellow"]
    for (noun, tint), (noun2, tint2) in itertools.permutations(itertools.product(nouns, tints), 2):
        if noun == noun2 or tint == tint2:
            continue
        one, two = f"a photo of a {tint} {noun}", f" next to a {tint2} {noun2}"
        choices = [f"{tint} {noun}", f"{tint2} {noun2}", f"{tint2} {noun}", f"{tint} {noun2}"]
        output = functional.normalize(encoder([one + two])[0], dim=-1)
        ends = encoder.ends([one, one + two]) - 1
        anchors = outputs_behind(encoder, [f"a photo of a {choice}" for choice in choices], 0)
        right += ((output[ends] @ anchors.T).argmax(1) == torch.arange(2)).tolist()
    return sum(right) / len(right)


def off_diagonal(cosines: torch.Tensor) -> float:
    """Mean of a square matrix without its diagonal."""
    size = len(cosines)
    return ((cosines.sum() - cosines.trace()) / (size * (size - 1))).item()


def host_difference(folder: Path, prompts: list[str]) -> float:
    """Largest difference between these outputs and those of the host's class, loaded as the pack loads it."""
    start_host(where=CPU)  # so that it can be made again, bit for bit
    import demo_model

    encoder = TextEncoder(folder)
    clip = demo_model.load_text_encoder(Path(folder), encoder.config)
    outputs = torch.cat([clip.encode_from_tokens(clip.tokenize(prompt)) for prompt in prompts])
    return (outputs.cpu() - encoder(prompts)).abs().max().item()
