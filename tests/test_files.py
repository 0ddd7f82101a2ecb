"""Files: what is written is read back, stock loaders read it, nothing half-written stays."""

import dataclasses
import errno
import json
import os
import platform
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import nodes
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from precision import CLOSE
from safetensors import safe_open
from safetensors.torch import save_file
from unguide.demo_model.loader import load_demo_model
from unguide.nodes import training
from unguide.nodes.lora import UnGuideSaveLoRA
from unguide.unguide_ops import host
from unguide.unguide_ops.concept_lora import ConceptLoRA
from unguide.unguide_ops.files import lora_file
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide
from unguide.unguide_ops.lora.low_rank import LowRankPair

from dev.bench.reference import blend, relative_error

PAIR = {"a.lora_down.weight": torch.ones(1, 3), "a.lora_up.weight": torch.ones(3, 1)}


def test_round_trip_keeps_every_bit(lora, tmp_path):
    lora = ConceptLoRA(lora.pairs, {"target": "x", "reference": "y"}, {"rank": 2}, lora.target_prompt)
    lora_file.save_lora(tmp_path / "sub" / "it.safetensors", lora)
    again = lora_file.load_lora(tmp_path / "sub" / "it.safetensors")
    assert (again.concept, again.training) == (lora.concept, lora.training)
    assert again.pairs.keys() == lora.pairs.keys()
    for name, pair in lora.pairs.items():
        assert torch.equal(again.pairs[name].down, pair.down) and torch.equal(again.pairs[name].up, pair.up)
        assert again.pairs[name].scale == pair.scale
    assert torch.equal(again.target_prompt["cross_attn"], lora.target_prompt["cross_attn"])
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["it.safetensors"]


def test_the_stock_loader_reads_it_and_draws_what_our_branch_draws_at_w_0(model, clip, lora, sample, caplog):
    path, name = next(host.new_lora_paths("unguide/cat"))
    lora_file.save_lora(path, lora)
    assert name in host.lora_files()
    stock, _ = nodes.LoraLoader().load_lora(model, clip, name, 1.0, 1.0)
    expected = sample(stock)
    assert not [r for r in caplog.records if "not loaded" in r.message]
    torch.testing.assert_close(
        sample(unguide(model, lora_file.load_lora(path), SteeringConfig(w=0.0, lora_branch="cond and uncond"))),
        expected,
        rtol=1e-3,
        atol=2e-3,
    )


def test_other_tools_find_what_they_show_and_nothing_about_the_machine(model, trained, tmp_path):
    """modelspec for LoRA managers, kohya's fields for trainers' tools, a picture beside the file."""
    trained = dataclasses.replace(trained, preview=torch.rand(40, 60, 3))
    lora_file.save_lora(tmp_path / "a" / "it.safetensors", trained)
    lora_file.save_lora(tmp_path / "b" / "it.safetensors", trained)
    content = (tmp_path / "a" / "it.safetensors").read_bytes()
    assert content == (tmp_path / "b" / "it.safetensors").read_bytes()
    with safe_open(tmp_path / "a" / "it.safetensors", "pt") as file:
        about = file.metadata()
    assert about["modelspec.title"] == "UnGuide: a photo of the cat" and about["ss_network_dim"] == "4"
    assert about["modelspec.resolution"] == "64x64" and about["ss_steps"] == "10"
    assert Image.open(tmp_path / "a" / "it.preview.png").size == (60, 40)
    told = {**about, "unguide": {**json.loads(about["unguide"]), "target_prompt": "", "text": ""}}
    assert not any(it in json.dumps(told) for it in (str(tmp_path), str(Path.home()), platform.node() + "."))


def test_the_prompts_can_be_left_out_and_the_gate_still_works(model, trained, sample, tmp_path):
    shown = dataclasses.replace(trained, preview=torch.rand(40, 60, 3))
    name = UnGuideSaveLoRA.execute(shown, "unguide/nameless", with_prompts=False).args[0]
    path = host.lora_path(name)
    assert not path.with_suffix(".preview.png").exists()
    with safe_open(path, "pt") as file:
        assert not any(word in json.dumps(file.metadata()) for word in ("cat", "feline", "kitty", "photo"))
    courses = []
    sample(unguide(model, lora_file.load_lora(path), SteeringConfig(), courses.append))
    assert [it.w for it in courses[0].decisions] == [0.0, 0.0]


