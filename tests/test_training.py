"""Training on the real model: it learns, it moves only the LoRA, it can be repeated and stopped."""

import comfy.model_management
import pytest
import torch
from diffusers_terms import ddim_in_diffusers_terms
from unguide.unguide_ops import files, host, training
from unguide.unguide_ops.branch import Branch
from unguide.unguide_ops.training import TrainingSettings, train

SHORT = {"iterations": 3, "rank": 2, "learning_rate": 1e-3, "steps": 6, "width": 64, "height": 64, "retain_prompts": 2}


def erasing_loss(model, concept, pairs):
    """The paper's loss of a branch with these pairs, at four latents of the plain base's trajectory."""
    settings = TrainingSettings(**SHORT)
    latent = host.empty_latent(model, 64, 64)
    branch = Branch({host.module_paths(model)[name]: pair for name, pair in pairs.items()})

    def body(live):
        total = 0.0
        for seed in range(4):
            generator = torch.Generator().manual_seed(seed)
            target = concept.concept.target
            z, sigma = training.on_policy_latent(live, Branch({}), latent, target, settings, generator)
            with branch.attached(live.diffusion_model):
                total += training.losses_at(live, branch, z, sigma, concept, settings, generator)[0].item()
        return total

    return host.session(model, concept.prompts, latent, body)


def test_training_lowers_the_loss_and_leaves_the_model_bit_for_bit(model, concept, sample):
    picture = sample(model)
    before = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    lora, _ = train(model, concept, TrainingSettings(**{**SHORT, "iterations": 30}))
    assert len(lora.pairs) == 14
    assert erasing_loss(model, concept, lora.pairs) < 0.7 * erasing_loss(model, concept, {})
    assert all(torch.equal(weight, before[name]) for name, weight in model.model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.model.modules())
    assert torch.equal(sample(model), picture)


def test_the_same_seed_gives_the_same_file(model, concept, tmp_path):
    contents = []
    for seed in (5, 5, 6):
        lora, _ = train(model, concept, TrainingSettings(**SHORT, seed=seed))
        files.save_lora(tmp_path / "it.safetensors", lora)
        contents.append((tmp_path / "it.safetensors").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_without_retain_term_it_is_the_paper_s_objective(model, concept):
    _, losses = train(model, concept, TrainingSettings(**{**SHORT, "retain_weight": 0.0}))
    assert all(loss.retain == 0 for loss in losses)


def test_all_but_cross_attention_trains_every_other_linear(model, concept):
    lora, _ = train(model, concept, TrainingSettings(**{**SHORT, "iterations": 1}, targets="all but cross-attention"))
    assert lora.pairs and not any("attn2" in name for name in lora.pairs)


def test_cancel_stops_within_an_iteration_and_leaves_the_model_as_it_was(model, concept, sample, monkeypatch):
    picture = sample(model)
    iterations = 0
    original = training.losses_at

    def cancel_in_the_second(*args):
        nonlocal iterations
        iterations += 1
        if iterations == 2:
            comfy.model_management.interrupt_current_processing()
        return original(*args)

    monkeypatch.setattr(training, "losses_at", cancel_in_the_second)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(model, concept, TrainingSettings(**SHORT))
    assert iterations == 2
    assert not any("forward" in vars(module) for module in model.model.modules())
    assert torch.equal(sample(model), picture)


def test_a_loss_that_is_no_number_stops_with_advice(model, concept):
    with pytest.raises(FloatingPointError, match="lower `learning_rate`"):
        train(model, concept, TrainingSettings(**{**SHORT, "iterations": 40, "learning_rate": 1e9}))


def test_a_rank_beyond_the_layer_is_refused(model, concept):
    with pytest.raises(ValueError, match="`rank` is 100"):
        train(model, concept, TrainingSettings(**{**SHORT, "rank": 100}))


def test_the_latents_trained_on_are_those_of_ddim(model, clip, concept):
    """With a branch that changes nothing, they are what DDIM leaves when stopped at the same step."""
    settings = TrainingSettings(**{**SHORT, "steps": 5, "start_guidance": 7.5})
    latent = host.empty_latent(model, 64, 64)
    target = concept.concept.target

    def body(live):
        branch = Branch(training.create_pairs(live.diffusion_model, settings, torch.Generator()))
        with branch.attached(live.diffusion_model):
            z, sigma = training.on_policy_latent(
                live, branch, latent, target, settings, torch.Generator().manual_seed(2)
            )
        return z / (1 + sigma**2) ** 0.5, live.ddim_sigmas(5).index(sigma)

    z, stop = host.session(model, concept.prompts, latent, body)
    assert stop >= 2

    generator = torch.Generator().manual_seed(2)
    torch.randint(5, (), generator=generator)  # the trainer's draw of the step
    noise = torch.randn(latent.shape, generator=generator)
    cond, uncond = host.encode(clip, target)[0][0], host.encode(clip, "")[0][0]
    expected, _ = ddim_in_diffusers_terms(model.model.diffusion_model, noise, cond, uncond, 7.5, 5, stop)
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-4)
