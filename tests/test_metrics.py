"""The measures of forgetting: each is its definition, on real classifiers, and a bad input is told by its name."""

import itertools
import json
import math
from pathlib import Path

import comfy.model_management
import folder_paths
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter
from safetensors.torch import load_file, save_file
from unguide.nodes.evaluate import JUDGES, UnGuideEvaluate, demo_judges
from unguide.unguide_ops import host
from unguide.unguide_ops.metrics import TEN, accuracy_ten, accuracy_thirteen, h0, mean_probability, top_1
from unguide.unguide_ops.metrics.accuracy import among
from unguide.unguide_ops.metrics.clip import Clip, ZeroShot, clip_score
from unguide.unguide_ops.metrics.fid import clip_fid, fid
from unguide.unguide_ops.metrics.nudity import CLASSES, EXPOSED, count, detector, exposed, nudity_counts, total
from unguide.unguide_ops.metrics.optional_import import require
from unguide.unguide_ops.metrics.picture_grid import labelled_grid
from unguide.unguide_ops.metrics.pictures import as_bytes, batches
from unguide.unguide_ops.metrics.tables import markdown, means, overall

SYNONYMS = ["feline", "kitty", "housecat"]
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def models():
    """models/open_clip with a random CLIP, `tiny-test`, made known by its config."""
    import open_clip

    folder = Path(folder_paths.get_folder_paths("open_clip")[0])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**CONFIG).state_dict(), folder / "tiny-test.safetensors")
    (folder / "tiny-test.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="module")
def tiny(models):
    return Clip(models / "tiny-test.safetensors")


def pictures(number=3, height=40, width=56, seed=0):
    """Colourful noise, uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, 3, height, width), generator=generator, dtype=torch.uint8)


def drawn(demo, sample, *names):
    """Two IMAGEs of each by the demo model."""
    model, _, vae = demo
    return vae.decode(torch.cat([sample(model, f"a photo of the {name}", steps=12) for name in names]))


# --- accuracies

ROW = st.lists(st.integers(-300, 300).map(lambda it: it / 16), min_size=14, max_size=14, unique=True)
LOGITS = st.lists(ROW, min_size=1, max_size=8).map(torch.tensor)
NAMES = [*TEN, *SYNONYMS, "none"]
OTHERS = [name for name in TEN if name != "cat"]


@given(LOGITS)
def test_a_longer_list_of_names_never_recognises_more(logits):
    ten = accuracy_ten(logits, NAMES, "cat")
    thirteen = accuracy_thirteen(logits, NAMES, "cat", SYNONYMS, OTHERS)
    assert 0 <= top_1(logits, NAMES, "cat") <= thirteen <= ten <= 1


@given(LOGITS, st.permutations(range(14)), st.integers(-5, 5))
def test_accuracies_know_neither_the_order_of_names_nor_an_offset(logits, order, offset):
    moved, names = logits[:, order] + offset, [NAMES[index] for index in order]
    assert accuracy_ten(moved, names, "cat") == accuracy_ten(logits, NAMES, "cat")
    assert mean_probability(moved, names, TEN, "cat") == pytest.approx(
        mean_probability(logits, NAMES, TEN, "cat"), abs=1e-4
    )


@given(LOGITS)
def test_over_all_classes_shares_and_probabilities_add_up_to_one(logits):
    assert sum(accuracy_ten(logits, NAMES, name) for name in TEN) == pytest.approx(1)
    assert sum(mean_probability(logits, NAMES, TEN, name) for name in TEN) == pytest.approx(1)


def test_the_accuracies_differ_where_their_definitions_do():
    """A cat that looks most like a "kitty", and a little like "none"."""
    logits = torch.zeros(1, 14)
    logits[0, [3, 11, 13]] = torch.tensor([4.0, 5.0, 6.0])
    assert accuracy_ten(logits, NAMES, "cat") == 1
    assert accuracy_thirteen(logits, NAMES, "cat", SYNONYMS, OTHERS) == 0
    assert accuracy_thirteen(logits, NAMES, "cat", SYNONYMS, OTHERS, expected="kitty") == 1
    assert top_1(logits, NAMES, "none") == 1
    assert mean_probability(logits, NAMES, TEN, "cat") == pytest.approx(math.exp(4) / (math.exp(4) + 9))


@pytest.mark.parametrize(
    ("logits", "expected", "classes", "message"),
    [
        (torch.zeros(0, 14), "cat", TEN, r"\[0, 14\]"),
        (torch.zeros(2, 13), "cat", TEN, "14"),
        (torch.full((1, 14), float("nan")), "cat", TEN, "NaN or infinite"),
        (torch.zeros(1, 14), "tiger", TEN, "`expected` is 'tiger'"),
        (torch.zeros(1, 14), "tiger", ("tiger", "cat"), "does not know 'tiger'"),
        (torch.zeros(1, 14), "cat", ("cat", "cat"), "twice"),
    ],
)
def test_what_no_accuracy_can_be_taken_of_is_refused(logits, expected, classes, message):
    with pytest.raises(ValueError, match=message):
        accuracy_ten(logits, NAMES, expected, classes)


shares = st.floats(0, 1)


@given(shares, shares, shares)
def test_h0_is_the_harmonic_mean_of_its_terms(acc_e, acc_s, acc_g):
    terms = sorted((1 - acc_e, acc_s, 1 - acc_g))
    assert terms[0] - 1e-9 <= h0(acc_e, acc_s, acc_g) <= min(sum(terms) / 3, 3 * terms[0]) + 1e-9
    assert h0(acc_g, acc_s, acc_e) == pytest.approx(h0(acc_e, acc_s, acc_g))


def test_h0_at_its_landmarks():
    assert h0(0, 1, 0) == 1 and h0(0.5, 0.5, 0.5) == pytest.approx(0.5) and h0(0, 0.5, 0) == pytest.approx(0.75)
    assert h0(1, 1, 0) == h0(0, 0, 0) == h0(0, 1, 1) == 0


# --- CLIP


def test_zero_shot_and_clip_score_are_the_definitions_written_out(models, tiny):
    """With a model built by hand, and torchvision's own resizing, cropping and normalising."""
    import open_clip
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import center_crop, normalize, pil_to_tensor, resize

    network = open_clip.CLIP(**CONFIG).eval()
    network.load_state_dict(load_file(models / "tiny-test.safetensors"))
    batch = pictures()
    images = [Image.fromarray(picture.movedim(0, -1).numpy()) for picture in batch]
    resized = [resize(image, 32, InterpolationMode.BICUBIC) for image in images]
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    ready = torch.stack([normalize(pil_to_tensor(center_crop(it, 32)) / 255, mean, std) for it in resized])
    prompts = ["a photo of the cat", "a photo of the dog", "a photo of the cat"]
    texts = open_clip.SimpleTokenizer()(prompts)
    cosines = torch.nn.functional.cosine_similarity(
        network.encode_image(ready)[:, None], network.encode_text(texts)[None], dim=-1
    )
    torch.testing.assert_close(
        clip_score(tiny, batch, prompts), 100 * cosines.diag().clamp_min(0), rtol=1e-4, atol=1e-4
    )
    logits = ZeroShot(tiny, ["cat", "dog"]).logits(batch)
    torch.testing.assert_close(logits, network.logit_scale.exp() * cosines[:, :2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ZeroShot(tiny, prompts[:2], "{}").logits(batch.float() / 255), logits)


def test_every_picture_is_scored_against_its_own_prompt(tiny):
    prompts = ["a red house", "the sea", ""]
    together = clip_score(tiny, pictures(), prompts)
    alone = [clip_score(tiny, it[None], [prompt]).item() for it, prompt in zip(pictures(), prompts, strict=True)]
    assert together.tolist() == pytest.approx(alone, abs=1e-4)
    for wrong in (prompts[:2], "abc", [None] * 3):
        with pytest.raises(ValueError, match="`prompts`"):
            clip_score(tiny, pictures(), wrong)


def test_a_clip_model_that_cannot_be_had_is_an_error_that_says_what_to_do(models, tmp_path):
    weights = load_file(models / "tiny-test.safetensors")

    def refused(name, message, config=None):
        save_file(weights, tmp_path / f"{name}.safetensors")
        if config is not None:
            (tmp_path / f"{name}.json").write_text(config)
        with pytest.raises(ValueError, match=message):
            Clip(tmp_path / f"{name}.safetensors")

    with pytest.raises(ValueError, match="There is no CLIP model .*ViT-L-14.safetensors"):
        Clip(tmp_path / "ViT-L-14.safetensors")
    refused("my-clip", "knows no architecture 'my-clip'")
    refused("ViT-S-32", "does not hold the weights of open_clip's ViT-S-32")
    refused("ViT-B-16-SigLIP", "would download a tokenizer")
    refused("xlm-roberta-base-ViT-B-32", "would download a tokenizer")
    refused("other", "is not JSON", "{")
    refused("another", "needs embed_dim", "[]")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    (tmp_path / "broken.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ValueError, match="broken.safetensors does not hold"):
        Clip(tmp_path / "broken.safetensors")
    assert Clip(models / "tiny-test.safetensors")  # the bad configs have not spoiled open_clip's list


def test_a_missing_library_is_an_error_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)  # as an import that fails
    with pytest.raises(ImportError, match="pip install open_clip_torch"):
        require("open_clip")


# --- pictures


def test_bytes_and_floats_are_the_same_pictures():
    assert torch.equal(as_bytes(pictures().float() / 255), pictures())
    for wrong in (pictures()[0], pictures()[:, :2], pictures().long(), pictures().float() * float("nan")):
        with pytest.raises(ValueError, match="`pictures`"):
            as_bytes(wrong)


def folder_of(path, pictures):
    path.mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture.movedim(0, -1).numpy()).save(path / f"{number:03}.png")
    return path


def test_a_folder_is_read_in_batches_of_one_size(tmp_path):
    expected = [*pictures(5), *pictures(2, 20, 20)]
    folder = folder_of(tmp_path / "a", expected)
    found = list(batches(sorted(folder.iterdir()), 2))
    assert [len(batch) for batch in found] == [2, 2, 1, 2]
    assert all(torch.equal(a, b) for a, b in zip(expected, itertools.chain.from_iterable(found), strict=True))


# --- distances


def test_a_folder_is_as_far_from_itself_as_nothing_and_farther_from_others(tmp_path, tiny):
    """And the distance of normal features is Frechet's formula; the extractor is any function."""
    same, near, far = (
        folder_of(tmp_path / name, (pictures(40, 16, 16, seed).float() * brightness).byte())
        for name, seed, brightness in (("same", 0, 1), ("near", 1, 1), ("far", 2, 0.3))
    )

    def means_of_colours(batch):
        assert len(batch) <= 7
        return batch.float().mean((2, 3))

    assert fid(same, same, means_of_colours, 7) == pytest.approx(0, abs=1e-3)
    assert fid(same, near, means_of_colours, 7) < fid(same, far, means_of_colours, 7) / 10
    a, b = (np.array([np.asarray(Image.open(it)).mean((0, 1)) for it in sorted(its.iterdir())]) for its in (same, far))
    from scipy.linalg import sqrtm

    root = sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    formula = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert fid(same, far, means_of_colours, 7) == pytest.approx(formula, rel=1e-4)
    assert clip_fid(same, same, tiny) < 1e-2 < clip_fid(same, far, tiny)


def test_a_folder_without_enough_pictures_or_with_a_broken_one_is_told_by_name(tmp_path, tiny):
    good, one = folder_of(tmp_path / "good", pictures()), folder_of(tmp_path / "one", pictures(1))
    with pytest.raises(ValueError, match="one holds 1 pictures.*at least 2"):
        clip_fid(one, good, tiny)
    with pytest.raises(ValueError, match="no folder .*nowhere"):
        clip_fid(good, tmp_path / "nowhere", tiny)
    (good / "002.png").write_bytes((good / "002.png").read_bytes()[:200])
    with pytest.raises(ValueError, match="002.png cannot be read"):
        clip_fid(good, good, tiny)


# --- on the command line


def on_the_command_line(*arguments):
    from dev.__main__ import parse

    module, options = parse(["evaluate", *map(str, arguments)])
    return module.measure(options)


def test_folders_are_measured_on_the_command_line(demo, sample, models, tmp_path):
    dogs = folder_of(tmp_path / "dogs", (drawn(demo, sample, "dog")[:2].movedim(-1, 1) * 255).round().byte())
    noise = folder_of(tmp_path / "noise", pictures(3))
    found = on_the_command_line(dogs, "--expected", "dog", "--classes", "cat", "dog", "--nudity", "--real", dogs)
    summary = found["summary"]
    assert summary["recognised"] == 1 and summary["exposed"] == 0 and summary["pictures"] == 2
    assert summary["FID by a judge's features"] == pytest.approx(0, abs=1e-2)
    assert [it["file"] for it in found["pictures"]] == ["000.png", "001.png"]
    weights = models / "tiny-test.safetensors"
    by_clip = on_the_command_line(dogs, "--clip", weights, "--real", noise, "--prompt", "a dog")["summary"]
    assert set(by_clip) == {"pictures", "clip_score", "CLIP-FID"} and by_clip["CLIP-FID"] > 0
    from dev.console import DevError

    with pytest.raises(DevError, match="nothing to measure: add"):
        on_the_command_line(dogs)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DevError, match="empty holds no pictures"):
        on_the_command_line(tmp_path / "empty", "--nudity")


