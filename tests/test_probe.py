"""The stability probe: the published procedure to the letter, and decisions that hold."""

import dataclasses

import comfy.model_management
import pytest
import torch
from diffusers_terms import ddim_in_diffusers_terms, network_of
from unguide.demo_model.loader import load_demo_model
from unguide.nodes.probe import UnGuideStabilityProbe
from unguide.unguide_ops import host, plots
from unguide.unguide_ops.concept import Concept
from unguide.unguide_ops.concept_lora import ConceptLoRA
from unguide.unguide_ops.files import lora_file
from unguide.unguide_ops.gate import decision
from unguide.unguide_ops.gate.calibrate import calibrate
from unguide.unguide_ops.gate.probe import ProbeConfig, ProbeResult, probe
from unguide.unguide_ops.gate.probe_trajectory import ProbeTrajectory, PromptScore, measure_scores, score_by_response
from unguide.unguide_ops.lora.low_rank import LowRankPair

CAT, DOG = "a photo of the cat", "a photo of the dog"
SMALL = {"width": 64, "height": 64, "seeds": 2}


def encode_with(clip):
    return lambda prompt: host.encode(clip, prompt)


def merged_with(lora, model):
    """A second diffusion model with the LoRA in its weights, on the device of the first."""
    merged = load_demo_model()[0].model.diffusion_model
    for name, pair in lora.pairs.items():
        merged.get_submodule(host.layer_slices(model)[name].path).weight.data += pair.scale * pair.up @ pair.down
    return merged.to(model.load_device)


def test_paper_mode_is_the_published_procedure(model, clip, lora):
    """Ten of 50 DDIM steps as diffusers takes them, then the difference to a second model with the LoRA merged."""
    merged = merged_with(lora, model)

    def score(prompt, seed):
        noise = torch.randn(1, 24, 8, 8, generator=torch.Generator().manual_seed(seed))
        cond, uncond = host.encode(clip, prompt)[0][0], host.encode(clip, "")[0][0]
        unet = network_of(model)
        x, t = ddim_in_diffusers_terms(unet, noise, cond, uncond, cfg=7.5, steps=50, stop=10)
        cond = cond.to(x)
        return (merged(x, t, context=cond) - unet(x, t, context=cond)).norm().item()

    found = probe(model, lora, encode_with(clip), [CAT, DOG], ProbeConfig(mode=decision.PAPER, seed=7, **SMALL))
    for reading in found.prompt_scores:
        assert [s for (s,) in reading.scores] == pytest.approx([score(reading.prompt, s) for s in (7, 8)], rel=1e-3)
        assert reading.decision.threshold == pytest.approx(sum(score("", s) for s in (7, 8)) / 2, rel=1e-3)
    assert found.evaluations == 3 * 2 * (10 * 2 + 2)


def test_calibrated_mode_finds_every_name_and_spares_other_classes(model, clip, trained):
    concept = Concept.model_validate(trained.concept)
    prompts = [*concept.erased, *concept.other]
    found = probe(model, trained, encode_with(clip), prompts, ProbeConfig(**SMALL))
    assert [reading.decision.erased for reading in found.prompt_scores] == [True] * 4 + [False] * 10
    assert (
        found.prompt_scores[0].decision.score == pytest.approx(1.0, abs=0.01)
        and found.prompt_scores[0].decision.probability > 0.99
    )
    assert abs(found.prompt_scores[-1].decision.score) < 0.2 and found.prompt_scores[-1].decision.probability < 0.1
    assert found.evaluations == 14 * 2 * 12 + 2 * 2  # base and LoRA thrice, cond and "" on the way, the target's pairs
    assert found.prompt_scores[0].evaluations - 5 * 2 <= 2 * 10  # beyond what plain CFG evaluates at these steps
    assert not found.warnings


