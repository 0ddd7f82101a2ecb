"""UnGuidance with all else that hangs on a MODEL or in a prompt, each against two merged copies of the model."""

import comfy.controlnet
import comfy.sample
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
from precision import ADAPTIVE, CLOSE
from unguide.demo_model import load_demo_model
from unguide.unguide_ops import host
from unguide.unguide_ops.steering import SteeringSettings
from unguide.unguide_ops.unguidance import unguide

from dev.bench.two_copies import blend, merge, relative_error
from dev.composition.control_nets import control_net_of

CAT, DOG = "a photo of the cat", "a photo of the dog"


def copy_of_the_model():
    return load_demo_model()[0]


@pytest.fixture(scope="module")
def merged(lora):
    """A second model with the LoRA written into its weights."""
    with torch.inference_mode():
        return merge(copy_of_the_model(), lora)


def steered(model, lora, w=-1.0):
    return unguide(model, lora, SteeringSettings(w=w, sides="cond and uncond", eta=1.0))


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_every_sampler(model, merged, lora, sample, sampler):
    ours = sample(steered(model, lora), sampler=sampler, steps=3, cfg=3.0)
    theirs = sample(blend(model, (merged, -1.0)), sampler=sampler, steps=3, cfg=3.0)
    assert relative_error(ours, theirs) < (ADAPTIVE if sampler == "dpm_adaptive" else CLOSE)
    assert relative_error(ours, sample(model, sampler=sampler, steps=3, cfg=3.0)) > 0.01


@pytest.mark.parametrize("scheduler", comfy.samplers.KSampler.SCHEDULERS)
def test_every_scheduler(model, merged, lora, sample, scheduler):
    ours = sample(steered(model, lora), scheduler=scheduler, steps=4, cfg=7.5)
    assert relative_error(ours, sample(blend(model, (merged, -1.0)), scheduler=scheduler, steps=4, cfg=7.5)) < CLOSE


class Scene:
    """Everything that is given to a sampler; a test changes something of it."""

    def __init__(self, model, clip):
        self.model, self.clip = model, clip
        self.positive, self.negative = host.encode(clip, CAT), host.encode(clip, "blurred")
        self.latent = {"samples": torch.zeros(2, 24, 8, 8)}
        self.cfg, self.denoise = 7.5, 1.0
        self.guider = None  # MODEL -> a guider of the host

    def draw(self, model):
        if self.guider is None:
            return host.ksample(
                model, 3, 4, self.cfg, "euler", "normal", self.positive, self.negative, self.latent, self.denoise
            )["samples"]
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 4)
        latent = self.latent["samples"]
        sampler = comfy.samplers.sampler_object("euler")
        return self.guider(model).sample(comfy.sample.prepare_noise(latent, 3), latent, sampler, sigmas)


def without_guidance(scene):
    scene.cfg = 1.0


def from_a_picture(scene):
    picture = Scene(scene.model, scene.clip)
    picture.positive = host.encode(scene.clip, "a photo of the house")
    scene.latent = {"samples": picture.draw(scene.model)}
    scene.denoise = 0.5


def inpainting(scene):
    from_a_picture(scene)
    scene.latent["noise_mask"] = torch.zeros(1, 64, 64)
    scene.latent["noise_mask"][:, :, 32:] = 1.0


def areas(scene):
    left = nodes.ConditioningSetArea().append(scene.positive, 32, 64, 0, 0, 1.0)[0]
    right = nodes.ConditioningSetArea().append(host.encode(scene.clip, DOG), 32, 64, 32, 0, 0.8)[0]
    scene.positive = nodes.ConditioningCombine().combine(left, right)[0]


def masks(scene):
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1.0
    top = nodes.ConditioningSetMask().append(scene.positive, mask, "default", 1.0)[0]
    scene.positive = nodes.ConditioningCombine().combine(top, host.encode(scene.clip, DOG))[0]


def several_on_both_sides(scene):
    combine = nodes.ConditioningCombine().combine
    scene.positive = combine(scene.positive, host.encode(scene.clip, DOG))[0]
    scene.negative = combine(scene.negative, host.encode(scene.clip, "a photo of the horse"))[0]


def one_after_the_other(scene):
    during = nodes.ConditioningSetTimestepRange().set_range
    scene.positive = nodes.ConditioningCombine().combine(
        during(scene.positive, 0.0, 0.5)[0], during(host.encode(scene.clip, DOG), 0.5, 1.0)[0]
    )[0]


def another_prompt_for_each_picture(scene):
    scene.positive = [[torch.cat([scene.positive[0][0], host.encode(scene.clip, DOG)[0][0]]), {}]]


def perp_neg(scene):
    def guider(model):
        it = Guider_PerpNeg(model)
        it.set_conds(scene.positive, scene.negative, host.encode(scene.clip, ""))
        it.set_cfg(5.0, 1.0)
        return it

    scene.guider = guider


def dual_cfg(scene):
    def guider(model):
        it = Guider_DualCFG(model)
        it.set_conds(scene.positive, host.encode(scene.clip, DOG), scene.negative)
        it.set_cfg(5.0, 3.0)
        return it

    scene.guider = guider


SCENES = [
    without_guidance, from_a_picture, inpainting, areas, masks, several_on_both_sides, one_after_the_other,
    another_prompt_for_each_picture, perp_neg, dual_cfg,
]  # fmt: skip