def test_names_count_up_and_stay_in_the_loras_folder():
    first, _ = next(host.new_lora_paths("unguide/count"))
    first.parent.mkdir(parents=True, exist_ok=True)
    first.touch()
    assert next(host.new_lora_paths("unguide/count"))[0] != first
    with pytest.raises(ValueError, match="use a name inside it"):
        next(host.new_lora_paths("../../elsewhere"))


def test_a_full_disk_is_told_with_what_to_do(lora, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space left on device.*still in the cache"):
        UnGuideSaveLoRA.execute(lora, "unguide/full")


def test_where_the_loras_folder_cannot_be_written_the_output_folder_keeps_it(lora, tmp_path, monkeypatch):
    """A file lies where the folder should be: no user, not even root, can write below it."""
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "unguide").touch()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path / "loras")], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    with pytest.raises(OSError, match="could not be saved as unguide/it .*For now it is in .*output"):
        UnGuideSaveLoRA.execute(lora, "unguide/it")
    training.save_interrupted(SimpleNamespace(metrics=SimpleNamespace(history=[0.0]), lora=lora))
    made = sorted(it.relative_to(tmp_path / "output").as_posix() for it in (tmp_path / "output").rglob("*.safetensors"))
    assert made == ["unguide/cancelled/concept_00001_.safetensors", "unguide/not saved/concept_00001_.safetensors"]
    for name in made:
        assert lora_file.load_lora(tmp_path / "output" / name).pairs.keys() == lora.pairs.keys()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(lora, tmp_path, monkeypatch, step):
    path = tmp_path / "it.safetensors"
    lora_file.save_lora(path, lora)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space"):
        lora_file.save_lora(path, ConceptLoRA({}))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def taken(tmp_path):
    """Places, of which the first is taken by somebody else in the moment in which it is chosen."""

    def places():
        for number in range(3):
            path = tmp_path / f"{number}.safetensors"
            if number == 0:
                path.write_bytes(b"somebody else's")
            yield path, str(number)

    return places()


@pytest.mark.parametrize("links", [True, False])
def test_a_name_that_is_taken_meanwhile_is_left_to_whoever_took_it(lora, tmp_path, monkeypatch, taken, links):
    def none(*args):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", none)
    assert lora_file.save_new_lora(taken, lora) == "1"
    assert (tmp_path / "0.safetensors").read_bytes() == b"somebody else's"
    assert lora_file.load_lora(tmp_path / "1.safetensors").pairs.keys() == lora.pairs.keys()
    assert {it.name for it in tmp_path.iterdir()} == {"0.safetensors", "1.safetensors"}


@pytest.mark.parametrize("links", [True, False])
def test_two_servers_that_save_under_one_name_at_once_both_keep_their_lora(lora, monkeypatch, links):
    """The second saves while the first writes: same name, same process id."""
    fsync, names = os.fsync, []

    def meanwhile(number):
        monkeypatch.setattr(os, "fsync", fsync)
        names.append(UnGuideSaveLoRA.execute(other, "unguide/at-once").args[0])
        fsync(number)

    other = ConceptLoRA({"a": LowRankPair(torch.ones(1, 3), torch.ones(2, 1), 1.0)})
    monkeypatch.setattr(os, "fsync", meanwhile)
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "not permitted")))
    names.append(UnGuideSaveLoRA.execute(lora, "unguide/at-once").args[0])
    assert len(set(names)) == 2
    second, first = (lora_file.load_lora(host.lora_path(name)) for name in names)
    assert first.pairs.keys() == lora.pairs.keys() and second.pairs.keys() == other.pairs.keys()


def test_a_lora_that_could_not_be_loaded_again_is_not_written(lora, tmp_path):
    name, pair = next(iter(lora.pairs.items()))
    for broken in (torch.nan, torch.inf, 1e5):
        it = dataclasses.replace(lora, pairs={name: dataclasses.replace(pair, up=torch.full_like(pair.up, broken))})
        with pytest.raises(ValueError, match="is not saved, as it could not be loaded again: .*are NaN, infinite"):
            lora_file.save_lora(tmp_path / "it.safetensors", it)
    with pytest.raises(ValueError, match="not saved.*training.alphas"):
        lora_file.save_lora(tmp_path / "it.safetensors", dataclasses.replace(lora, training={"alphas": {name: 0.0}}))
    assert not list(tmp_path.iterdir())


