"""The stability probe: the published procedure to the letter, and decisions that hold."""

import comfy.model_management
import pytest
import torch
from diffusers_terms import ddim_in_diffusers_terms
from unguide.demo_model import load_demo_model
from unguide.unguide_ops import figures, gate, host
from unguide.unguide_ops.lora import ConceptLoRA
from unguide.unguide_ops.probe import ProbeSettings, control_prompts, probe

CAT, DOG = "a photo of the cat", "a photo of the dog"
SMALL = {"width": 64, "height": 64, "seeds": 2}


def test_paper_mode_is_the_published_procedure(model, clip, lora):
    """Ten of 50 DDIM steps as diffusers takes them, then the difference to a second model with the LoRA merged."""
    merged = load_demo_model()[0].model
    for name, pair in lora.pairs.items():
        linear = merged.diffusion_model.get_submodule(host.module_paths(model)[name])
        linear.weight.data += pair.alpha * pair.up @ pair.down

    def score(prompt, seed):
        noise = torch.randn(1, 24, 8, 8, generator=torch.Generator().manual_seed(seed))
        cond, uncond = host.encode(clip, prompt)[0][0], host.encode(clip, "")[0][0]
        unet = model.model.diffusion_model
        x, t = ddim_in_diffusers_terms(unet, noise, cond, uncond, cfg=7.5, steps=50, stop=10)
        return (merged.diffusion_model(x, t, context=cond) - unet(x, t, context=cond)).norm().item()

    found = probe(model, lora, clip, [CAT, DOG], ProbeSettings(mode=gate.PAPER, seed=7, **SMALL))
    for reading in [*found.readings, *found.controls]:
        assert reading.scores.tolist() == pytest.approx([score(reading.prompt, s) for s in (7, 8)], rel=1e-3)
    assert [control.prompt for control in found.controls] == [""]
    assert found.threshold == pytest.approx(found.controls[0].score)
    assert found.evaluations == 3 * 2 * (10 * 2 + 2)


@pytest.mark.parametrize("mode", [gate.GUIDANCE_COSINE, gate.CHANGE_COSINE])
def test_the_target_itself_scores_1(model, clip, lora, mode):
    found = probe(model, lora, clip, [CAT, DOG], ProbeSettings(mode=mode, **SMALL))
    assert found.readings[0].score == pytest.approx(1.0, abs=0.01)
    assert found.readings[1].score < 0.9
    assert len(found.controls) >= 12


def test_guidance_cosine_finds_synonyms_and_spares_other_classes(model, clip, lora, concept):
    prompts = [CAT, *concept.concept.synonyms, *concept.concept.other]
    found = probe(model, lora, clip, prompts, ProbeSettings(**SMALL))
    assert found.erased() == [True] * 4 + [False] * 10
    assert found.evaluations == (13 * 2 + len(found.controls) - 1 + 2) * 23  # 10 steps of 2, then 3


def test_scores_do_not_depend_on_how_many_fit_in_memory(model, clip, lora, monkeypatch):
    together = probe(model, lora, clip, [CAT, DOG], ProbeSettings(mode=gate.PAPER, **SMALL))
    monkeypatch.setattr(host, "rows_that_fit", lambda *args: 3)
    apart = probe(model, lora, clip, [CAT, DOG], ProbeSettings(mode=gate.PAPER, **SMALL))
    for a, b in zip(together.readings, apart.readings, strict=True):
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-3, atol=1e-3)


def test_a_prompt_s_score_does_not_depend_on_longer_ones_beside_it(model, clip, lora):
    long = ", ".join(["a very long prompt about a dog"] * 30)
    settings = ProbeSettings(mode=gate.PAPER, **SMALL)
    alone, beside = (probe(model, lora, clip, prompts, settings) for prompts in ([DOG], [DOG, long]))
    torch.testing.assert_close(alone.readings[0].scores, beside.readings[0].scores, rtol=1e-3, atol=1e-3)


def test_a_lora_without_its_target_prompt_can_be_probed_by_the_paper_s_mode_only(model, clip, lora):
    bare = ConceptLoRA(lora.pairs)
    with pytest.raises(ValueError, match="Set `mode` to 'paper'"):
        probe(model, bare, clip, [CAT], ProbeSettings(**SMALL))
    assert probe(model, bare, clip, [CAT], ProbeSettings(mode=gate.PAPER, **SMALL)).readings


def test_the_synonyms_of_a_concept_are_no_control_prompts(lora):
    tiger = {"target": "a photo of the tiger", "reference": "x", "preserve": ["a photo of the tiger", "a fox", "a cow"]}
    assert control_prompts(ConceptLoRA(lora.pairs, tiger)) == ["", "a fox", "a cow"]


def test_cancel_stops_at_once_and_leaves_the_model_as_it_was(model, clip, lora, sample):
    before = sample(model)
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        probe(model, lora, clip, [CAT], ProbeSettings(**SMALL))
    assert torch.equal(sample(model), before)


def test_the_chart_shows_every_prompt(model, clip, lora):
    report = probe(model, lora, clip, [CAT, DOG, ""], ProbeSettings(**SMALL)).report([-1.0, 1.0, 1.0])
    chart = figures.probe_chart(report)
    assert chart.shape[0] == 1 and chart.shape[-1] == 3 and 0 <= chart.min() < chart.max() <= 1
