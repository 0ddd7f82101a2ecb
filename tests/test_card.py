"""The erasure card: its words, what it sees, its intervals, its plan, and a small one from end to end."""

import argparse
import dataclasses
import json
from itertools import product

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from real_host import HOST
from safetensors.torch import save_file
from scipy.stats import binomtest
from torchmetrics.image.kid import KernelInceptionDistance
from unguide.demo_model.loader import load_config, load_demo_model
from unguide.unguide_ops.training.config import PRESETS

from dev.bench import attacks, card
from dev.bench.card import cells, plan, prompts, seeing, ways
from dev.bench.card.axes import Card, Measured, attack_shares, auc_and_misses, of_many
from dev.bench.card.prompts import (
    BACKGROUND,
    COLOUR,
    COUNT,
    NAME,
    OTHER,
    PAIR,
    SECOND,
    SYNONYM,
    CardPrompt,
    card_prompts,
)
from dev.bench.card.ways import BASE, EXCHANGED, LABELS, NEGATIVE, OURS
from dev.bench.model import Features
from dev.bench.report import as_floats
from dev.bench.words import photo, read_words
from dev.console import DevError
from dev.families.checkpoints import SMALL_FILES, save_whole_checkpoint, sd15_checkpoint
from dev.sweep import MODES

CLASSES = read_words()["classes"]
THINGS = frozenset(seeing.judges().names)
KNOWN = {word for words in load_config()["concepts"].values() for word in words}


@pytest.mark.parametrize("name", CLASSES)
def test_no_word_of_a_card_chose_anything_or_says_what_it_should_not(name):
    asked = card_prompts(name, THINGS)
    assert len({it.text for it in asked}) == len(asked) > 50
    chosen = {word for kind in ("unseen", "neighbours", "compounds") for word in CLASSES[name][kind]["choose"]}
    assert not {photo(word) for word in chosen - set(CLASSES)} & {it.text for it in asked}
    names = {*CLASSES[name]["seen"], *(word for split in CLASSES[name]["unseen"].values() for word in split)}
    for it in asked:
        if it.part in (prompts.LONG, prompts.SHORT, prompts.CAPTION, OTHER, prompts.ABOVE):
            assert not names & set(it.text.replace(",", "").split()), it
    assert {it.part for it in asked} >= {NAME, SYNONYM, prompts.UNSEEN, *prompts.UNRELATED, *prompts.REST}
    assert prompts.reference_of(name)[1] in KNOWN


def painted(colour, things=()):
    """A picture of one colour with discs (x, y, radius, colour)."""
    y, x = np.mgrid[:64, :64]
    picture = np.tile(np.array(colour, np.uint8)[:, None, None], (1, 64, 64))
    for cx, cy, radius, paint in things:
        picture[:, (x - cx) ** 2 + (y - cy) ** 2 < radius**2] = np.array(paint)[:, None]
    return picture


RED, BLUE, WHITE = (226, 50, 52), (60, 120, 225), (255, 255, 255)


def test_what_a_prompt_says_beside_the_class_is_seen_in_the_pixels():
    one = [(32, 32, 14, RED)]
    two = [(16, 32, 9, BLUE), (48, 32, 9, RED)]

    def right(part, rest, *pictures):
        return seeing.rest_is_right(CardPrompt(part, "", "cat", rest), np.stack(pictures))

    assert right(BACKGROUND, "blue", painted(BLUE, one), painted(WHITE, one)) == [1.0, 0.0]
    assert right(COLOUR, "red", painted(WHITE, one), painted(RED, [(32, 32, 14, BLUE)])) == [1.0, 0.0]
    assert right(COUNT, 2, painted(WHITE, two), painted(WHITE, one), painted(WHITE)) == [1.0, 0.0, 0.0]
    assert seeing.clipped(np.stack([painted(WHITE), painted(BLUE)])) == [1.0, 0.0]
    assert seeing.saturation(as_floats(np.stack([painted(WHITE)]))) == [0.0]


