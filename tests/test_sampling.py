"""The gate inside sampling: per picture, at the first step, with the probe's own statistic and threshold."""

import dataclasses
import json
import re

import comfy.sample
import comfy.samplers
import pytest
import torch
from bypassing import bypass
from comfy.context_windows import (
    IndexListContextHandler,
    get_matching_context_schedule,
    get_matching_fuse_method,
)
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from precision import CLOSE
from unguide.nodes.sampling import UnGuidanceGuider, UnGuidanceKSampler, resolve_w
from unguide.unguide_ops import host
from unguide.unguide_ops.gate.calibration import LevelScores
from unguide.unguide_ops.gate.probe import ProbeConfig, probe
from unguide.unguide_ops.gate.probe_trajectory import ProbeTrajectory, measure_scores, score_by_response
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide

from dev.bench.reference import relative_error

CAT, DOG = "a photo of the cat", "a photo of the dog"


def gated(model, lora, **settings):
    """The MODEL, steered as in the paper, which asks the model, and takes both; and the list of its decisions."""
    found = []
    config = SteeringConfig(**{"w_erased": -1.0, "words_first": False, **settings})
    return unguide(model, lora, config, lambda course: found.extend(course.decisions)), found


def always(model, lora, w=-1.0, **settings):
    return unguide(model, lora, SteeringConfig(w=w, **settings))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc"])
def test_an_unrelated_picture_is_the_base_s_bit_for_bit(model, trained, sample, sampler):
    guided, found = gated(model, trained)
    assert torch.equal(sample(guided, DOG, sampler), sample(model, DOG, sampler))
    assert [it.w for it in found] == [1.0, 1.0] and all(it.decision.score < it.decision.threshold for it in found)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc"])
def test_an_erased_picture_is_steered_from_the_first_step_on(model, trained, sample, sampler):
    guided, found = gated(model, trained)
    assert relative_error(sample(guided, CAT, sampler), sample(always(model, trained), CAT, sampler)) < CLOSE
    assert [it.w for it in found] == [-1.0, -1.0] and all(
        it.decision.score == pytest.approx(1, abs=0.02) and it.decision.probability > 0.99 for it in found
    )


def test_every_picture_of_a_batch_is_decided_by_itself_and_only_the_concept_s_cost_more(model, clip, trained):
    latent = {"samples": torch.zeros(4, 4, 8, 8)}
    both = [[torch.cat([host.encode(clip, prompt)[0][0] for prompt in (CAT, DOG)]), {}]]  # the host repeats them

    def draw(of):
        return host.ksample(of, 3, 6, 7.5, "euler", "normal", both, host.encode(clip, ""), latent, 1.0)["samples"]

    guided, found = gated(model, trained)
    counter = host.EvaluationCounter()
    drawn, base, steered = draw(counter.count_on(guided)), draw(model), draw(always(model, trained))
    assert [it.decision.erased for it in found] == [True, False] * 2
    assert counter.count == 4 * (6 * 2 + 3) + 2 * 6
    assert torch.equal(drawn[1::2], base[1::2])
    assert relative_error(drawn[::2], steered[::2]) < CLOSE


@pytest.mark.parametrize(
    ("prompt", "settings", "evaluations"),
    [
        (DOG, {}, 40 + 3),
        ("a castle on a hill", {"words_first": True}, 40),
        (DOG, {"gate_steps": 3}, 40 + 9),
        (DOG, {"second_look": True}, 40 + 4),
        (CAT, {}, 60 + 3),
        (CAT, {"w_erased": 0.0}, 40 + 4),  # with the base's own prediction in the first step
        (CAT, {"w_erased": 0.0, "instead": "swap"}, 40 + 4),
        (CAT, {"w_erased": 0.0, "instead": "replace"}, 40 + 4),
    ],
)
def test_what_it_costs(model, trained, sample, prompt, settings, evaluations):
    counter = host.EvaluationCounter()
    sample(counter.count_on(gated(model, trained, **settings)[0]), prompt, steps=20)
    assert counter.count == 2 * evaluations  # pictures


def test_the_score_is_the_probe_s(model, clip, trained):
    """At the first step of the same schedule, from the same noise."""
    guided, found = gated(model, trained)
    prompts, latent = [host.encode(clip, it) for it in (DOG, "")], {"samples": torch.zeros(1, 24, 8, 8)}
    host.ksample(guided, 3, 10, 7.5, "ddim", "ddim_uniform", *prompts, latent, 1.0)
    walk = ProbeTrajectory(10, (0,), 7.5, 64, 64)
    measured = measure_scores(
        model, trained, lambda p: host.encode(clip, p), [DOG], 1, 3, walk, score_by_response
    ).scores[DOG]
    assert found[0].decision.votes[0] == pytest.approx(
        measured[0][0], abs=0.01
    )  # KSampler scales the noise a little less