# --- NudeNet


def test_nudenet_counts_by_class_and_threshold():
    """Its own classes, and only those of exposed parts in the sum."""
    names = getattr(require("nudenet.nudenet"), "__labels")
    assert sorted(names) == sorted(CLASSES) and {name for name in names if "EXPOSED" in name} == set(EXPOSED)
    found = [
        {"class": "FACE_FEMALE", "score": 0.9},
        *({"class": "BELLY_EXPOSED", "score": s} for s in (0.6, 0.59, 0.9)),
    ]
    counts = count(found, 0.6)
    assert counts == dict.fromkeys(CLASSES, 0) | {"FACE_FEMALE": 1, "BELLY_EXPOSED": 2}
    assert exposed(counts) == 2 and total([counts, counts])["BELLY_EXPOSED"] == 4 and exposed(total([])) == 0


def drawn_face():
    """A face that NudeNet finds."""
    image = Image.new("RGB", (320, 320), (120, 140, 170))
    draw = ImageDraw.Draw(image)
    hair, skin, mouth = (60, 35, 20), (236, 188, 160), (180, 70, 75)
    draw.ellipse((90, 40, 230, 200), fill=hair)
    draw.ellipse((110, 70, 210, 215), fill=skin)
    draw.chord((100, 50, 220, 150), 180, 360, fill=hair)
    for x in (138, 182):
        draw.ellipse((x - 11, 126, x + 11, 138), fill=(250, 250, 250))
        draw.ellipse((x - 6, 126, x + 6, 138), fill=hair)
    draw.ellipse((143, 180, 177, 192), fill=mouth)
    return image.filter(ImageFilter.GaussianBlur(4))


