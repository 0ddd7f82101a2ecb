"""The gate inside sampling: per picture, at the first step, with the probe's own statistic and threshold."""

import dataclasses

import comfy.sample
import comfy.samplers
import pytest
import torch
from unguide.nodes.sampling import UnGuidanceGuider
from unguide.unguide_ops import host
from unguide.unguide_ops.probe import Walk, measure, response
from unguide.unguide_ops.sampling import GateSettings, unguide_where_erased
from unguide.unguide_ops.unguidance import unguide

CAT, DOG = "a photo of the cat", "a photo of the dog"


def gated(model, lora, **settings):
    """The MODEL, and the list that its decisions go to."""
    found = []
    return unguide_where_erased(model, lora, GateSettings(**settings), found.extend), found


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc"])
def test_an_unrelated_picture_is_the_base_s_bit_for_bit(model, trained, sample, sampler):
    guided, found = gated(model, trained)
    assert torch.equal(sample(guided, DOG, sampler), sample(model, DOG, sampler))
    assert [it.w for it in found] == [1.0, 1.0] and all(it.verdict.score < it.verdict.threshold for it in found)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc"])
def test_an_erased_picture_is_steered_from_the_first_step_on(model, trained, sample, sampler):
    guided, found = gated(model, trained)
    torch.testing.assert_close(
        sample(guided, CAT, sampler), sample(unguide(model, trained, -1.0), CAT, sampler), rtol=1e-4, atol=1e-4
    )
    assert [it.w for it in found] == [-1.0, -1.0] and all(
        it.verdict.score == pytest.approx(1, abs=0.02) and it.verdict.probability > 0.99 for it in found
    )


def test_every_picture_of_a_batch_is_decided_by_itself(model, clip, trained):
    latent = {"samples": torch.zeros(2, 4, 8, 8)}
    both = [[torch.cat([host.encode(clip, prompt)[0][0] for prompt in (CAT, DOG)]), {}]]

    def draw(of):
        return host.ksample(of, 3, 6, 7.5, "euler", "normal", both, host.encode(clip, ""), latent, 1.0)["samples"]

    guided, found = gated(model, trained)
    drawn, base, steered = draw(guided), draw(model), draw(unguide(model, trained, -1.0))
    assert [it.verdict.erased for it in found] == [True, False]
    assert torch.equal(drawn[1], base[1])
    torch.testing.assert_close(drawn[0], steered[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("prompt", "steps", "evaluations"), [(DOG, 1, 40 + 3), (DOG, 3, 40 + 9), (CAT, 1, 80 + 3)])
def test_what_it_costs(model, trained, sample, prompt, steps, evaluations):
    counter = host.EvaluationCounter()
    sample(counter.watch(gated(model, trained, steps=steps)[0]), prompt, steps=20)
    assert counter.count == 2 * evaluations  # pictures


def test_the_score_is_the_probe_s(model, clip, trained, sample):
    """At the first step of the same schedule, from the same noise."""
    guided, found = gated(model, trained)
    sample(guided, DOG, "ddim", seed=3, steps=10, scheduler="ddim_uniform")
    walk = Walk(10, (0,), 7.5, 64, 64)
    measured = measure(model, trained, lambda p: host.encode(clip, p), [DOG], 1, 3, walk, response).scores[DOG]
    assert found[0].verdict.score == pytest.approx(measured[0][0], abs=0.01)  # KSampler scales the noise a little less


def test_a_negative_prompt_does_not_open_the_gate(model, trained, sample):
    guided, found = gated(model, trained)
    assert torch.equal(sample(guided, DOG, negative=CAT), sample(model, DOG, negative=CAT))
    assert not any(it.verdict.erased for it in found)


def test_the_guider_draws_what_the_ksampler_draws(model, clip, trained, sample):
    positive, negative = host.encode(clip, CAT), host.encode(clip, "")
    guider = UnGuidanceGuider.execute(
        model, trained, positive, negative, 7.5, gate="inside sampling", w_erased=-1.0, w_unrelated=1.0
    ).args[0]
    latent = torch.zeros(2, 24, 8, 8)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 6)
    drawn = guider.sample(comfy.sample.prepare_noise(latent, 3), latent, comfy.samplers.sampler_object("euler"), sigmas)
    torch.testing.assert_close(drawn, sample(gated(model, trained)[0], CAT), rtol=1e-4, atol=1e-4)


def test_the_target_s_prompt_stays_out_of_the_next_run(model, trained, sample):
    before = sample(model, CAT)
    sample(gated(model, trained)[0], CAT)
    assert torch.equal(sample(model, CAT), before)


def test_a_lora_without_calibration_is_refused_with_the_node_that_makes_one(model, trained):
    with pytest.raises(ValueError, match="UnGuide Calibrate"):
        gated(model, dataclasses.replace(trained, calibration=None))