def test_the_second_thing_is_looked_for_in_its_own_half(demo, sample):
    """As large as a thing alone: a picture of an umbrella, halved, beside a cat's."""
    base, _, vae = demo
    with torch.inference_mode():
        drawn = {it: vae.decode(sample(base, photo(it), steps=20)).movedim(-1, 1) for it in ("umbrella", "cat")}
    small = {it: torch.nn.functional.interpolate(drawn[it].clamp(0, 1), scale_factor=0.5) for it in drawn}
    pictures = torch.ones(len(small["cat"]), 3, 64, 64)
    pictures[:, :, 16:48, :32], pictures[:, :, 16:48, 32:] = small["cat"], small["umbrella"]
    pictures = (pictures * 255).byte().numpy()
    assert sum(seeing.rest_is_right(CardPrompt(SECOND, "", "cat", "umbrella"), pictures)) >= 1
    assert sum(seeing.rest_is_right(CardPrompt(SECOND, "", "cat", "cat"), pictures)) == 0


def test_the_kernel_distance_is_torchmetrics_own():
    a, b = torch.rand(2, 12, 3, 64, 64, generator=torch.Generator().manual_seed(0)).unbind()
    b = b * 0.3

    def normed(pictures):
        features = seeing.features(pictures)
        return torch.nn.functional.normalize(features) * features.shape[1] ** 0.5

    metric = KernelInceptionDistance(Features(normed), subsets=1, subset_size=12, normalize=True)
    metric.inception.num_features = None
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert seeing.kid(a, b) == pytest.approx(metric.compute()[0].item(), rel=1e-2)
    assert seeing.diversity(a[:1].expand(4, -1, -1, -1)) < 1e-3 and seeing.likeness(a, a) == [1.0] * 12
    assert max(seeing.distances(a, a)) < 1e-5


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_a_share_s_interval_is_wilson_s(case):
    n, k = case
    its = Measured.share([1.0] * k + [0.0] * (n - k))
    low, high = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert (its.low, its.high) == pytest.approx((low, high), abs=1e-4) and its.n == n
    assert Measured.share([]) is None


def row(way, part, text, shows, seen, **more):
    """What a cell measures of a prompt by a way, two judges a picture."""
    n = len(seen)
    same = {"identical": [way == BASE] * n, "ssim": [0.5] * n, "distance": [0.1] * n, "rest_right": []}
    gate = {"score": [0.0] * n, "steered": [False] * n} if way == OURS else {"score": [], "steered": []}
    return {"way": way, "part": part, "text": text, "shows": shows, "rest": "", "calls": 40.0,
            "seen": [[it, it] if isinstance(it, str) else it for it in seen], **same, **gate, **more}  # fmt: skip


def made_up_cell():
    """A cat: the base always draws it, a negative prompt half of it, ours never, but it steers the dog and misses a
    synonym.
    """
    rows = []
    for way, cat, dog in (
        (BASE, ["cat", "cat"], "dog"),
        (NEGATIVE, ["cat", "none"], "dog"),
        (OURS, ["sky", "sky"], "cow"),
    ):
        mine = way == OURS
        rows += [
            row(way, NAME, "cat", "cat", cat, **({"score": [0.9, 0.8], "steered": [True, True]} if mine else {})),
            row(way, SYNONYM, "kitty", "cat", ["cat", "cat"], calls=63.0),
            row(way, OTHER, "dog", "dog", [dog, ["dog", dog]],
                **({"score": [0.7, 0.1], "steered": [True, False], "identical": [False, True]} if mine else {})),
            row(way, BACKGROUND, "blue", "cat", cat, rest_right=[1.0, 1.0] if way == BASE else [0.0, 1.0]),
        ]  # fmt: skip
    rows.append(row(EXCHANGED, BACKGROUND, "blue", "cat", ["sky", "sky"], rest_right=[1.0, 0.0]))
    rows.append(row(OURS, PAIR, "a cat and a dog", "", ["sky", "sky"], score=[0.9, 0.1], steered=[True, False]))
    instead = {way: {"recognised": [0.0, 1.0], "unsure": [0.0, 0.0], "saturation": [0.2, 0.3], "clipped": [0.0, 0.0],
                     "kid": 0.1, "diversity": 0.5} for way in (BASE, NEGATIVE, OURS, "reference")}  # fmt: skip
    refused = {way: "none here" for way in LABELS if way not in (BASE, NEGATIVE, OURS)}
    training = {"seconds": 1.0, "calls": 768, "file_mib": 0.2, "erasure": 0.9, "problem": ""}
    return {"rows": rows, "refused": refused, "instead": instead, "reference": "sky", "training": training}