def test_nudenet_sees_in_an_array_what_it_sees_in_the_file(tmp_path):
    """With the same confidence, so the colours are in the order of a file's; and in a batch what it sees alone."""
    image = drawn_face()
    image.save(tmp_path / "it.png")
    (from_file,) = detector().detect(str(tmp_path / "it.png"))
    picture = torch.from_numpy(np.asarray(image).copy()).movedim(-1, 0)[None]
    assert nudity_counts(picture, from_file["score"] - 1e-5)[0] == dict.fromkeys(CLASSES, 0) | {"FACE_FEMALE": 1}
    assert nudity_counts(picture, from_file["score"] + 1e-5)[0] == dict.fromkeys(CLASSES, 0)
    beside = torch.cat([picture, pictures(1, 320, 320), picture])
    assert [it["FACE_FEMALE"] for it in nudity_counts(beside)] == [1, 0, 1]
    assert detector() is detector()


# --- tables


def test_readings_become_tables():
    parts = (("erased", 0), ("other", 1), ("other", 0), ("synonym", 0))
    readings = [
        {"way": way, "part": part, "recognised": bool(hit) or way == "base", "clip_score": score}
        for way, score in (("base", None), ("UnGuidance", 20.0))
        for part, hit in parts
    ]
    assert means(readings, ["way"], ["recognised", "clip_score"]) == [
        {"way": "base", "pictures": 4, "recognised": 1.0, "clip_score": None},
        {"way": "UnGuidance", "pictures": 4, "recognised": 0.25, "clip_score": 20.0},
    ]
    rows = overall(readings, ["way"])
    assert rows[0] == {"way": "base", "acc_e": 1.0, "acc_s": 1.0, "acc_g": 1.0, "h0": 0.0}
    assert rows[1] == {"way": "UnGuidance", "acc_e": 0.0, "acc_s": 0.5, "acc_g": 0.0, "h0": pytest.approx(0.75)}
    assert markdown(rows).splitlines()[::3] == [
        "| way | acc_e | acc_s | acc_g | h0 |", "| UnGuidance | 0.00 | 0.50 | 0.00 | 0.75 |"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="`part` = 'synonym'"):
        overall(readings[:3])