def test_a_negative_prompt_does_not_open_the_gate(model, trained, sample):
    guided, found = gated(model, trained)
    assert torch.equal(sample(guided, DOG, negative=CAT), sample(model, DOG, negative=CAT))
    assert not any(it.decision.erased for it in found)


def test_the_guider_draws_what_the_ksampler_draws(model, clip, trained, sample):
    positive, negative = host.encode(clip, CAT), host.encode(clip, "")
    guider = UnGuidanceGuider.execute(
        model, trained, positive, negative, 7.5, gate="inside sampling", w_erased=-1.0, w_unrelated=1.0
    ).args[0]
    latent = torch.zeros(2, 24, 8, 8)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 6)
    drawn = guider.sample(comfy.sample.prepare_noise(latent, 3), latent, comfy.samplers.sampler_object("euler"), sigmas)
    assert relative_error(drawn, sample(gated(model, trained)[0], CAT)) < CLOSE


def test_the_target_s_prompt_stays_out_of_the_next_run(model, trained, sample):
    before = sample(model, CAT)
    sample(gated(model, trained)[0], CAT)
    assert torch.equal(sample(model, CAT), before)


def test_a_lora_without_calibration_is_refused_with_the_node_that_makes_one(model, trained):
    with pytest.raises(ValueError, match="UnGuide Calibrate"):
        gated(model, dataclasses.replace(trained, calibration=None))


def test_cond_only_leaves_the_negative_prompt_to_the_base_and_saves_a_quarter(model, trained, sample):
    counter = host.EvaluationCounter()
    ours = sample(counter.count_on(always(model, trained)), CAT, negative=DOG)
    assert counter.count == 2 * 6 * 3
    both = always(model, trained, lora_branch="cond and uncond")

    def negative_of_the_base(args):
        (unsteered,) = comfy.samplers.calc_cond_batch(args["model"], [args["uncond"]], args["input"], args["sigma"], {})
        return args["cond_denoised"] * args["cond_scale"] + unsteered * (1 - args["cond_scale"])

    both.set_model_sampler_post_cfg_function(negative_of_the_base)
    assert relative_error(ours, sample(both, CAT, negative=DOG)) < CLOSE


@pytest.mark.parametrize(
    ("window", "steps"), [((0.0, 1.0), [*range(6)]), ((0.5, 1.0), [3, 4, 5]), ((0.0, 0.4), [0, 1, 2])]
)
def test_steering_acts_in_its_part_of_the_run(model, trained, sample, window, steps):
    courses = []
    start, end = window
    settings = SteeringConfig(w=-1.0, start=start, end=end)
    sample(unguide(model, trained, settings, courses.append), CAT)
    assert courses[0].lora_steps == steps
    assert courses[0].evaluations == courses[0].plain_evaluations + 2 * len(steps) == 24 + 2 * len(steps)


def test_with_restart_the_gate_s_steps_are_steered_as_well(model, trained, sample):
    guided, found = gated(model, trained, gate_steps=3, restart=True)
    assert relative_error(sample(guided, CAT), sample(always(model, trained), CAT)) < CLOSE
    assert [it.w for it in found] == [-1.0, -1.0]
    assert torch.equal(sample(guided, DOG), sample(model, DOG))
    ancestral = sample(guided, CAT, "euler_ancestral")  # its noise begins again as well
    assert relative_error(ancestral, sample(always(model, trained), CAT, "euler_ancestral")) < CLOSE
    late = gated(model, trained, gate_steps=3)[0]
    assert not torch.allclose(sample(late, CAT), sample(guided, CAT), rtol=0.1, atol=0.1)


def test_a_soft_gate_is_hard_far_from_the_threshold(model, trained, sample):
    guided, found = gated(model, trained, softness=0.02)
    assert torch.equal(sample(guided, DOG), sample(model, DOG))
    sample(guided, CAT)
    assert [it.w for it in found] == [1.0, 1.0, -1.0, -1.0]
    guided, found = gated(model, trained, softness=1.0)
    sample(guided, DOG)
    assert all(0 < it.w < 1 for it in found)


def test_the_course_of_a_run_is_told(model, trained, sample):
    courses = []
    guided = unguide(model, trained, SteeringConfig(w_erased=-1.0), courses.append)
    sample(guided, CAT)
    sample(guided, DOG)
    erased, unrelated = (course.report() for course in courses)
    assert (erased["plain_evaluations"], erased["evaluations"], erased["lora_steps"]) == (24, 42, [*range(6)])
    assert (unrelated["plain_evaluations"], unrelated["evaluations"], unrelated["lora_steps"]) == (24, 30, [0])
    assert all(it["erased"] and it["w"] == -1 and it["score"] > it["threshold"] for it in erased["decisions"])


