"""Pictures whose words are far from the concept cost what plain sampling costs; the model is asked about all others."""

import dataclasses

import comfy.hooks
import pytest
import torch
from precision import CLOSE
from unguide.unguide_ops import host
from unguide.unguide_ops.gate.probe import ProbeConfig, probe
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide

from dev.bench.reference import relative_error

CAT, CASTLE, SEA = "a photo of the cat", "a castle on a hill", "an oil painting of a stormy sea"
STEPS = 4


def run(model, clip, lora, prompt, conditioning=None, **settings):
    """The latents of an UnGuidance run, those of the base model, and the report."""
    reports = []
    guided = unguide(model, lora, SteeringConfig(**settings), reports.append)
    positive = conditioning or host.encode(clip, prompt)
    latent = {"samples": torch.zeros(2, 24, 8, 8)}
    drawn, base = (
        host.ksample(it, 3, STEPS, 7.5, "euler", "normal", positive, host.encode(clip, ""), latent, 1.0)["samples"]
        for it in (guided, model)
    )
    return drawn, base, reports[0]


@pytest.mark.parametrize("prompt", [CASTLE, SEA, ""])
def test_an_unrelated_picture_costs_what_plain_sampling_costs(model, clip, trained, prompt):
    drawn, base, report = run(model, clip, trained, prompt)
    assert torch.equal(drawn, base) and report.evaluations == report.plain_evaluations == 2 * 2 * STEPS
    (decision, _), limit = report.decisions, report.decisions[0].decision.threshold
    prediction, words = decision.decision.votes
    assert prediction is None and words < limit and decision.w == 1.0 and not report.lora_steps
    assert (
        f"Its words name it to {words:.0%}, and below {limit:.0%} the model need not be asked." in decision.describe()
    )


@pytest.mark.parametrize("settings", [{"words_first": False}, {"softness": 0.1}])
def test_the_model_is_asked_if_that_is_wanted(model, clip, trained, settings):
    drawn, base, report = run(model, clip, trained, CASTLE, **settings)
    assert torch.equal(drawn, base) and report.evaluations == report.plain_evaluations + 2 * 3
    assert None not in report.decisions[0].decision.votes


def test_the_concept_is_asked_about_and_erased(model, clip, trained):
    drawn, base, report = run(model, clip, trained, CAT)
    assert relative_error(drawn, base) > 0.01 and all(it.decision.erased for it in report.decisions)
    assert report.decisions[0].decision.votes[0] == pytest.approx(1, abs=0.02)


def test_one_picture_in_doubt_and_the_whole_batch_is_asked_about(model, clip, trained):
    both = [[torch.cat([host.encode(clip, prompt)[0][0] for prompt in (CAT, CASTLE)]), {}]]
    drawn, base, report = run(model, clip, trained, "", conditioning=both)
    assert [it.decision.erased for it in report.decisions] == [True, False]
    assert torch.equal(drawn[1], base[1]) and relative_error(drawn[:1], base[:1]) > 0.01


def image_prompt(model):
    """As an IP-Adapter's: it comes in through the attention to text."""
    clone = model.clone()
    clone.set_model_attn2_patch(lambda q, k, v, extra: (q, k, v))
    return clone


def a_wrapper(model):
    clone = model.clone()
    clone.set_model_unet_function_wrapper(lambda call, args: call(args["input"], args["timestep"], **args["c"]))
    return clone


@pytest.mark.parametrize("patch", [image_prompt, a_wrapper])
def test_what_may_tell_the_model_more_than_words_is_left_to_the_model(model, clip, trained, patch):
    """The prediction votes alone: words that say nothing must not veto a picture."""
    *_, report = run(patch(model), clip, trained, CASTLE)
    assert report.decisions[0].decision.votes[1] is None and report.evaluations > report.plain_evaluations
    drawn, base, report = run(patch(model), clip, trained, CAT)
    assert report.decisions[0].decision.erased and relative_error(drawn, base) > 0.01


@pytest.mark.parametrize("key", ["unclip_conditioning", "reference_latents", "clip_vision_output"])
def test_a_picture_beside_the_words_is_left_to_the_model(model, clip, trained, key):
    ((tokens, extras),) = host.encode(clip, CASTLE)
    *_, report = run(model, clip, trained, "", conditioning=[[tokens, {**extras, key: []}]])
    assert report.decisions[0].decision.votes[1] is None


def test_a_patch_that_never_sees_the_text_changes_nothing_in_that(model, clip, trained):
    freeu = model.clone()
    freeu.set_model_output_block_patch(lambda h, skip, options: (h * 1.1, skip))
    drawn, base, report = run(freeu, clip, trained, CASTLE)
    assert torch.equal(drawn, base) and report.evaluations == report.plain_evaluations


def test_another_prompt_at_another_time_is_heard(model, clip, trained):
    early, late = ([[it[0][0], {**it[0][1], **when}]] for it, when in (
        (host.encode(clip, CASTLE), {"start_percent": 0.0, "end_percent": 0.5}),
        (host.encode(clip, CAT), {"start_percent": 0.5, "end_percent": 1.0})))  # fmt: skip
    *_, report = run(model, clip, trained, "", conditioning=early + late)
    assert all(it.decision.erased for it in report.decisions)


def test_an_older_file_without_words_is_asked_about(model, clip, trained):
    lora = dataclasses.replace(
        trained, text=None, calibration=trained.calibration.model_copy(update={"text": None})
    )  # fmt: skip
    drawn, base, report = run(model, clip, lora, CASTLE)
    assert torch.equal(drawn, base) and report.evaluations == report.plain_evaluations + 2 * 3


def test_the_probe_decides_as_sampling_does(model, clip, trained):
    prompts = [CAT, CASTLE, SEA, "a photo of the dog"]
    found = probe(model, trained, lambda it: host.encode(clip, it), prompts, ProbeConfig(width=64, height=64))
    for prompt, it in zip(prompts, found.prompt_scores, strict=True):
        assert run(model, clip, trained, prompt)[2].decisions[0].decision.erased == it.decision.erased


def test_weight_hooks_do_not_hide_the_text(model, clip, trained):
    """A LoRA on a prompt changes how it is drawn, not what it says."""
    layer = next(iter(trained.pairs))
    pair = trained.pairs[layer]
    weights = {f"{layer}.lora_up.weight": 0 * pair.up, f"{layer}.lora_down.weight": pair.down}
    hooked = comfy.hooks.set_hooks_for_conditioning(
        host.encode(clip, CASTLE), comfy.hooks.create_hook_lora(weights, 1.0, 0.0)
    )
    drawn, base, report = run(model, clip, trained, "", conditioning=hooked)
    assert relative_error(drawn, base) < CLOSE and report.decisions[0].decision.votes[0] is None
