"""Every model family, on a tiny model of the host's own class: training, steering, the gate, files that others read."""

import dataclasses
import re

import comfy.model_management
import comfy.supported_models
import pytest
import torch
from moving import leave_in_main_memory
from precision import CLOSE
from unguide.unguide_ops import host, targets
from unguide.unguide_ops.lora import Place
from unguide.unguide_ops.sites import training_sites
from unguide.unguide_ops.steering import SteeringSettings
from unguide.unguide_ops.training import train
from unguide.unguide_ops.unguidance import unguide

from dev.bench.two_copies import relative_error
from dev.families.proof import CFG, OTHER, STEPS, TARGET, Proof
from dev.families.tiny import TINY

BY_NAME = {it.name: it for it in TINY}
AS_PUBLISHED = SteeringSettings(w=-1.0, sides="cond and uncond", eta=1.0)


@pytest.fixture(scope="module", params=TINY, ids=lambda it: it.name)
def proof(request):
    with torch.inference_mode():
        try:
            return Proof(request.param)
        except ValueError as error:
            if "kernels that gradients do not pass" not in str(error):
                raise
            pytest.skip(f"this host cannot train it: {error}")


def test_it_learns_and_only_the_lora_moves(proof):
    before, after = proof.losses()
    assert after < before and proof.is_untouched()
    assert proof.lora.is_finite and not proof.lora.is_zero


def test_unguidance_equals_two_merged_copies(proof):
    assert proof.error_against_copies() < CLOSE and proof.effect() > 1e-3
    assert torch.equal(proof.draw(proof.steered(w=1.0)), proof.draw(proof.model)) and proof.is_untouched()


def test_the_stock_loader_reads_every_key_and_draws_what_we_draw_at_w_0(proof, tmp_path):
    error, unused = proof.error_against_the_stock_loader(tmp_path / "it.safetensors")
    assert unused == 0 and error < CLOSE


def test_the_gate_measures_the_target_and_others(proof):
    """Where it decides is no matter: to a random model all prompts may be nearly the same."""
    target, other = proof.decisions()
    assert target.verdict.score == pytest.approx(1.0, abs=0.05)
    assert other.w in (-1.0, 1.0) and other.verdict.threshold == target.verdict.threshold


def test_the_trainer_shows_what_it_did(proof):
    """4 prompts by the base and the LoRA alone, 2 of them steered; 2 steps, with an uncond each where it is guided."""
    picture, evaluations = proof.grid()
    assert picture.ndim == 4 and picture.shape[0] == 1 and picture.isfinite().all()
    family = targets.family_of(host.diffusion_model(proof.model))
    uncond = 0 if family.distilled else 1
    assert evaluations == 2 * (4 * (1 + uncond) + 4 * (2 + uncond) + 2 * (2 + uncond))


SOME = [BY_NAME[name] for name in ("SDXL", "SD3.5", "Flux dev", "Chroma", "Z-Image", "Wan 2.1")]


@pytest.mark.parametrize("tiny", SOME, ids=lambda it: it.name)
def test_checkpointing_and_resuming_are_the_same_training(tiny):
    """Some families add to their input in place, behind the back of whoever computes a gradient twice."""
    once, twice = (Proof(tiny, checkpointing=it).lora for it in (False, True))
    for name, pair in once.pairs.items():
        assert relative_error(twice.pairs[name].up, pair.up) < 1e-3, name
    proof = Proof(tiny, iterations=1)
    more = train(proof.model, proof.concept, dataclasses.replace(proof.settings, learning_rate=1e-9), resume=once)
    for name, pair in once.pairs.items():
        assert relative_error(more.lora.pairs[name].up, pair.up) < CLOSE, name


@pytest.mark.parametrize(("name", "distilled"), [("Flux dev", True), ("Flux 2", True), ("Chroma", False)])
def test_a_model_that_guides_itself_is_never_asked_for_the_neutral_prompt(name, distilled):
    """Neither in training nor by the gate; 3 steps of the trajectory's 4 are walked, at 2 rows or 1."""
    tiny = BY_NAME[name]
    asked = []

    def prompt(text):
        asked.append(text)
        return tiny.prompt(text)

    proof = Proof(tiny)
    counter = host.EvaluationCounter()
    proof.draw(counter.watch(proof.model))
    assert counter.count == STEPS * 2 * (1 if distilled else 2)
    assert targets.guidance(host.diffusion_model(proof.model), CFG) == (1.0 if distilled else CFG)