def test_one_more_call_in_a_step_does_not_confuse_the_gate(model, trained, sample):
    """Skip-layer guidance asks for cond and uncond apart, perturbed attention once more."""
    for patch in (lambda it: PerturbedAttentionGuidance.execute(it, 2.0).args[0], apart):
        guided, found = gated(model, trained, gate_steps=2)
        assert torch.equal(sample(patch(guided), DOG), sample(patch(model), DOG))
        sample(patch(guided), CAT)
        assert [it.w for it in found] == [1.0, 1.0, -1.0, -1.0]
        for w in (0.0, -1.0):  # a negative prompt asked for by itself is no LoRA without effect
            sample(patch(always(model, trained, w)), CAT)


def apart(model):
    def uncond_first(args):
        rest = (args["input"], args["sigma"], args["model_options"])
        cond, uncond = args["conds"]
        (second,) = comfy.samplers.calc_cond_batch(args["model"], [uncond], *rest)
        (first,) = comfy.samplers.calc_cond_batch(args["model"], [cond], *rest)
        return [first, second]

    model = model.clone()
    model.set_model_sampler_calc_cond_batch_function(uncond_first)
    return model


def test_context_windows(model, clip, trained):
    """They cut every cond anew for each window, here left and right."""
    guided, found = gated(model, trained)

    def draw(of, prompt):
        of = of.clone()
        of.model_options["context_handler"] = IndexListContextHandler(
            get_matching_context_schedule("standard_static"), get_matching_fuse_method("pyramid"), 6, 2, dim=3
        )
        latent = {"samples": torch.zeros(1, 24, 8, 8)}
        positive, negative = host.encode(clip, prompt), host.encode(clip, "")
        return host.ksample(of, 3, 6, 7.5, "euler", "normal", positive, negative, latent, 1.0)["samples"]

    assert torch.equal(draw(guided, DOG), draw(model, DOG))
    assert relative_error(draw(guided, CAT), draw(always(model, trained), CAT)) < CLOSE
    assert [it.w for it in found] == [1.0, -1.0]


def test_a_gate_from_which_the_prompt_is_hidden_is_in_doubt(model, trained, sample):
    def only_uncond(args):
        (uncond,) = comfy.samplers.calc_cond_batch(
            args["model"], [args["conds"][1]], args["input"], args["sigma"], args["model_options"]
        )
        return [uncond, uncond]

    guided = gated(model, trained)[0]
    guided.set_model_sampler_calc_cond_batch_function(only_uncond)
    with pytest.raises(ValueError, match="puts its own text in place of every prompt's"):
        sample(guided, DOG)


def spoiled(lora):
    name, pair = next(iter(lora.pairs.items()))
    return dataclasses.replace(lora, pairs={**lora.pairs, name: dataclasses.replace(pair, up=pair.up * float("nan"))})


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"gate_steps": 7}, lambda lora: lora, "`gate_steps` is 7, but this run has 6 steps"),
        ({"start": 0.5, "end": 0.5}, lambda lora: lora, "steering must end after it starts"),
        ({"lora_branch": "uncond"}, lambda lora: lora, "`lora_branch` is 'uncond'"),
        ({}, spoiled, "`lora` has NaN or infinite weights"),
    ],
)
def test_bad_input_is_refused_with_its_name(model, trained, sample, settings, change, message):
    with pytest.raises(ValueError, match=message):
        sample(gated(model, change(trained), **settings)[0])
    assert not any("forward" in vars(module) for module in model.model.modules())


@pytest.mark.parametrize("w", [float("nan"), 11.0, -11.0])
def test_a_linked_w_out_of_range_is_refused(w):
    with pytest.raises(ValueError, match="`w` is"):
        resolve_w("linked", -1.0, 1.0, None, w)


def test_a_bypassed_lora_stops_the_gate(model, trained, sample):
    """Something that replaces the layers' forwards would make every prompt look unrelated."""

    guided = gated(model, trained)[0]
    guided.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", bypass(model))
    with pytest.raises(ValueError, match="changes nothing"):
        sample(guided, CAT)


# --- when the gate cannot decide


def calibrated(lora, **changes):
    return dataclasses.replace(lora, calibration=lora.calibration.model_copy(update=changes))


def with_levels(lora, **scores):
    levels = tuple(LevelScores(**it.model_dump() | scores) for it in lora.calibration.levels)
    return calibrated(lora, levels=levels, text=None)  # so that the prediction votes alone