def test_the_response_is_the_definition_written_out(model, clip, trained):
    """At pure noise, with a second model that has the LoRA merged."""
    merged = merged_with(trained, model)
    x = torch.randn(1, 24, 8, 8, generator=torch.Generator().manual_seed(0)).to(model.load_device)
    t = x.new_tensor([999.0])

    def change(context):
        context = context.to(x)
        return (merged(x, t, context=context) - network_of(model)(x, t, context=context)).flatten()

    target = host.unpack_conditioning(trained.target_prompt)[0][0]
    ours, goal = change(host.encode(clip, DOG)[0][0]), change(target)
    walk = ProbeTrajectory(1000, (0,), 7.5, 64, 64)
    ((measured,),) = measure_scores(model, trained, encode_with(clip), [DOG], 1, 0, walk, score_by_response).scores[DOG]
    assert measured == pytest.approx((ours @ goal / (goal @ goal)).item(), rel=0.02, abs=1e-3)


def test_a_decision_is_told_in_words(model, clip, trained):
    report = probe(model, trained, encode_with(clip), [CAT, DOG, ""], ProbeConfig(**SMALL)).report([-1.0, 1.0, 1.0])
    cat, dog, neutral = (entry["why"] for entry in report["prompts"])
    reason = "The LoRA changes it 100% as much as its target, and its words name it to 100%:"
    assert cat.startswith(f"{CAT}: recognised as the concept. {reason}")
    assert dog.startswith(f"{DOG}: not the concept, left to the base") and neutral.startswith("the empty prompt: not")


def test_a_calibration_survives_the_file_and_says_where_it_does_not_fit(model, clip, trained, tmp_path):
    lora_file.save_lora(tmp_path / "it.safetensors", trained)
    loaded = lora_file.load_lora(tmp_path / "it.safetensors")
    assert loaded.calibration == trained.calibration
    found = probe(model, loaded, encode_with(clip), [DOG], ProbeConfig(width=72, height=64))
    (warning,) = found.warnings
    assert "at 64 x 64 pixels, not 72 x 64" in warning and "UnGuide Calibrate" in warning


def test_any_lora_can_be_calibrated(model, clip, lora, concept):
    calibrated, evaluations = calibrate(model, ConceptLoRA(lora.pairs), concept, 64, 64, captions=8)
    assert calibrated.concept["target"] == CAT and calibrated.target_prompt
    level = calibrated.calibration.levels[0]
    assert level.target == (pytest.approx(1.0, abs=0.01),) and len(level.synonyms) == 3 and len(level.neutral) <= 8
    assert len(calibrated.calibration.levels) == 3 and evaluations < 1080


def test_a_threshold_between_two_noise_levels_is_between_theirs(trained):
    high, low = trained.calibration.levels[:2]
    at = [trained.calibration.threshold(s, 0.01) for s in (high.sigma, (high.sigma * low.sigma) ** 0.5, low.sigma)]
    assert at[1] == pytest.approx((at[0] + at[2]) / 2)
    assert trained.calibration.threshold(1e9, 0.01) == at[0]


def test_a_lora_that_changes_nothing_or_is_no_number_is_an_error_not_an_unrelated_prompt(model, clip, trained):
    for value in (0.0, float("nan")):
        pairs = {name: LowRankPair(it.down, it.up * value, it.scale) for name, it in trained.pairs.items()}
        with pytest.raises(ValueError, match="cannot decide"):
            broken = dataclasses.replace(trained, pairs=pairs)
            probe(model, broken, encode_with(clip), [DOG], ProbeConfig(**SMALL))


def test_in_paper_mode_a_prediction_that_is_no_number_is_an_error_too(model, clip, trained):
    pairs = {name: LowRankPair(it.down, it.up * float("nan"), it.scale) for name, it in trained.pairs.items()}
    with pytest.raises(ValueError, match="cannot decide"):
        probe(model, dataclasses.replace(trained, pairs=pairs), encode_with(clip), [DOG],
              ProbeConfig(mode=decision.PAPER, **SMALL))  # fmt: skip


