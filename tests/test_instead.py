"""What is drawn in the concept's place, the vote of the words, and the second look."""

import dataclasses

import comfy.samplers
import pytest
import torch
from precision import CLOSE
from unguide.unguide_ops import host
from unguide.unguide_ops.concept_text import TOKENS
from unguide.unguide_ops.gate.calibration import LevelScores
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide
from unguide.unguide_ops.lora.effect import NoEffectError

from dev.bench.reference import relative_error

CAT, DOG, KITTY, FOREST = (f"a photo of the {it}" for it in ("cat", "dog", "kitty", "forest"))


def steered(model, lora, **settings):
    """The MODEL, and the list that the reports of its runs go to."""
    reports = []
    return unguide(model, lora, SteeringConfig(**settings), reports.append), reports


@pytest.fixture
def draw(clip):
    """draw(MODEL, CONDITIONING or text, number) -> latents."""

    def run(model, positive, number=2):
        positive = host.encode(clip, positive) if isinstance(positive, str) else positive
        latent = {"samples": torch.zeros(number, 24, 8, 8)}
        return host.ksample(model, 3, 6, 7.5, "euler", "normal", positive, host.encode(clip, ""), latent, 1.0)[
            "samples"
        ]

    return run


def swapped(clip, lora, prompt):
    """A prompt whose tokens were swapped by hand."""
    ((tokens, extras),) = host.encode(clip, prompt)
    return [[lora.text.maps[TOKENS].swapped(tokens), extras]]


def test_swap_is_the_base_model_under_the_swapped_prompt(model, clip, trained, draw):
    prompt = "a cat on a blue background"
    by_hand = draw(model, swapped(clip, trained, prompt))
    assert torch.equal(draw(steered(model, trained, w=0.0, instead="swap")[0], prompt), by_hand)
    guided, reports = steered(model, trained, instead="swap")
    assert relative_error(draw(guided, prompt), by_hand) < CLOSE  # the first step predicts in other batches
    assert reports[0].path == "the base model under the prompt with the concept swapped for its reference"
    assert reports[0].evaluations - reports[0].plain_evaluations == 2 * 4


def test_replace_is_the_base_model_under_the_reference_prompt(model, trained, draw):
    guided, _ = steered(model, trained, w=0.0, instead="replace")
    reference = host.unpack_conditioning(trained.text.reference)
    assert torch.equal(draw(guided, "a cat on a blue background"), draw(model, reference))


@pytest.mark.parametrize("instead", ["blend", "swap", "replace"])
def test_what_is_drawn_is_the_reference_by_default(model, trained, draw, instead):
    ours, reference = draw(steered(model, trained, instead=instead)[0], CAT), draw(model, FOREST)
    assert (ours - reference).norm() < 0.1 * (draw(model, CAT) - reference).norm()


@pytest.mark.parametrize("settings", [{"instead": "swap"}, {"instead": "replace"}, {"second_look": True}])
def test_unrelated_pictures_stay_the_base_s_bit_for_bit(model, clip, trained, draw, settings):
    guided, _ = steered(model, trained, **settings)
    assert torch.equal(draw(guided, DOG), draw(model, DOG))
    both = [[torch.cat([host.encode(clip, prompt)[0][0] for prompt in (CAT, DOG)]), {}]]
    drawn = draw(guided, both)
    assert torch.equal(drawn[1], draw(model, both)[1]) and not torch.equal(drawn[0], draw(model, both)[0])


def test_w_weighs_the_swapped_prompt_as_it_does_the_lora(model, clip, trained, draw):
    """By hand: the base model's guided predictions are linear in its cond predictions."""
    guided, _ = steered(model, trained, w=0.5, instead="swap", eta=1.0)
    averaged = model.clone()
    other = swapped(clip, trained, CAT)[0][0]

    def half(args):
        (cond, negative), x, sigma = args["conds"], args["input"], args["sigma"]
        changed = [{**cond[0], "model_conds": {**cond[0]["model_conds"]}}]
        crossed = changed[0]["model_conds"]["c_crossattn"]
        changed[0]["model_conds"]["c_crossattn"] = crossed._copy_with(other.to(crossed.cond))
        options = {key: it for key, it in args["model_options"].items() if key != "sampler_calc_cond_batch_function"}
        predicted = [comfy.samplers.calc_cond_batch(args["model"], [it, negative], x, sigma, options)
                     for it in (cond, changed)]  # fmt: skip
        return [(predicted[0][0] + predicted[1][0]) / 2, predicted[0][1]]

    averaged.set_model_sampler_calc_cond_batch_function(half)
    assert torch.allclose(draw(guided, CAT), draw(averaged, CAT), atol=1e-3)


def test_of_several_prompts_only_the_concept_s_is_changed(model, clip, trained, draw):
    def scene(cat):
        left = [[cat[0][0], {**cat[0][1], "area": (8, 4, 0, 0), "strength": 1.0}]]
        dog = host.encode(clip, DOG)
        return left + [[dog[0][0], {**dog[0][1], "area": (8, 4, 0, 4), "strength": 1.0}]]

    guided, reports = steered(model, trained, instead="replace")
    drawn = draw(guided, scene(host.encode(clip, CAT)))
    by_hand = draw(model, scene(host.unpack_conditioning(trained.text.reference)))
    assert relative_error(drawn, by_hand) < CLOSE
    assert reports[0].decisions[0].decision.erased


