"""Files: what is written is read back, stock loaders read it, nothing half-written stays."""

import json
import os

import nodes
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from unguide.nodes.lora import UnGuideSaveLoRA
from unguide.unguide_ops import files, host
from unguide.unguide_ops.lora import ConceptLoRA, LowRankPair
from unguide.unguide_ops.steering import SteeringSettings
from unguide.unguide_ops.unguidance import unguide

PAIR = {"a.lora_down.weight": torch.ones(1, 3), "a.lora_up.weight": torch.ones(3, 1)}


def test_round_trip_keeps_every_bit(lora, tmp_path):
    lora = ConceptLoRA(lora.pairs, {"target": "x"}, {"rank": 2}, lora.target_prompt)
    files.save_lora(tmp_path / "sub" / "it.safetensors", lora)
    again = files.load_lora(tmp_path / "sub" / "it.safetensors")
    assert (again.concept, again.training) == (lora.concept, lora.training)
    assert again.pairs.keys() == lora.pairs.keys()
    for name, pair in lora.pairs.items():
        assert torch.equal(again.pairs[name].down, pair.down) and torch.equal(again.pairs[name].up, pair.up)
        assert again.pairs[name].alpha == pair.alpha
    assert torch.equal(again.target_prompt["cross_attn"], lora.target_prompt["cross_attn"])
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["it.safetensors"]


def test_the_stock_loader_reads_it_and_draws_what_our_branch_draws_at_w_0(model, clip, lora, sample, caplog):
    path, name = host.new_lora_path("unguide/cat")
    files.save_lora(path, lora)
    assert name in host.lora_files()
    stock, _ = nodes.LoraLoader().load_lora(model, clip, name, 1.0, 1.0)
    expected = sample(stock)
    assert not [r for r in caplog.records if "not loaded" in r.message]
    torch.testing.assert_close(
        sample(unguide(model, files.load_lora(path), SteeringSettings(w=0.0, sides="cond and uncond"))),
        expected,
        rtol=1e-3,
        atol=2e-3,
    )


def test_names_count_up_and_stay_in_the_loras_folder():
    first, _ = host.new_lora_path("unguide/count")
    first.parent.mkdir(parents=True, exist_ok=True)
    first.touch()
    assert host.new_lora_path("unguide/count")[0] != first
    with pytest.raises(ValueError, match="use a name inside it"):
        host.new_lora_path("../../elsewhere")


def test_a_full_disk_is_told_with_what_to_do(lora, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match="No space left on device.*still in the cache"):
        UnGuideSaveLoRA.execute(lora, "unguide/full")


@pytest.mark.parametrize("step", ["save_file", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(lora, tmp_path, monkeypatch, step):
    path = tmp_path / "it.safetensors"
    files.save_lora(path, lora)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files if step == "save_file" else os, step, full)
    with pytest.raises(OSError, match="No space"):
        files.save_lora(path, ConceptLoRA({}))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_loras_made_elsewhere_are_read(tmp_path, lora):
    name, pair = next(iter(lora.pairs.items()))
    tensors = {f"{name}.lora_A.weight": pair.down, f"{name}.lora_B.weight": pair.up}
    tensors |= {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(1, 4)}
    tensors |= {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(4, 1)}
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "peft.safetensors")
    it = files.load_lora(tmp_path / "peft.safetensors")
    assert list(it.pairs) == [name] and it.pairs[name].alpha == 1.0 and not it.target_prompt


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"a.lora_down.weight": torch.ones(2, 3)}, {}, "no upper"),
        ({"a.lora_down.weight": torch.ones(2, 3), "a.lora_up.weight": torch.ones(3, 4)}, {}, "rank"),
        ({"a.lora_mid.weight": torch.ones(2)}, {}, "a.lora_mid.weight"),
        ({f"lora_te_{key}": value for key, value in PAIR.items()}, {}, "no low-rank pairs"),
        (PAIR, {"unguide": "{"}, "Expecting"),
        (PAIR, {"unguide": "[1]"}, "list"),
        (PAIR, {"unguide": '{"concept": [1]}'}, "sequence"),
        (PAIR, {"unguide": '{"target_prompt": "*"}'}, "base64"),
    ],
)
def test_a_file_that_is_no_concept_lora_is_refused_by_name(tmp_path, tensors, metadata, message):
    path = tmp_path / "odd.safetensors"
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=rf"odd.safetensors.*{message}"):
        files.load_lora(path)


LEVEL = {"sigma": 1.0, "neutral": [0, 0.1, 0.2], "preserved": [], "target": [1.0]}
CALIBRATION = {"base": "x", "width": 64, "height": 64, "cfg": 7.5, "steps": 10, "levels": [LEVEL]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"levels": []}, "levels: "), ({"levels": [{**LEVEL, "sigma": -1}]}, "levels.0.sigma: "),
     ({"version": 2}, "version: "), ({"levels": [{**LEVEL, "neutral": ["a"]}]}, "levels.0.neutral.0: "),
     ({"cfg": float("nan")}, "cfg: "), ({"levels": [{**LEVEL, "neutral": [0.0] * 1001}]}, "levels.0.neutral: "),
     ({"base": "x" * 101}, "base: ")],
)  # fmt: skip
def test_a_malformed_calibration_is_refused_with_the_place(tmp_path, changes, message):
    def load(calibration):
        path = tmp_path / "it.safetensors"
        save_file(PAIR, path, {"unguide": json.dumps({"calibration": calibration})})
        return files.load_lora(path)

    assert load(CALIBRATION).calibration.threshold(1.0, 0.01) > 0.1
    with pytest.raises(ValueError, match=f"its calibration is malformed: {message}"):
        load({**CALIBRATION, **changes})


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_give_a_lora_or_a_clear_error(tmp_path, data):
    path = tmp_path / "it.safetensors"
    files.save_lora(path, ConceptLoRA({"a": LowRankPair(torch.ones(1, 3), torch.ones(2, 1), 1.0)}, {"target": "t"}))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert isinstance(files.load_lora(path), ConceptLoRA)
    except ValueError as error:
        assert "it.safetensors" in str(error)
