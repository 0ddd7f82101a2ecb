"""Every model family, on a tiny model of the host's own class: training, steering, the gate, files that others read."""

import dataclasses
import re

import comfy.model_management
import comfy.supported_models
import pytest
import torch
from moving import leave_in_main_memory
from precision import CLOSE
from unguide.unguide_ops import host
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide
from unguide.unguide_ops.lora import target_layers
from unguide.unguide_ops.lora.low_rank import LayerSlice
from unguide.unguide_ops.training.trained_slices import trained_slices
from unguide.unguide_ops.training.trainer import train

from dev.bench.reference import relative_error
from dev.families.checks import CFG, OTHER, STEPS, TARGET, FamilyCheck
from dev.families.tiny import TINY, WIDTH

BY_NAME = {it.name: it for it in TINY}
AS_PUBLISHED = SteeringConfig(w=-1.0, lora_branch="cond and uncond", eta=1.0)


@pytest.fixture(scope="module", params=TINY, ids=lambda it: it.name)
def check(request):
    with torch.inference_mode():
        try:
            return FamilyCheck(request.param)
        except ValueError as error:
            if "kernels that gradients do not pass" not in str(error):
                raise
            pytest.skip(f"this host cannot train it: {error}")


def test_it_learns_and_only_the_lora_moves(check):
    before, after = check.losses()
    assert after < before and check.is_untouched()
    assert check.lora.is_finite and not check.lora.is_zero


def test_unguidance_equals_two_merged_copies(check):
    assert check.error_against_copies() < CLOSE and check.effect() > 1e-3
    assert torch.equal(check.draw(check.steered(w=1.0)), check.draw(check.model)) and check.is_untouched()


def test_the_stock_loader_reads_every_key_and_draws_what_we_draw_at_w_0(check, tmp_path):
    error, unused = check.error_against_the_stock_loader(tmp_path / "it.safetensors")
    assert unused == 0 and error < CLOSE


def test_the_gate_measures_the_target_and_others(check):
    """Where it decides is no matter: to a random model all prompts may be nearly the same."""
    target, other = check.decisions()
    assert target.decision.score == pytest.approx(1.0, abs=0.05)
    assert other.w in (0.0, 1.0) and other.decision.threshold == target.decision.threshold


def test_the_trainer_shows_what_it_did(check):
    """4 prompts by the base and the LoRA alone, 2 of them steered; 2 steps, with an uncond each where it is guided."""
    picture, evaluations = check.grid()
    assert picture.ndim == 4 and picture.shape[0] == 1 and picture.isfinite().all()
    family = target_layers.family_of(host.diffusion_model(check.model))
    uncond = 0 if family.distilled else 1
    assert evaluations == 2 * (4 + 4) * (1 + uncond)  # the base and the LoRA


SOME = [BY_NAME[name] for name in ("SDXL", "SD3.5", "Flux dev", "Chroma", "Z-Image", "Wan 2.1")]


@pytest.mark.parametrize("tiny", SOME, ids=lambda it: it.name)
def test_checkpointing_and_resuming_are_the_same_training(tiny):
    """Some families add to their input in place, behind the back of whoever computes a gradient twice."""
    once, twice = (FamilyCheck(tiny, checkpointing=it).lora for it in (False, True))
    for name, pair in once.pairs.items():
        assert relative_error(twice.pairs[name].up, pair.up) < 1e-3, name
    check = FamilyCheck(tiny, iterations=1)
    more = train(check.model, check.concept, dataclasses.replace(check.settings, learning_rate=1e-9), resume=once)
    for name, pair in once.pairs.items():
        assert relative_error(more.lora.pairs[name].up, pair.up) < CLOSE, name


def test_a_way_in_through_which_nothing_comes_is_no_trouble():
    """Prompts without a pooled vector, for which the host puts zeros."""
    silent = dataclasses.replace(BY_NAME["SD3"], extras=lambda normal: {"pooled_output": torch.zeros(1, WIDTH)})
    check = FamilyCheck(silent)
    before, after = check.losses()
    assert after < before and check.lora.is_finite


@pytest.mark.parametrize(("name", "distilled"), [("Flux dev", True), ("Flux 2", True), ("Chroma", False)])
def test_a_model_that_guides_itself_is_not_called_with_the_empty_prompt(name, distilled):
    """Two pictures take two rows a step, or four if the model does not guide itself."""
    check = FamilyCheck(BY_NAME[name])
    counter = host.EvaluationCounter()
    check.draw(counter.count_on(check.model))
    assert counter.count == STEPS * 2 * (1 if distilled else 2)
    assert target_layers.effective_cfg(host.diffusion_model(check.model), CFG) == (1.0 if distilled else CFG)


def test_a_fused_projection_is_trained_in_its_part_and_written_as_loaders_expect():
    check = FamilyCheck(BY_NAME["Flux 2"], targets=target_layers.CROSS_ATTENTION)
    selection = target_layers.select_target_layers(host.diffusion_model(check.model), target_layers.CROSS_ATTENTION)
    slices = trained_slices(selection, host.names_in_files(check.model, selection.naming))
    assert list(slices) == [LayerSlice(f"double_blocks.{i}.txt_attn.qkv", 64, 128) for i in (0, 1)]
    for name, pair in check.lora.pairs.items():
        assert re.fullmatch(r"diffusion_model.double_blocks.\d.txt_attn.qkv", name)
        assert not pair.up[:64].any() and pair.up[64:128].any() and pair.up[128:].any()
    split = FamilyCheck(BY_NAME["SD3"])
    names = {f"transformer.transformer_blocks.{i}.attn.add_{it}_proj" for i in (0, 1) for it in "kv"}
    pooled = "transformer.time_text_embed.text_embedder.linear_1"
    assert set(split.lora.pairs) == {*names, pooled}
    assert {host.layer_slices(split.model)[name].first for name in names} == {128, 256}