def test_a_fused_projection_is_trained_in_its_part_and_written_as_loaders_expect():
    proof = Proof(BY_NAME["Flux dev"])
    selection = targets.select(host.diffusion_model(proof.model), targets.AUTOMATIC)
    sites = training_sites(selection, host.file_names(proof.model, selection.naming))
    assert list(sites) == [Place(f"double_blocks.{i}.txt_attn.qkv", 64, 128) for i in (0, 1)]
    for name, pair in proof.lora.pairs.items():
        assert re.fullmatch(r"lora_unet_double_blocks_\d_txt_attn_qkv", name)
        assert not pair.up[:64].any() and pair.up[64:128].any() and pair.up[128:].any()
    split = Proof(BY_NAME["SD3"])
    names = {f"transformer.transformer_blocks.{i}.attn.add_{it}_proj" for i in (0, 1) for it in "kv"}
    assert set(split.lora.pairs) == names
    assert {host.places(split.model)[name].first for name in split.lora.pairs} == {128, 256}


@pytest.mark.parametrize("choice", [targets.CROSS_ATTENTION, targets.ALL_BUT_CROSS_ATTENTION])
@pytest.mark.parametrize("tiny", TINY, ids=lambda it: it.name)
def test_every_choice_selects_layers_that_can_be_written(tiny, choice):
    model = tiny.model()
    selection = targets.select(host.diffusion_model(model), choice)
    sites = training_sites(selection, host.file_names(model, selection.naming))
    assert {place.path for place in sites} == set(selection.linears) and sites
    assert len({site.name for site in sites.values()}) == len(sites)


def test_a_family_that_is_not_known_is_refused_by_name_unless_a_pattern_says_what_to_train():
    config = {"image_model": "hunyuan3d2", "in_channels": 8, "context_in_dim": 16, "hidden_size": 32, "mlp_ratio": 2.0,
              "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "qkv_bias": True,
              "guidance_embed": False}  # fmt: skip
    it = comfy.supported_models.Hunyuan3Dv2({**config, "dtype": torch.float32}).get_model({}, "").diffusion_model
    with pytest.raises(ValueError, match=f"{type(it).__name__}.*does not know.*Flux.*`targets` to 'custom'"):
        targets.select(it, targets.AUTOMATIC)
    with pytest.raises(ValueError, match="none of the model's"):
        targets.select(it, targets.CUSTOM, "no such layer")
    with pytest.raises(ValueError, match="no regular expression"):
        targets.select(it, targets.CUSTOM, "(")
    assert "does not know models such as Hunyuan3Dv2" in targets.select(it, targets.CUSTOM, "txt_attn").warning


def test_custom_targets_are_those_that_match(model):
    unet = host.diffusion_model(model)
    custom = targets.select(unet, targets.CUSTOM, r"attn2\.to_v$")
    assert custom.linears and all(path.endswith("attn2.to_v") for path in custom.linears)
    assert custom.naming == "kohya"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["SD 1.x", "Flux dev", "Wan 2.1"])
def test_half_precision_bases_are_trained_and_steered(name, dtype):
    """The LoRA itself stays in fp32, and fits the base in full precision as well."""
    proof = Proof(BY_NAME[name], dtype=dtype)
    assert proof.losses()[1] < proof.losses()[0] and proof.lora.is_finite
    assert all(pair.up.dtype == torch.float32 for pair in proof.lora.pairs.values())
    steered, plain = proof.draw(proof.steered()), proof.draw(proof.model)
    full = Proof(BY_NAME[name])
    expected = full.draw(full.steered(lora=proof.lora))
    assert steered.isfinite().all() and not torch.equal(steered, plain)
    rounding = relative_error(plain, full.draw(full.model))
    assert relative_error(steered, expected) < 3 * rounding < 1
    assert torch.equal(proof.draw(proof.steered(w=1.0), OTHER), proof.draw(proof.model, OTHER)) and TARGET != OTHER


@pytest.mark.parametrize("name", ["SD 1.x", "SDXL", "Flux dev", "Wan 2.1"])
def test_an_fp8_base_is_steered_as_the_same_weights_in_full(name):
    """And is refused for training, with what to load instead."""
    tiny = BY_NAME[name]
    full, small = Proof(tiny), tiny.model(torch.float8_e4m3fn, cast=torch.float32)
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
    proof = Proof(BY_NAME[name])
    expected, plain = proof.draw(proof.steered()), proof.draw(proof.model)
    leave_in_main_memory(monkeypatch, all_but=memory)
    comfy.model_management.unload_all_models()
    low = proof.draw(proof.steered())
    assert any(getattr(it, "comfy_cast_weights", False) for it in host.diffusion_model(proof.model).modules())
    assert relative_error(low, expected) <= max(1e-6, 2 * relative_error(proof.draw(proof.model), plain))
    monkeypatch.undo()
    comfy.model_management.unload_all_models()
    assert torch.equal(proof.draw(proof.model), plain)