def test_the_concept_does_not_come_back_by_an_area_of_the_negative_prompt(model, clip, trained):
    """The host adds an entry with that area to every prompt, with the prompt's text and the negative one's identity."""
    negative = host.encode(clip, DOG)
    negative = [*host.encode(clip, ""), [negative[0][0], {**negative[0][1], "area": (8, 4, 0, 0), "strength": 1.0}]]

    def draw(of, positive):
        latent = {"samples": torch.zeros(2, 24, 8, 8)}
        return host.ksample(of, 3, 6, 7.5, "euler", "normal", positive, negative, latent, 1.0)["samples"]

    guided, _ = steered(model, trained, w=0.0, instead="swap")
    drawn = draw(guided, host.encode(clip, CAT))
    assert relative_error(drawn, draw(model, swapped(clip, trained, CAT))) < CLOSE


def test_a_lora_that_knows_no_reference_is_refused_with_what_to_do(model, trained, draw):
    without = dataclasses.replace(trained, text=None)
    for instead in ("swap", "replace"):
        with pytest.raises(ValueError, match="Put UnGuide Calibrate after it, or leave `instead`"):
            draw(steered(model, without, instead=instead)[0], CAT)


def test_a_text_that_is_put_in_place_of_every_prompt_s_is_an_error(model, clip, trained, draw):
    other = host.encode(clip, DOG)[0][0]

    def with_other_text(executor, x, t, c_concat, c_crossattn, *args, **kwargs):
        return executor(x, t, c_concat, other.to(c_crossattn).expand_as(c_crossattn), *args, **kwargs)

    guided, _ = steered(model, trained, w=0.0, instead="swap")
    guided.add_wrapper_with_key("apply_model", "test", with_other_text)
    with pytest.raises(NoEffectError, match="puts its own text in place of every prompt"):
        draw(guided, CAT)


# --- the vote of the words


def test_both_votes_make_the_score_and_words_among_many_are_heard(model, trained, draw):
    guided, reports = steered(model, trained)
    draw(guided, "a deer in the street and a cat and a house")
    decision = reports[0].decisions[0].decision
    prediction, words = decision.votes
    assert words > 0.8 > prediction > 0 and decision.score == pytest.approx((prediction * words) ** 0.5)
    assert decision.erased


def test_without_readable_words_the_prediction_votes_alone_and_the_report_says_so(model, trained, draw):
    guided, reports = steered(model, dataclasses.replace(trained, text=None))
    draw(guided, CAT)
    decision = reports[0].decisions[0].decision
    assert decision.votes[1] is None and decision.score == decision.votes[0] and decision.erased
    assert decision.report()["words"] is None and "words" not in decision.describe()
    alone, both = (trained.calibration.threshold(1e9, 0.001, it) for it in (False, True))
    assert decision.threshold == alone != both


# --- the second look


def deaf(lora):
    """A LoRA whose gate takes nothing but the target for the concept."""
    known = {"neutral": (0.999, 1.0, 0.998), "preserved": (), "target": (1.0,), "synonyms": ()}
    levels = tuple(LevelScores(sigma=it.sigma, **known) for it in lora.calibration.levels)
    return dataclasses.replace(lora, calibration=lora.calibration.model_copy(update={"levels": levels, "text": None}))


def test_a_second_look_finds_what_the_gate_missed_and_draws_the_reference(model, trained, draw):
    missed, _ = steered(model, deaf(trained))
    assert torch.equal(draw(missed, KITTY), draw(model, KITTY))
    guided, reports = steered(model, deaf(trained), second_look=True)
    reference = host.unpack_conditioning(trained.text.reference)
    assert torch.equal(draw(guided, KITTY), draw(model, reference))
    decision = reports[0].decisions[0]
    assert (
        decision.second_look > 0.45 and "at a second look" in decision.describe() and decision.report()["second_look"]
    )


def test_a_second_look_needs_a_negative_prediction_and_says_so(model, clip, trained):
    guided, reports = steered(model, trained, second_look=True)
    latent, prompts = {"samples": torch.zeros(1, 24, 8, 8)}, (host.encode(clip, DOG), host.encode(clip, ""))
    host.ksample(guided, 3, 6, 1.0, "euler", "normal", *prompts, latent, 1.0)
    assert any("There was no second look" in it for it in reports[0].warnings)


# --- pictures without words


def test_a_given_picture_of_the_concept_stops_the_run_and_others_are_as_without(model, clip, trained, draw):
    pictures = {prompt: draw(model, prompt) for prompt in (CAT, DOG, FOREST)}
    empty = host.encode(clip, "")

    def redraw(of, latent):
        return host.ksample(of, 5, 6, 7.5, "euler", "normal", empty, empty, {"samples": latent}, 0.7)["samples"]

    for settings in ({}, {"w": 0.0}):
        guided, without = (steered(model, trained, check_picture=it, **settings)[0] for it in (True, False))
        with pytest.raises(ValueError, match="Picture 1 of those that this run starts from shows the concept"):
            redraw(guided, pictures[CAT])
        for prompt in (DOG, FOREST):
            assert torch.equal(redraw(guided, pictures[prompt]), redraw(without, pictures[prompt]))
    counter, guided = host.EvaluationCounter(), steered(model, trained, check_picture=True)[0]
    assert torch.equal(draw(counter.count_on(guided), DOG), draw(model, DOG)) and counter.count == 2 * (6 * 2 + 3)
    redraw(counter.count_on(guided), pictures[DOG])
    assert counter.count == 2 * (6 * 2 + 3) + 2 * (6 * 2 + 8)  # the empty prompt names nothing
