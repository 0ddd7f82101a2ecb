"""UnGuidance with all else that hangs on a MODEL or in a prompt, each against two merged copies of the model."""

import comfy.samplers
import comfy.sd
import nodes
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from comfy_extras.nodes_model_advanced import RescaleCFG
from comfy_extras.nodes_model_merging import ModelMergeSimple
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from imitations.control_nets import with_control_net
from imitations.sampling import CAT, DOG, HOUSE, Assets, Sampling
from precision import ADAPTIVE, CLOSE
from unguide.demo_model.loader import load_demo_model
from unguide.unguide_ops import host
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide

from dev.bench.reference import blend, merge, relative_error


def copy_of_the_model():
    return load_demo_model()[0]


@pytest.fixture(scope="module")
def assets(trained):
    with torch.inference_mode():
        return Assets(trained)


@pytest.fixture(scope="module")
def merged(lora):
    """A second model with the LoRA written into its weights."""
    with torch.inference_mode():
        return merge(copy_of_the_model(), lora)


def steered(model, lora, w=-1.0):
    return unguide(model, lora, SteeringConfig(w=w, lora_branch="cond and uncond", eta=1.0))


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_every_sampler(model, merged, lora, sample, sampler):
    actual = sample(steered(model, lora), sampler=sampler, steps=3, cfg=3.0)
    expected = sample(blend(model, (merged, -1.0)), sampler=sampler, steps=3, cfg=3.0)
    assert relative_error(actual, expected) < (ADAPTIVE if sampler == "dpm_adaptive" else CLOSE)
    assert relative_error(actual, sample(model, sampler=sampler, steps=3, cfg=3.0)) > 0.01


@pytest.mark.parametrize("scheduler", comfy.samplers.KSampler.SCHEDULERS)
def test_every_scheduler(model, merged, lora, sample, scheduler):
    actual = sample(steered(model, lora), scheduler=scheduler, steps=4, cfg=7.5)
    assert relative_error(actual, sample(blend(model, (merged, -1.0)), scheduler=scheduler, steps=4, cfg=7.5)) < CLOSE


def two_pictures(assets, prompt=CAT):
    """Four steps for two pictures of one prompt; a test changes some of it."""
    sampling = Sampling(assets, (prompt,), 4)
    sampling.negative = assets.encode("blurred")
    sampling.latent = torch.zeros(2, *sampling.latent.shape[1:])
    return sampling


def without_guidance(sampling):
    sampling.cfg = 1.0


def from_a_picture(sampling):
    """Image to image with denoise 0.5."""
    sampling.latent = two_pictures(sampling.assets, HOUSE).draw(sampling.assets.model)
    sampling.sigmas = Sampling(sampling.assets, (CAT,), 8).sigmas_of(sampling.assets.model)[-5:]


def inpainting(sampling):
    from_a_picture(sampling)
    sampling.denoise_mask = torch.zeros(1, 64, 64)
    sampling.denoise_mask[:, :, 32:] = 1.0


def combine(*prompts):
    return nodes.ConditioningCombine().combine(*prompts)[0]


def areas(sampling):
    set_area = nodes.ConditioningSetArea().append
    right = set_area(sampling.assets.encode(DOG), 32, 64, 32, 0, 0.8)[0]
    sampling.positive = combine(set_area(sampling.positive, 32, 64, 0, 0, 1.0)[0], right)


def masks(sampling):
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1.0
    top = nodes.ConditioningSetMask().append(sampling.positive, mask, "default", 1.0)[0]
    sampling.positive = combine(top, sampling.assets.encode(DOG))


def several_on_both_sides(sampling):
    sampling.positive = combine(sampling.positive, sampling.assets.encode(DOG))
    sampling.negative = combine(sampling.negative, sampling.assets.encode("a photo of the horse"))


def one_after_the_other(sampling):
    during = nodes.ConditioningSetTimestepRange().set_range
    second = during(sampling.assets.encode(DOG), 0.5, 1.0)[0]
    sampling.positive = combine(during(sampling.positive, 0.0, 0.5)[0], second)


def another_prompt_for_each_picture(sampling):
    sampling.positive = [[torch.cat([sampling.positive[0][0], sampling.assets.encode(DOG)[0][0]]), {}]]


def perp_neg(sampling):
    def guider(model):
        perp_neg = Guider_PerpNeg(model)
        perp_neg.set_conds(sampling.positive, sampling.negative, sampling.assets.encode(""))
        perp_neg.set_cfg(5.0, 1.0)
        return perp_neg

    sampling.guider = guider


def dual_cfg(sampling):
    def guider(model):
        dual = Guider_DualCFG(model)
        dual.set_conds(sampling.positive, sampling.assets.encode(DOG), sampling.negative)
        dual.set_cfg(5.0, 3.0)
        return dual

    sampling.guider = guider