def test_what_half_precision_does_not_hold_is_kept_all_the_same(lora, tmp_path):
    """Weights with a large alpha, and encoded prompts of language models."""
    name, pair = next(iter(lora.pairs.items()))
    loud = dataclasses.replace(pair, down=pair.down / 1e4, up=pair.up * 1e3, scale=1e5)
    assert loud.with_unit_scale().up.abs().max() <= 65504 < (loud.up * loud.scale).abs().max()
    said = host.pack_conditioning([[torch.full((1, 7, 4), 1e6), {"pooled_output": torch.full((1, 4), 0.1)}]])
    lora_file.save_lora(tmp_path / "it.safetensors", dataclasses.replace(lora, pairs={name: loud}, target_prompt=said))
    again = lora_file.load_lora(tmp_path / "it.safetensors")
    torch.testing.assert_close(again.pairs[name].change(torch.ones(pair.down.shape[1])),
                               loud.change(torch.ones(pair.down.shape[1])))  # fmt: skip
    assert host.unpack_conditioning(again.target_prompt)[0][0].eq(1e6).all()
    assert again.target_prompt["pooled_output"].dtype == torch.float16


def test_what_a_killed_process_left_is_removed_an_hour_later_and_nothing_else(lora, tmp_path):
    old, new, other = (tmp_path / name for name in ("a.1.unguide-part", "b.2.unguide-part", "c.part"))
    for path in (old, new, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, 0))
    lora_file.save_lora(tmp_path / "it.safetensors", lora)
    assert {path.name for path in tmp_path.iterdir()} == {new.name, other.name, "it.safetensors"}


def test_loras_made_elsewhere_are_read(tmp_path, lora):
    name, pair = next(iter(lora.pairs.items()))
    tensors = {f"{name}.lora_A.weight": pair.down, f"{name}.lora_B.weight": pair.up}
    tensors |= {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(1, 4)}
    tensors |= {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(4, 1)}
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "peft.safetensors")
    it = lora_file.load_lora(tmp_path / "peft.safetensors")
    assert list(it.pairs) == [name] and it.pairs[name].scale == 1.0 and not it.target_prompt


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"a.lora_down.weight": torch.ones(2, 3)}, {}, "no upper"),
        ({"a.lora_down.weight": torch.ones(2, 3), "a.lora_up.weight": torch.ones(3, 4)}, {}, "rank"),
        ({"model.diffusion_model.out.2.weight": torch.ones(2)}, {}, "out.2.weight"),
        ({f"lora_te_{key}": value for key, value in PAIR.items()}, {}, "nothing for the diffusion model"),
        (PAIR, {"unguide": "{"}, "unguide: Invalid JSON"),
        (PAIR, {"unguide": "[1]"}, "unguide: .*object"),
        (PAIR, {"unguide": '{"concept": [1]}'}, "concept: "),
        (PAIR, {"unguide": '{"target_prompt": "*"}'}, "target prompt cannot be read.*base64"),
    ],
)
def test_a_file_that_is_no_concept_lora_is_refused_by_name(tmp_path, tensors, metadata, message):
    path = tmp_path / "odd.safetensors"
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=rf"odd.safetensors.*{message}"):
        lora_file.load_lora(path)


LEVEL = {"sigma": 1.0, "neutral": [0, 0.1, 0.2], "preserved": [], "target": [1.0]}
CALIBRATION = {"base": "x", "width": 64, "height": 64, "cfg": 7.5, "steps": 10, "levels": [LEVEL]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"levels": []}, "levels: "), ({"levels": [{**LEVEL, "sigma": -1}]}, "levels.0.sigma: "),
     ({"version": 2}, "version: "), ({"levels": [{**LEVEL, "neutral": ["a"]}]}, "levels.0.neutral.0: "),
     ({"cfg": float("nan")}, "cfg: "), ({"levels": [{**LEVEL, "neutral": [0.0] * 1001}]}, "levels.0.neutral: "),
     ({"base": "x" * 101}, "base: "), ({"steps": 1001}, "steps: "), ({"cfg": -1}, "cfg: "),
     ({"width": 10**6}, "width: "),
     ({"steps": 1, "levels": [{**LEVEL, "sigma": 50.0 - i} for i in range(50)]}, " there are 50 `levels` of 1 `steps`"),
     ({"levels": [LEVEL, LEVEL]}, " `sigma` must become smaller"),
     ({"levels": [{**LEVEL, "sigma": 2.0}, {**LEVEL, "neutral": [0.0]}]}, " the `levels` and `text` must hold")],
)  # fmt: skip
def test_a_malformed_calibration_is_refused_with_the_place(tmp_path, changes, message):
    def load(calibration):
        path = tmp_path / "it.safetensors"
        save_file(PAIR, path, {"unguide": json.dumps({"calibration": calibration})})
        return lora_file.load_lora(path)

    assert load(CALIBRATION).calibration.threshold(1.0, 0.01) > 0.1
    with pytest.raises(ValueError, match=f"its metadata is malformed: calibration[.:]{message}"):
        load({**CALIBRATION, **changes})


