"""UnGuidance against an independent formulation: two copies of the model, the LoRA merged into one of them."""

import comfy.samplers
import pytest
import torch
from bypassing import bypass
from comfy.model_management import InterruptProcessingException
from comfy.patcher_extension import WrappersMP
from precision import CLOSE
from unguide.demo_model.loader import load_demo_model
from unguide.unguide_ops import host
from unguide.unguide_ops.concept_lora import ConceptLoRA
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide
from unguide.unguide_ops.model_adapter import adapter_for

from dev.bench.reference import blend, merge, relative_error


@pytest.fixture(scope="module")
def merged(lora):
    """A second model with the LoRA written into its weights."""
    with torch.inference_mode():
        return merge(load_demo_model()[0], lora)


@pytest.mark.parametrize("w", [-1.0, 0.0, 0.5, 2.0])
def test_blend_equals_two_merged_copies(model, merged, lora, sample, w):
    """With every sampler, and all else that composes: see test_composition."""
    ours = sample(unguide(model, lora, SteeringConfig(w=w, lora_branch="cond and uncond", eta=1.0)), cfg=3.0)
    assert relative_error(ours, sample(blend(model, (merged, w)), cfg=3.0)) < CLOSE
    assert relative_error(ours, sample(model, cfg=3.0)) > 0.01


def test_w_1_gives_the_plain_base_picture_bit_for_bit(model, lora, sample):
    assert torch.equal(sample(unguide(model, lora, SteeringConfig(w=1.0))), sample(model))


@pytest.mark.parametrize(("w", "evaluations"), [(1.0, 24), (0.0, 26), (-1.0, 36)])
def test_evaluations_are_counted_and_only_the_needed_are_made(model, lora, sample, w, evaluations):
    """With w = 0 the base is asked once, to see that the LoRA has an effect."""
    counter = host.EvaluationCounter()
    sample(counter.count_on(unguide(model, lora, SteeringConfig(w=w))))  # 6 steps x (cond + uncond) x 2 pictures
    assert counter.count == evaluations


def test_w_0_is_the_lora_s_prompt_against_the_base_s_negative_one(model, lora, sample):
    def apart(args):
        (changed,) = comfy.samplers.calc_cond_batch(bent.model, [args["conds"][0]], args["input"], args["sigma"], {})
        (base,) = comfy.samplers.calc_cond_batch(args["model"], [args["conds"][1]], args["input"], args["sigma"], {})
        return [changed, base]

    with torch.inference_mode():
        bent = merge(load_demo_model()[0], lora)
    copies = model.clone()
    copies.set_model_sampler_calc_cond_batch_function(apart)
    ours = sample(unguide(model, lora, SteeringConfig(w=0.0)), negative="blurred")
    assert relative_error(ours, sample(copies, negative="blurred")) < CLOSE
    assert relative_error(ours, sample(unguide(model, lora, SteeringConfig(w=0.0, lora_branch="cond and uncond")),
                                       negative="blurred")) > 0.01  # fmt: skip


def has_branch(model):
    return any("forward" in vars(module) for module in model.model.modules())


class SamplerError(Exception):
    pass


ERRORS = [SamplerError, KeyboardInterrupt, MemoryError, torch.OutOfMemoryError, InterruptProcessingException]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", [2, 6])  # in the gate's step, and while it steers
def test_an_error_in_the_middle_leaves_the_model_as_it_was(model, trained, sample, error, call):
    before = sample(model)
    guided = unguide(model, trained, SteeringConfig())
    calls = 0

    def fail(executor, *args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call:
            assert has_branch(model)
            raise error
        return executor(*args, **kwargs)

    guided.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", fail)
    with pytest.raises(error):
        sample(guided)
    assert not has_branch(model)
    assert torch.equal(sample(model), before)


def test_a_forward_that_another_pack_placed_is_kept(model, lora, sample):
    module = model.model.diffusion_model.get_submodule("middle_block.1.transformer_blocks.0.attn2.to_k")
    plain = module.forward
    placed = module.forward = lambda x: plain(x) * 1.0
    try:
        sample(unguide(model, lora, SteeringConfig(w=-1.0)))
        assert module.forward is placed
    finally:
        del module.forward


def test_a_bypassed_branch_is_an_error_and_not_a_silent_base_picture(model, lora, sample):
    for w in (0.0, -1.0):
        guided = unguide(model, lora, SteeringConfig(w=w))
        guided.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", bypass(model))
        with pytest.raises(RuntimeError, match="had no effect"):
            sample(guided)


@pytest.mark.parametrize("w", [0.0, -1.0])
def test_a_partly_bypassed_branch_is_told(model, lora, sample, w):
    courses = []
    guided = unguide(model, lora, SteeringConfig(w=w), courses.append)
    sample(guided)
    bypassed = guided.clone()
    bypassed.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", bypass(model, named="middle_block"))
    sample(bypassed)
    whole, part = (course.report()["warnings"] for course in courses)
    assert not whole
    (told,) = part
    within = sum("middle_block" in place.path for place in adapter_for(model, lora).pairs)
    assert within and f"{within} of its {len(lora.pairs)} layers (middle_block" in told


def test_a_lora_of_another_family_is_refused_with_the_layer_named(model, lora):
    stranger = ConceptLoRA({"lora_unet_double_blocks_0_txt_attn_qkv": next(iter(lora.pairs.values()))})
    with pytest.raises(ValueError, match="double_blocks_0_txt_attn_qkv"):
        unguide(model, stranger, SteeringConfig(w=-1.0))


def test_a_lora_of_another_width_is_refused_with_both_widths(model, lora, sample):
    name, pair = next(iter(lora.pairs.items()))
    wide = ConceptLoRA({name: type(pair)(torch.ones(1, 999), torch.ones(64, 1), 1.0)})
    with pytest.raises(ValueError, match="999 inputs"):
        sample(unguide(model, wide, SteeringConfig(w=0.0)))
    assert not has_branch(model)