CHANGES = [
    without_guidance, from_a_picture, inpainting, areas, masks, several_on_both_sides, one_after_the_other,
    another_prompt_for_each_picture, perp_neg, dual_cfg,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_a_sampler_is_given(assets, merged, lora, change):
    sampling = two_pictures(assets)
    change(sampling)
    actual = sampling.draw(steered(assets.model, lora))
    assert relative_error(actual, sampling.draw(blend(assets.model, (merged, -1.0)))) < CLOSE
    assert relative_error(actual, sampling.draw(assets.model)) > 0.01


@pytest.mark.parametrize("change", CHANGES)
def test_the_gate_whatever_a_sampler_is_given(assets, change):
    """It finds the cat in each case, and pictures without one are the base's, bit for bit."""
    reports = []
    guided = unguide(assets.model, assets.lora, SteeringConfig(), reports.append)
    sampling = two_pictures(assets)
    change(sampling)
    sampling.draw(guided)
    assert reports[0].decisions[0].w == 0.0
    sampling = two_pictures(assets, DOG)
    change(sampling)
    assert torch.equal(sampling.draw(guided), sampling.draw(assets.model))
    assert [decision.w for decision in reports[1].decisions] == [1.0, 1.0]


def test_a_control_net(assets, merged, lora):
    sampling, model = two_pictures(assets), assets.model
    plain = sampling.draw(model)
    with_control_net(sampling)
    assert relative_error(sampling.draw(model), plain) > 0.01
    assert relative_error(sampling.draw(steered(model, lora)), sampling.draw(blend(model, (merged, -1.0)))) < CLOSE
    reports = []
    sampling.draw(unguide(model, assets.lora, SteeringConfig(), reports.append))
    assert [decision.w for decision in reports[0].decisions] == [0.0, 0.0]


def rescale_cfg(model):
    return RescaleCFG().patch(model, 0.7)[0]


def perturbed_attention(model):
    return PerturbedAttentionGuidance.execute(model, 2.0).args[0]


def post_cfg(model):
    model = model.clone()
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.9 + 0.1 * args["cond_denoised"])
    return model


@pytest.mark.parametrize("patch", [rescale_cfg, perturbed_attention, post_cfg])
def test_the_host_s_guidance_patches(assets, merged, lora, patch):
    sampling, model = two_pictures(assets), assets.model
    after, before = sampling.draw(patch(steered(model, lora))), sampling.draw(steered(patch(model), lora))
    expected = sampling.draw(patch(blend(model, (merged, -1.0))))
    assert relative_error(after, expected) < CLOSE and torch.equal(after, before)
    assert relative_error(after, sampling.draw(steered(model, lora))) > 0.01


def with_a_style(assets, model):
    """Another LoRA, by the function of the host's own loader."""
    return comfy.sd.load_lora_for_models(model, None, assets.style_lora, 3.5, 0.0)[0]


def merged_half(assets, model):
    """Half way to a model with other weights."""
    return ModelMergeSimple().merge(model, assets.second_model, 0.5)[0]


@pytest.mark.parametrize("patch", [with_a_style, merged_half])
def test_other_weights_before_and_after(assets, lora, patch):
    sampling, model = two_pictures(assets), assets.model
    plain = sampling.draw(model)
    after = sampling.draw(patch(assets, steered(model, lora)))
    before = sampling.draw(steered(patch(assets, model), lora))
    other = merge(patch(assets, copy_of_the_model()), lora)
    assert relative_error(after, sampling.draw(blend(patch(assets, model), (other, -1.0)))) < CLOSE
    assert relative_error(before, after) < CLOSE
    assert relative_error(after, sampling.draw(steered(model, lora))) > 0.01
    assert torch.equal(sampling.draw(model), plain)


def test_torch_compile(assets, merged, lora):
    sampling, model = two_pictures(assets), assets.model
    expected = sampling.draw(blend(model, (merged, -1.0)))
    for order in ("after", "before"):
        compiled = steered(model, lora) if order == "after" else model.clone()
        set_torch_compile_wrapper(compiled, backend="eager")
        actual = sampling.draw(compiled if order == "after" else steered(compiled, lora))
        assert relative_error(actual, expected) < CLOSE


def test_two_concepts_in_any_order(assets, merged, lora):
    sampling, model, trained = two_pictures(assets), assets.model, assets.lora
    expected = sampling.draw(blend(model, (merged, -1.0), (assets.merged, 0.5)))
    one = sampling.draw(steered(steered(model, lora), trained, 0.5))
    assert relative_error(one, expected) < CLOSE
    assert relative_error(sampling.draw(steered(steered(model, trained, 0.5), lora)), one) < CLOSE
    counter = host.EvaluationCounter()
    sampling.draw(counter.count_on(steered(steered(model, trained, 0.5), lora)))
    assert counter.count == 4 * 2 * 2 * 3