DOUBTS = {
    "no calibration": (lambda lora: dataclasses.replace(lora, calibration=None), "not calibrated"),
    "no target prompt": (lambda lora: dataclasses.replace(lora, target_prompt={}), "not calibrated"),
    "another base model": (lambda lora: calibrated(lora, base="another"), "calibrated on another base model"),
    "too few known prompts": (lambda lora: with_levels(lora, neutral=(), preserved=()), "too few"),
    "everyday prompts as high as the target": (
        lambda lora: with_levels(lora, neutral=(1.0, 1.1, 1.2), preserved=()), "scored as high as its target"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "why"), DOUBTS.values(), ids=DOUBTS)
def test_a_gate_that_cannot_decide_stops_or_steers_as_it_was_told(model, trained, sample, change, why):
    with pytest.raises(ValueError, match=f"{why}.*`on_doubt`"):
        sample(gated(model, change(trained))[0], DOG)
    guided, found = gated(model, change(trained), on_doubt="steer")
    assert relative_error(sample(guided, DOG), sample(always(model, trained), DOG)) < CLOSE
    assert all(it.w == -1.0 and re.search(why, it.doubt) and "in doubt" in it.describe() for it in found)
    assert json.loads(json.dumps(found[0].report()))["doubt"] == found[0].doubt


@pytest.mark.parametrize(("change", "why"), DOUBTS.values(), ids=DOUBTS)
def test_a_probe_that_cannot_decide_stops_so_that_nothing_behind_it_is_drawn(model, clip, trained, change, why):
    with pytest.raises(ValueError, match=why):
        probe(model, change(trained), lambda it: host.encode(clip, it), [DOG], ProbeConfig(width=64, height=64))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_prediction_that_is_no_number_is_a_doubt_about_its_own_picture_alone(model, trained, sample, value):
    def spoiled_in_the_gate(guided, calls=(2, 3)):
        """The first of two pictures, where the gate looks: in what it asks for besides the base's own prediction."""
        asked = torch.zeros(())  # written in place: a number would be put back after each question

        def around_forward(executor, *args, **kwargs):
            predicted = executor(*args, **kwargs)
            asked.add_(1)
            if asked.item() in calls:
                predicted[::2] = value
            return predicted

        guided.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", around_forward)
        return guided

    with pytest.raises(ValueError, match=r"predicts NaN or infinite values.*`on_doubt`"):
        sample(spoiled_in_the_gate(gated(model, trained)[0]), DOG)
    guided, found = gated(model, trained, on_doubt="steer")
    drawn, steered = sample(spoiled_in_the_gate(guided), DOG), sample(always(model, trained), DOG)
    assert [it.w for it in found] == [-1.0, 1.0] and found[0].doubt and not found[1].doubt
    assert relative_error(drawn[:1], steered[:1]) < CLOSE and torch.equal(drawn[1:], sample(model, DOG)[1:])


def test_a_lora_without_effect_stops_also_where_doubts_are_steered(model, trained, sample):
    guided = gated(model, trained, on_doubt="steer")[0]
    guided.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", bypass(model))
    with pytest.raises(ValueError, match="changes nothing"):
        sample(guided, CAT)


def test_a_run_that_the_calibration_was_not_made_for_is_told(model, trained, sample):
    courses = []
    sample(unguide(model, calibrated(trained, width=72), SteeringConfig(), courses.append), CAT, cfg=3.0)
    sample(unguide(model, trained, SteeringConfig(), courses.append), CAT)
    sample(unguide(model, calibrated(trained, base="another"), SteeringConfig(w=-1.0), courses.append), CAT, cfg=3.0)
    assert [len(course.report()["warnings"]) for course in courses] == [2, 0, 0]
    assert "at 72 x 64 pixels, not 64 x 64" in courses[0].warnings[0] and "cfg 7.5, not 3" in courses[0].warnings[1]


def test_a_link_that_does_not_count_is_told(model, clip, trained):
    latent = {"samples": torch.zeros(1, 24, 8, 8)}
    prompts = {"positive": host.encode(clip, DOG), "negative": host.encode(clip, "")}
    drawing = {"seed": 1, "steps": 2, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}

    def warnings(gate, **linked):
        weights = {"w_erased": -1.0, "w_unrelated": 1.0}
        ran = UnGuidanceKSampler.execute(
            model, trained, gate=gate, latent_image=latent, **prompts, **drawing, **weights, **linked
        )
        return json.loads(ran.args[1])["warnings"]

    for gate in ("inside sampling", "always erase", "off"):
        assert [it.split()[0] for it in warnings(gate, w=0.5, erased=True)] == ["`w`", "`erased`"]
        assert not warnings(gate)
    assert not warnings("linked", w=0.5, erased=True)