@pytest.mark.parametrize("change", SCENES)
def test_every_scene(model, merged, lora, clip, change):
    scene = Scene(model, clip)
    change(scene)
    ours = scene.draw(steered(model, lora))
    assert relative_error(ours, scene.draw(blend(model, (merged, -1.0)))) < CLOSE
    assert relative_error(ours, scene.draw(model)) > 0.01


@pytest.mark.parametrize("change", SCENES)
def test_the_gate_in_every_scene(model, trained, clip, change):
    """It finds the cat in each of them, and a scene without one is the base's, bit for bit."""
    courses = []
    guided = unguide(model, trained, SteeringSettings(), courses.append)
    scene = Scene(model, clip)
    change(scene)
    scene.draw(guided)
    assert courses[0].decisions[0].w == -1.0
    scene = Scene(model, clip)
    scene.positive = host.encode(clip, DOG)
    change(scene)
    assert torch.equal(scene.draw(guided), scene.draw(model))
    assert [it.w for it in courses[1].decisions] == [1.0, 1.0]


def test_a_control_net(model, merged, trained, lora, clip):
    scene = Scene(model, clip)
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(4))
    plain = scene.draw(model)
    made = comfy.controlnet.ControlNet(control_net_of(model), load_device=model.load_device)
    scene.positive, scene.negative = nodes.ControlNetApplyAdvanced().apply_controlnet(
        scene.positive, scene.negative, made, picture, 1.0, 0.0, 1.0
    )
    assert relative_error(scene.draw(model), plain) > 0.01
    assert relative_error(scene.draw(steered(model, lora)), scene.draw(blend(model, (merged, -1.0)))) < CLOSE
    courses = []
    scene.draw(unguide(model, trained, SteeringSettings(), courses.append))
    assert [it.w for it in courses[0].decisions] == [-1.0, -1.0]


def rescale_cfg(model):
    return RescaleCFG().patch(model, 0.7)[0]


def perturbed_attention(model):
    return PerturbedAttentionGuidance.execute(model, 2.0).args[0]


def post_cfg(model):
    model = model.clone()
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * 0.9 + 0.1 * args["cond_denoised"])
    return model


@pytest.mark.parametrize("patch", [rescale_cfg, perturbed_attention, post_cfg])
def test_the_host_s_guidance_patches(model, merged, lora, clip, patch):
    scene = Scene(model, clip)
    after, before = scene.draw(patch(steered(model, lora))), scene.draw(steered(patch(model), lora))
    theirs = scene.draw(patch(blend(model, (merged, -1.0))))
    assert relative_error(after, theirs) < CLOSE and torch.equal(after, before)
    assert relative_error(after, scene.draw(steered(model, lora))) > 0.01


def with_a_style(model):
    """Another LoRA, by the host's own loader's function."""
    generator = torch.Generator().manual_seed(5)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    width, inner = 256, 64
    for path, linear in host_linears(model):
        if path.endswith("attn2.to_k"):
            width, inner = linear.in_features, linear.out_features
            break
    pair = {
        f"{name}.lora_down.weight": torch.randn(2, width, generator=generator),
        f"{name}.lora_up.weight": torch.randn(inner, 2, generator=generator),
    }
    return comfy.sd.load_lora_for_models(model, None, pair, 0.7, 0.0)[0]


def host_linears(model):
    return ((path, it) for path, it in model.model.diffusion_model.named_modules() if hasattr(it, "in_features"))


def merged_half(model):
    """Half way to a model with other weights."""
    other = copy_of_the_model()
    for weight in other.model.diffusion_model.parameters():
        weight.data = weight.data * 0.98
    return ModelMergeSimple().merge(model, other, 0.5)[0]


@pytest.mark.parametrize("patch", [with_a_style, merged_half])
def test_other_weights_before_and_after(model, lora, clip, patch):
    scene = Scene(model, clip)
    plain = scene.draw(model)
    after, before = scene.draw(patch(steered(model, lora))), scene.draw(steered(patch(model), lora))
    other = merge(patch(copy_of_the_model()), lora)
    assert relative_error(after, scene.draw(blend(patch(model), (other, -1.0)))) < CLOSE
    assert relative_error(before, after) < CLOSE
    assert relative_error(after, scene.draw(steered(model, lora))) > 0.01
    assert torch.equal(scene.draw(model), plain)


def test_torch_compile(model, merged, lora, clip):
    scene = Scene(model, clip)
    theirs = scene.draw(blend(model, (merged, -1.0)))
    for order in ("after", "before"):
        compiled = steered(model, lora) if order == "after" else model.clone()
        set_torch_compile_wrapper(compiled, backend="eager")
        assert relative_error(scene.draw(compiled if order == "after" else steered(compiled, lora)), theirs) < CLOSE


def test_two_concepts_in_any_order(model, merged, lora, trained, clip):
    other = merge(copy_of_the_model(), trained)
    scene = Scene(model, clip)
    theirs = scene.draw(blend(model, (merged, -1.0), (other, 0.5)))
    one = scene.draw(steered(steered(model, lora), trained, 0.5))
    assert relative_error(one, theirs) < CLOSE
    assert relative_error(scene.draw(steered(steered(model, trained, 0.5), lora)), one) < CLOSE
    counter = host.EvaluationCounter()
    scene.draw(counter.watch(steered(steered(model, trained, 0.5), lora)))
    assert counter.count == 4 * 2 * 2 * 3