@settings(max_examples=200)
@given(data=st.data())
def test_damaged_bytes_give_a_lora_or_a_clear_error(tmp_path, data):
    path = tmp_path / "it.safetensors"
    lora_file.save_lora(
        path,
        ConceptLoRA({"a": LowRankPair(torch.ones(1, 3), torch.ones(2, 1), 1.0)}, {"target": "t", "reference": "r"}),
    )
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert isinstance(lora_file.load_lora(path), ConceptLoRA)
    except ValueError as error:
        assert "it.safetensors" in str(error)


# --- LoRAs of other kinds

LINEAR = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
NORM = "lora_unet_down_blocks_0_resnets_0_norm1"


def kinds(model):
    """A LoRA of every kind that the host can load, on a Linear or a convolution of the model."""
    places = host.layer_slices(model)
    weights = {
        name: host.diffusion_model(model).get_submodule(places[name].path).weight for name in (LINEAR, CONV, NORM)
    }
    outputs, inputs = weights[LINEAR].shape
    maps, channels, *kernel = weights[CONV].shape
    generator = torch.Generator().manual_seed(3)

    def some(*shape):
        return 0.3 * torch.randn(*shape, generator=generator)

    pair = {f"{LINEAR}.lora_down.weight": some(2, inputs), f"{LINEAR}.lora_up.weight": some(outputs, 2)}
    loha = {f"{LINEAR}.hada_w{i}_{h}": some(*((outputs, 2) if h == "a" else (2, inputs))) for i in (1, 2) for h in "ab"}
    return {
        "LoCon": {f"{CONV}.lora_down.weight": some(2, channels, *kernel), f"{CONV}.lora_up.weight": some(maps, 2, 1, 1),
                  f"{CONV}.alpha": torch.tensor(1.0), **pair},
        "LoHa": loha,
        "LoKr": {f"{LINEAR}.lokr_w1": some(2, 2), f"{LINEAR}.lokr_w2": some(outputs // 2, inputs // 2)},
        "DoRA": {**pair, f"{LINEAR}.dora_scale": weights[LINEAR].norm(dim=0, keepdim=True).cpu() * 1.5},
        "whole weights": {f"{LINEAR}.diff": some(outputs, inputs), f"{LINEAR}.diff_b": some(outputs),
                          f"{NORM}.w_norm": some(*weights[NORM].shape),
                          f"{NORM}.b_norm": some(*weights[NORM].shape)},
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["LoCon", "LoHa", "LoKr", "DoRA", "whole weights"])
def test_any_lora_that_the_host_can_load_is_steered_with(model, clip, sample, tmp_path, kind):
    """At w = 0 it is what the stock loader makes of the file; at w = -1 two copies; the model stays as it was."""
    path = tmp_path / "it.safetensors"
    save_file(kinds(model)[kind], path)
    it = lora_file.load_lora(path)
    before, courses = sample(model), []

    def ours(w):
        return sample(unguide(model, it, SteeringConfig(w=w, lora_branch="cond and uncond", eta=1.0), courses.append))

    def merged(base):
        return comfy.sd.load_lora_for_models(base, None, comfy.utils.load_torch_file(str(path)), 1.0, 0.0)[0]

    stock = merged(model)
    assert relative_error(ours(0.0), sample(stock)) < CLOSE and relative_error(sample(stock), before) > 1e-3
    other = merged(load_demo_model()[0])
    comfy.model_management.load_models_gpu([other])
    other.model.current_patcher = other
    assert relative_error(ours(-1.0), sample(blend(model, (other, -1.0)))) < CLOSE
    assert torch.equal(sample(model), before)
    assert ("low-rank branch on 1 layers" in courses[0].path) == (kind == "LoCon")
    assert "changed copies of" in courses[0].path and "(0.00 MiB)" not in courses[0].path
    lora_file.save_lora(tmp_path / "again.safetensors", it)
    again = lora_file.load_lora(tmp_path / "again.safetensors")
    assert again.other_tensors.keys() == it.other_tensors.keys() and again.pairs.keys() == it.pairs.keys()


def test_a_lora_of_another_model_is_refused_by_the_layer_that_is_not_there(model):
    it = ConceptLoRA({}, other_tensors={"lora_unet_nowhere": {"diff": torch.ones(2)}})
    with pytest.raises(ValueError, match="does not fit the model.*lora_unet_nowhere"):
        unguide(model, it, SteeringConfig(w=0.0))
