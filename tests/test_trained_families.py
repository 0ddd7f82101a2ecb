"""The trained models of other families: each is one of its family, and draws what it is asked for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from unguide.demo_model.judges import JudgePair
from unguide.unguide_ops import host
from unguide.unguide_ops.lora import target_layers

from dev.families.trained import SCALE, TRAINED, dequantised, load_trained, quantised

FAMILIES = {"sd3": "Stable Diffusion 3", "wan": "Wan", "lumina2": "Lumina 2",
            "sd2v": "Stable Diffusion UNet (1.x, 2.x, XL)"}  # fmt: skip
CLASSES, PICTURES, STEPS, CFG = ("cat", "ship"), 2, 10, 5.0


@pytest.fixture(scope="module", params=TRAINED)
def trained_family(request):
    with torch.inference_mode():
        return request.param, *load_trained(request.param)


def test_it_is_of_its_family(trained_family):
    name, model, *_ = trained_family
    network = host.diffusion_model(model)
    assert target_layers.family_of(network).name == FAMILIES[name]
    assert target_layers.select_target_layers(network, target_layers.AUTOMATIC).linears


def test_it_draws_what_it_is_asked_for(trained_family):
    _, model, clip, vae = trained_family
    latent, judges = {"samples": host.empty_latent(model, 64, 64, PICTURES)}, JudgePair()
    for name in CLASSES:
        prompts = host.encode(clip, f"a photo of the {name}"), host.encode(clip, "")
        sampled = host.ksample(model, 0, STEPS, CFG, "euler", "normal", *prompts, latent, 1.0)["samples"]
        pictures = host.decoder(model, vae)(sampled).movedim(-1, 1).clamp(0, 1)
        assert judges.share_recognised(pictures, name) >= 0.5


def test_lumina_reads_as_many_tokens_as_the_prompt_has():
    """As its family does: each token a word in its context, and nothing that repeats the whole prompt behind them."""
    with torch.inference_mode():
        _, clip, _ = load_trained("lumina2")
    short, long = (host.encode(clip, prompt)[0][0] for prompt in ("a cat", "a photo of the cat and a dog"))
    assert short.shape[1] == 3 and long.shape[1] == 9 and host.encode(clip, "")[0][0].shape[1] == 1
    cat, dog = (torch.nn.functional.normalize(long[0, token], dim=0) for token in (5, 8))
    assert cat @ dog < 0.9


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_weights_in_int8_are_near_what_they_were(seed, size):
    matrix = size * torch.randn(16, 8, generator=torch.Generator().manual_seed(seed))
    weights = {"matrix": matrix, "bias": torch.ones(3)}
    stored = quantised(weights)
    assert stored["matrix"].dtype == torch.int8 and f"bias{SCALE}" not in stored
    error = (dequantised(stored)["matrix"] - matrix).abs()
    assert (error <= matrix.abs().amax(1, keepdim=True) / 127).all()