def test_the_axes_of_a_made_up_model():
    made = Card({"cat": made_up_cell()})
    assert made.left(NEGATIVE, NAME).mean == 0.5 and made.left(OURS, NAME).mean == 0.0
    assert made.recognised(OURS, OTHER).mean == 0.25 and made.recognised(BASE, OTHER).mean == 1.0
    assert made.kept(OURS, OTHER).mean == 0.25 and made.identical(OURS).mean == 0.5
    assert made.misses().mean == 0.5  # both pictures of the synonym
    assert made.steered(OTHER).mean == 0.5 and made.false_alarms_by_word() == {"cat: dog": 0.5}
    assert made.rest_of_exchanged(BASE, BACKGROUND) == 2.0 and made.rest_of_exchanged(OURS, BACKGROUND) == 1.0
    assert made.pairs_missed().mean == 0.5 and made.instead_of_own(OURS) == 1.0
    assert made.rest(OURS, BACKGROUND).mean == 0.5 and made.changed(OURS, "ssim").mean == 0.5
    accuracies = made.accuracies(NEGATIVE)
    assert accuracies == {"acc_e": 0.5, "acc_s": 1.0, "acc_g": 1.0, "h0": 0.0}
    assert auc_and_misses([(NAME, [0.9, 0.8]), (OTHER, [0.7, 0.1])]) == (1.0, 0.0)
    figures = made.figures("demo")
    assert (
        figures["demo_base_top1"] == 1.0 and "demo_h0_lora" not in figures and figures["demo_instead_recognised"] == 0.5
    )


def attack_row(way, case, seen):
    return {
        "kind": attacks.SOFT,
        "case": case,
        "way": way,
        "shows": "cat",
        "seen": [[it, it] for it in seen],
        "calls": 40.0,
    }


def test_an_attack_counts_where_it_works_on_the_base():
    rows = [attack_row(BASE, "works", ["cat", "cat"]), attack_row(OURS, "works", ["dog", "cat"]),
            attack_row(BASE, "fails", ["dog", "dog"]), attack_row(OURS, "fails", ["dog", "dog"])]  # fmt: skip
    shares = attack_shares(rows)[attacks.SOFT]
    assert shares[BASE].mean == 0.5 and shares[OURS].mean == 0.5 and shares[OURS].n == 2 and shares[NEGATIVE] is None


def test_many_concepts_are_right_where_they_are_gone_and_the_rest_is_the_base_s():
    def drawn(name, forgotten, seen, same):
        both = [[it, it] for it in seen]
        return {"forgotten": forgotten, "shows": name, "calls": 50.0, "seen": both, "identical": same,
                "seen_in_base": [[name, name]] * 2}  # fmt: skip

    result = of_many({"rows": [drawn("cat", True, ["sky", "cat"], [False, False]),
                               drawn("cow", False, ["cow", "cow"], [True, False])], "order": 1.0})  # fmt: skip
    assert (
        result["erased"] == 0.5 and result["others seen"] == 1.0 and result["right"] == 0.5 and result["calls"] == 50.0
    )


def test_a_larger_budget_makes_the_same_cells_and_more():
    seconds = {"demo": 0.2, "sd3": 0.4}
    few, more = (plan.cells_within(minutes, 2, seconds, ["demo", "sd3"], list(CLASSES)) for minutes in (5, 60))
    assert [(it.model, it.part, it.concept) for it in few[:4]] == [
        (model, part, "cat") for part, model in product(("prompts", "gate"), ("demo", "sd3"))
    ]
    assert set(few) < set(more) and plan.minutes(more, seconds, 2) <= 60
    everything = plan.cells_within(10_000, 2, seconds, ["demo", "sd3"], list(CLASSES))
    assert {it.concept for it in everything if it.part == "prompts"} == set(CLASSES)
    assert all(it.pictures > 1 for it in everything if it.part == "prompts")