# --- the node


def evaluated(images, **changed):
    """The node's outputs: accuracy, report, chart."""
    inputs = {it.id: it.default for it in UnGuideEvaluate.define_schema().inputs if it.id != "images"}
    accuracy, report, chart = UnGuideEvaluate.execute(images, **inputs | changed).args
    return accuracy, json.loads(report), chart


def test_the_schema_explains_every_input_and_lists_the_clip_models(models):
    schema = UnGuideEvaluate.define_schema()
    assert all(it.tooltip for it in [*schema.inputs, *schema.outputs])
    (combo,) = [it for it in schema.inputs if it.id == "classifier"]
    assert combo.options == ["tiny-test.safetensors", JUDGES]


def test_the_demo_judges_see_what_the_demo_model_draws(demo, sample):
    """The node's answer is the panel's: both judges, equal votes."""
    images = drawn(demo, sample, "cat", "truck")
    accuracy, report, chart = evaluated(images, prompt="a photo of the cat")
    assert [it["winner"] for it in report["pictures"]] == ["cat", "cat", "truck", "truck"] and accuracy == 0.5
    assert report["accuracies"]["among_classes"] == 0.5 and "clip_score" not in report and "nudity" not in report
    assert report["accuracies"]["mean_probability"] == pytest.approx(
        sum(it["probability_of_expected"] for it in report["pictures"]) / 4, abs=1e-4
    )
    assert all(0.5 < it["probability"] <= 1 for it in report["pictures"])
    assert chart.shape[0] == 1 and chart.shape[-1] == 3 and 0 <= chart.min() < chart.max() <= 1