@pytest.mark.parametrize("choice", [target_layers.CROSS_ATTENTION, target_layers.ALL_BUT_CROSS_ATTENTION])
@pytest.mark.parametrize("tiny", TINY, ids=lambda it: it.name)
def test_every_choice_selects_layers_that_can_be_written(tiny, choice):
    model = tiny.model()
    selection = target_layers.select_target_layers(host.diffusion_model(model), choice)
    slices = trained_slices(selection, host.names_in_files(model, selection.naming))
    assert {layer_slice.path for layer_slice in slices} == set(selection.linears) and slices
    assert len({trained.name for trained in slices.values()}) == len(slices)


def test_a_family_that_is_not_known_is_refused_by_name_unless_a_pattern_says_what_to_train():
    config = {"image_model": "hunyuan3d2", "in_channels": 8, "context_in_dim": 16, "hidden_size": 32, "mlp_ratio": 2.0,
              "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "qkv_bias": True,
              "guidance_embed": False}  # fmt: skip
    model = comfy.supported_models.Hunyuan3Dv2({**config, "dtype": torch.float32}).get_model({}, "").diffusion_model
    with pytest.raises(ValueError, match=f"{type(model).__name__}.*does not know.*Flux.*`targets` to 'custom'"):
        target_layers.select_target_layers(model, target_layers.AUTOMATIC)
    with pytest.raises(ValueError, match="none of the model's"):
        target_layers.select_target_layers(model, target_layers.CUSTOM, "no such layer")
    with pytest.raises(ValueError, match="not a regular expression"):
        target_layers.select_target_layers(model, target_layers.CUSTOM, "(")
    assert (
        "does not know models such as Hunyuan3Dv2"
        in target_layers.select_target_layers(model, target_layers.CUSTOM, "txt_attn").warning
    )


def test_custom_targets_are_those_that_match(model):
    unet = host.diffusion_model(model)
    custom = target_layers.select_target_layers(unet, target_layers.CUSTOM, r"attn2\.to_v$")
    assert custom.linears and all(path.endswith("attn2.to_v") for path in custom.linears)
    assert custom.naming == "kohya"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["SD 1.x", "Flux dev", "Wan 2.1"])
def test_half_precision_bases_are_trained_and_steered(name, dtype):
    """The LoRA itself stays in fp32, and fits the base in full precision as well."""
    check = FamilyCheck(BY_NAME[name], dtype=dtype)
    assert check.losses()[1] < check.losses()[0] and check.lora.is_finite
    assert all(pair.up.dtype == torch.float32 for pair in check.lora.pairs.values())
    steered, plain = check.draw(check.steered()), check.draw(check.model)
    full = FamilyCheck(BY_NAME[name])
    expected = full.draw(full.steered(lora=check.lora))
    assert steered.isfinite().all() and not torch.equal(steered, plain)
    rounding = relative_error(plain, full.draw(full.model))
    assert relative_error(steered, expected) < 3 * rounding < 1
    assert torch.equal(check.draw(check.steered(w=1.0), OTHER), check.draw(check.model, OTHER)) and TARGET != OTHER


@pytest.mark.parametrize("name", ["SD 1.x", "SDXL", "Flux dev", "Wan 2.1"])
def test_an_fp8_base_is_steered_as_the_same_weights_in_full(name):
    """And is refused for training, with what to load instead."""
    tiny = BY_NAME[name]
    full, small = FamilyCheck(tiny), tiny.model(torch.float8_e4m3fn, cast=torch.float32)
    weights = host.diffusion_model(small).state_dict()
    host.diffusion_model(full.model).load_state_dict({name: it.float() for name, it in weights.items()})
    ours = full.draw(unguide(small, full.lora, AS_PUBLISHED))
    assert relative_error(ours, full.draw(full.steered())) < 1e-3
    assert relative_error(ours, full.draw(small)) > 1e-3
    with pytest.raises(ValueError, match="quantised.*load an fp16, bf16 or fp32"):
        train(small, full.concept, full.settings)


@pytest.mark.parametrize("memory", [0.1, 300_000.0], ids=["novram", "lowvram"])
@pytest.mark.parametrize("name", ["SD 1.x", "Flux dev", "Wan 2.1"])
def test_with_weights_left_in_main_memory_the_picture_is_the_same(monkeypatch, name, memory):
    """What --novram and --lowvram make of a model: its layers fetch their weights, patched, when they compute."""
    check = FamilyCheck(BY_NAME[name])
    expected, plain = check.draw(check.steered()), check.draw(check.model)
    leave_in_main_memory(monkeypatch, all_but=memory)
    comfy.model_management.unload_all_models()
    low = check.draw(check.steered())
    assert any(getattr(it, "comfy_cast_weights", False) for it in host.diffusion_model(check.model).modules())
    assert relative_error(low, expected) <= max(1e-6, 2 * relative_error(check.draw(check.model), plain))
    monkeypatch.undo()
    comfy.model_management.unload_all_models()
    assert torch.equal(check.draw(check.model), plain)