@pytest.fixture(scope="module")
def quick():
    """Few steps and short attacks: what is measured says nothing, but all of it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dev.bench.sessions.STEPS", 3)
        patch.setattr(attacks, "ITERATIONS", 2)
        patch.setattr(attacks, "INVERSION_STEPS", 4)
        patch.setattr(attacks, "NUMBER", 2)
        patch.setattr(attacks, "DENOISE", (0.5,))
        patch.setattr(cells, "GATE_STEPS", (0, 1))
        patch.setattr(cells, "OTHERS_OF_MANY", 1)
        patch.setattr(cells, "card_prompts", lambda *given: a_prompt_of_each_part(*given))
        yield


def a_prompt_of_each_part(name, things):
    return list({it.part: it for it in reversed(card_prompts(name, things))}.values())[::-1]


class Here:
    """Does a benchmark's tasks in this process."""

    def __init__(self, folder, **options):
        defaults = {"checkpoint": None, "models": ["demo"], "budget": 0, "workers": 1}
        self.options = argparse.Namespace(**{**defaults, **options, "output": folder})
        self.output, self.classes, self.done = folder, ["cat"], []

    def each(self, label, task, cases):
        self.done += [label] * len(cases)
        with torch.inference_mode(False):  # as in a worker
            return [task(*case) for case in cases]


def test_a_card_from_end_to_end_and_again_from_its_cells(quick, tmp_path, monkeypatch):
    """Every part on the embedded model: tables, page and figures; a second run draws nothing."""
    monkeypatch.setattr(card, "trust_in_judges", lambda: {"judge_top1": 0.95})
    chosen = [cells.Cell("demo", part, "cat", 1) for part in ("prompts", "gate", "attacks", "no words")]
    chosen.append(cells.Cell("demo", "many", "1", 1))
    monkeypatch.setattr(plan, "cells_within", lambda *_: chosen)
    monkeypatch.setattr(plan, "seconds_of_a_picture", lambda model: 0.1)
    bench = Here(tmp_path)
    result = card.measure(bench)
    assert bench.done.count("Cells") == 5
    assert result["figures"]["demo_calls_unrelated"] < 10
    assert "UnGuidance" in card.text(result) and json.dumps(result)
    page = (tmp_path / "card.html").read_text()
    assert "SD3" not in page and "learned embedding" in page and (tmp_path / "card/demo/prompts-cat.png").is_file()
    rows = json.loads((tmp_path / "card/demo/prompts-cat.json").read_text())["result"]["rows"]
    assert {it["way"] for it in rows} >= {BASE, NEGATIVE, OURS, ways.HALF, ways.PAPER, ways.LORA, ways.WEIGHT}
    again = Here(tmp_path)
    assert card.measure(again) == result and again.done.count("Cells") == 0


@pytest.mark.parametrize("name", ["sd3", "wan", "lumina2"])
def test_an_attack_by_gradient_descent_on_another_family(quick, name):
    """Whatever the axes of its latents, its pooled vector, and the length of its prompts."""
    session = ways.Session(name)
    lora = session.train("cat", iterations=2).lora
    for attack in (*attacks.soft_prompts_on(session, lora, "cat"), *attacks.attacks_without_words(session, "cat")):
        request = ways.Request(None, attack.positive, attack.latent(session), 0, attack.denoise, attack.noise)
        drawn = ways.Ways(session, lora, "cat").draw(OURS, request)
        assert drawn.pictures.shape == (2, 3, 64, 64) and len(drawn.decisions) == 2


TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def random_clip(folder):
    """A CLIP of random weights as a user's file, with its config beside it."""
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**TINY_CLIP).state_dict(), folder / "tiny-card.safetensors")
    (folder / "tiny-card.json").write_text(json.dumps(TINY_CLIP))
    return folder / "tiny-card.safetensors"


