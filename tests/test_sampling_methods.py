"""The sampling methods that UnGuidance is compared with draw the same picture."""

import pytest
import torch
from precision import CLOSE
from unguide.demo_model.loader import load_demo_model
from unguide.unguide_ops import host

from dev.bench import sampling_methods as methods
from dev.bench.reference import relative_error

PROMPTS = {methods.ERASED: "a photo of the cat", methods.UNRELATED: "a castle on a hill", "": ""}


@pytest.fixture(scope="module")
def setup(model, clip, trained):
    with torch.inference_mode():
        encoded = {name: host.encode(clip, prompt) for name, prompt in PROMPTS.items()}
        latent = host.empty_latent(model, 64, 64)
        return methods.SamplingSetup(model, trained, encoded, latent, lambda: load_demo_model()[0])


@pytest.mark.parametrize(
    "method", [methods.weight_swap, methods.host_hooks, methods.two_copies, methods.both_predictions]
)
def test_every_method_steers_to_the_same_picture(setup, method):
    expected = methods.published_formula(setup, methods.ERASED, 4, 2)
    assert relative_error(method(setup, methods.ERASED, 4, 2), expected) < CLOSE


def test_what_each_method_costs(setup):
    costs = {method: cost["evaluations"] for method, cost in methods.costs(setup, 10, 1, 1).items()}
    assert costs["ours, unrelated"] == 1.0 and costs["ours, erased"] == 24 / 20
    assert costs["ours, erased, cond and uncond"] == 43 / 20
    assert {costs[method] for method in ("weight swap", "host weight hooks", "two copies")} == {2.0}