def test_the_demo_judges_look_at_pictures_of_any_size(demo, sample):
    images = drawn(demo, sample, "cat").movedim(-1, 1)
    large = torch.nn.functional.interpolate(images, scale_factor=3, mode="bilinear")
    names = demo_judges().names
    assert names[-1] == "none" and len(names) == 66
    assert top_1(demo_judges().logits(large), names, "cat") == top_1(demo_judges().logits(images), names, "cat") == 1
    assert among(demo_judges().logits(large), names, names).exp().sum(1).tolist() == pytest.approx([1, 1], abs=1e-4)


def test_a_clip_model_gives_scores_and_nudenet_its_counts(models, tiny):
    images = pictures(10).movedim(1, -1).float() / 255
    accuracy, report, _ = evaluated(images, classifier="tiny-test.safetensors", prompt="the sea", nudity=True)
    logits = ZeroShot(tiny, TEN).logits(pictures(10))
    assert accuracy == accuracy_ten(logits, TEN, "cat")
    assert [it["winner"] for it in report["pictures"]] == [TEN[index] for index in logits.argmax(1)]
    scores = clip_score(tiny, pictures(10), ["the sea"] * 10)
    assert [it["clip_score"] for it in report["pictures"]] == pytest.approx(scores.tolist(), abs=1e-3)
    assert report["clip_score"] == pytest.approx(scores.mean().item(), abs=1e-3)
    assert report["nudity"] == total(nudity_counts(pictures(10))) and report["exposed"] == exposed(report["nudity"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"classes": " \n"}, "`classes` is empty"),
        ({"expected": "kitten"}, "`expected` is 'kitten'"),
        ({"classes": "cat\nunicycle"}, "does not know 'unicycle'"),
        ({"classifier": "ViT-L-14.safetensors"}, "ViT-L-14.safetensors, into .*open_clip"),
    ],
)
def test_what_the_node_cannot_do_it_says(changed, message):
    with pytest.raises(ValueError, match=message):
        evaluated(torch.rand(1, 64, 64, 3), **changed)


def test_cancel_stops_between_batches():
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(host.Interrupted):
        evaluated(torch.rand(20, 64, 64, 3))


def test_the_chart_holds_any_shape_and_says_what_it_leaves_out():
    reading = {"winner": "a very long name for a thing that is $5 & more", "probability": 1.0}
    for number, height, width in ((1, 8, 200), (65, 64, 64)):
        chart = labelled_grid(pictures(number, height, width), [reading] * number, "cat", ["long " * 50, "a title"])
        assert chart.shape[0] == 1 and chart.shape[1] < 1800 and 400 < chart.shape[2] < 1400
    assert labelled_grid(pictures(1), [reading], "cat", ["a photo of the cat"]).shape[2] < 250  # no empty half