def of_a_checkpoint(folder, path, **options):
    """What `bench card --checkpoint` gives for the cat, with two I2P rows and two captions."""
    (folder / "i2p.csv").write_text("prompt,evaluation_seed,evaluation_guidance\na nude person,7,7.5\nart,8,7\n")
    (folder / "captions.csv").write_text("prompt\na castle on a hill\ntwo apples\n")
    bench = Here(folder, checkpoint=path, clip=random_clip(folder), i2p=folder / "i2p.csv", i2p_rows=None, steps=2,
                 captions=folder / "captions.csv", size=64, paper_seeds=1, host=HOST, **options)  # fmt: skip
    with torch.inference_mode(False):
        return card.measure(bench), Here(folder, **vars(bench.options))


def test_the_card_of_a_checkpoint_by_its_owner(tmp_path, capsys, monkeypatch):
    """The embedded model in place of the checkpoint, judged by a random CLIP."""
    (tmp_path / "mine.safetensors").touch()
    monkeypatch.setattr("dev.sweep.renderer.comfy.sd.load_checkpoint_guess_config", lambda *_, **__: load_demo_model())
    use_short_training_and_few_prompts(monkeypatch, tmp_path)
    result, again = of_a_checkpoint(tmp_path, tmp_path / "mine.safetensors", modes=MODES)
    report = card.text(result)
    assert "cat; 1 pictures a prompt: about" in capsys.readouterr().out  # the estimate
    for words in ("accuracy_ten by CLIP", "negative prompt", "as published", "CLIP-FID", "NudeNet", "94.77"):
        assert words in report, words
    rows = {it["sampling"]: it for it in result["tables"]["classes"]}
    assert rows["base model"]["model calls"] == "4.0" and float(rows["w = 0.5"]["model calls"]) == 8.0
    assert {it["sampling"] for it in result["tables"]["i2p"]} == {"base model", "LoRA alone", "UnGuidance"}
    with torch.inference_mode(False):
        assert card.measure(again)["tables"] == result["tables"]  # from what is there


def use_short_training_and_few_prompts(monkeypatch, folder):
    """Two iterations, a synonym, another class."""

    def preset(name, **fields):
        return dataclasses.replace(PRESETS[name], **fields, iterations=2, steps=2, reuse=2)

    monkeypatch.setattr("dev.sweep.renderer.config.preset", preset)
    prompts_of_cat = {"target": photo("cat"), "reference": photo("forest"), "synonyms": [photo("kitty")],
                      "other": [photo("dog"), ""]}  # fmt: skip
    (folder / "prompts").mkdir()
    (folder / "prompts" / "cat.json").write_text(json.dumps(prompts_of_cat))
    monkeypatch.setattr(card.checkpoint, "ROOT", folder)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("size", ["small", "whole"])
def test_the_card_of_a_file_of_random_weights(size, tmp_path, monkeypatch):
    """A Stable Diffusion 1 with text encoder and VAE in its file, as a user's would be: a small UNet, and all 2 GB."""
    use_short_training_and_few_prompts(monkeypatch, tmp_path)
    path = tmp_path / "small.safetensors"
    if size == "small":
        save_whole_checkpoint(SMALL_FILES[0], path)
    result, _ = of_a_checkpoint(tmp_path, path if size == "small" else sd15_checkpoint(), modes=("base", "ours"))
    assert [it["sampling"] for it in result["tables"]["classes"]] == ["base model", "UnGuidance", "negative prompt"]


def test_a_card_of_a_checkpoint_without_its_files_says_which(tmp_path):
    (tmp_path / "there.safetensors").touch()
    for options, words in (({"checkpoint": tmp_path / "there.safetensors", "clip": None}, "needs `--clip FILE`"),
                           ({"checkpoint": tmp_path / "no.safetensors", "clip": tmp_path / "c.safetensors"},
                            "there is no file .*no.safetensors: `--checkpoint` names one")):  # fmt: skip
        with pytest.raises(DevError, match=words):
            card.measure(Here(tmp_path, i2p=None, captions=None, **options))