def test_scores_do_not_depend_on_how_many_fit_in_memory(model, clip, lora, monkeypatch):
    together = probe(model, lora, encode_with(clip), [CAT, DOG], ProbeConfig(mode=decision.PAPER, **SMALL))
    monkeypatch.setattr(host, "rows_that_fit", lambda *args: 3)
    apart = probe(model, lora, encode_with(clip), [CAT, DOG], ProbeConfig(mode=decision.PAPER, **SMALL))
    for a, b in zip(together.prompt_scores, apart.prompt_scores, strict=True):
        torch.testing.assert_close(torch.tensor(a.scores), torch.tensor(b.scores), rtol=1e-3, atol=1e-3)


def test_a_prompt_s_score_does_not_depend_on_longer_ones_beside_it(model, clip, lora):
    long = ", ".join(["a very long prompt about a dog"] * 30)
    settings = ProbeConfig(mode=decision.PAPER, **SMALL)
    alone, beside = (probe(model, lora, encode_with(clip), prompts, settings) for prompts in ([DOG], [DOG, long]))
    torch.testing.assert_close(
        torch.tensor(alone.prompt_scores[0].scores), torch.tensor(beside.prompt_scores[0].scores), rtol=1e-3, atol=1e-3
    )


def test_a_lora_without_a_calibration_is_refused_with_the_node_that_makes_one(model, clip, lora):
    with pytest.raises(ValueError, match="Put UnGuide Calibrate between"):
        probe(model, lora, encode_with(clip), [CAT], ProbeConfig(**SMALL))


def test_cancel_stops_at_once_and_leaves_the_model_as_it_was(model, clip, trained, sample):
    before = sample(model)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        probe(model, trained, encode_with(clip), [CAT], ProbeConfig(**SMALL))
    assert torch.equal(sample(model), before)


@pytest.mark.parametrize("mode", decision.MODES)
def test_the_chart_shows_every_prompt_and_the_known_ones(model, clip, trained, mode):
    found = probe(model, trained, encode_with(clip), [CAT, DOG, ""], ProbeConfig(mode=mode, **SMALL))
    chart = plots.probe_chart(found.report([-1.0, 1.0, 1.0]), trained.calibration if mode != decision.PAPER else None)
    assert chart.shape[0] == 1 and chart.shape[-1] == 3 and 0 <= chart.min() < chart.max() <= 1


def many(number):
    """A probe's reading of so many prompts, each further off than the one before."""
    readings = [
        PromptScore(f"prompt {i}", [[0.3 + i / 10]], 1, decision.GateDecision(0.3 + i / 10, 0.25))
        for i in range(number)
    ]
    return ProbeResult(decision.PAPER, readings, [1.0], number, [])


def test_of_many_prompts_the_nearest_to_the_threshold_are_shown_and_the_others_counted():
    few, most = (many(it) for it in (plots.MOST_PROMPTS, 10_000))
    charts = [plots.probe_chart(it.report([1.0] * len(it.prompt_scores)), None) for it in (few, most)]
    assert charts[0].shape == charts[1].shape
    told = most.status_lines(100)
    assert len(told) == 101 and told[0].startswith("prompt 0:") and told[-1].startswith("and 9900 more")
    assert few.status_lines(100) == [few.describe(it.prompt, it.decision) for it in few.prompt_scores]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("", "`prompts` is empty: write the prompts to decide"),
        ("cat\n" * 10_001, "`prompts` has 10001 lines: use at most 10000"),
        ("cat\n" + "x" * 10_001, r"`prompts`: line 2 \('x+...'\) has 10001 characters: use at most 10000"),
        ("x" * 1_000_001, "`prompts` has 1000001 characters: use at most 1000000"),
        ("(" * 5000, r"`prompts`: line 1 .* opens more than 100 brackets"),
        ("a \ud83d cat", "`prompts` holds half a character"),
    ],
)
def test_what_cannot_be_probed_is_refused_in_words(model, clip, lora, prompts, message):
    its = {"seed": 0, "cfg": 7.5, "width": 64, "height": 64, "false_positive_rate": 0.001, "seeds": 1, "steps": 50}
    with pytest.raises(ValueError, match=message):
        UnGuideStabilityProbe.execute(model, lora, clip, prompts, mode=decision.PAPER, probe_steps=10, **its)
