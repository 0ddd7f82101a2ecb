"""The ways of sampling that ours is compared with draw the same picture."""

import pytest
import torch
from precision import CLOSE
from unguide.demo_model import load_demo_model
from unguide.unguide_ops import host

from dev.bench import ways
from dev.bench.two_copies import relative_error

CAT, DOG = "a photo of the cat", "a photo of the dog"


@pytest.fixture(scope="module")
def stage(model, clip, trained):
    with torch.inference_mode():
        prompts = {ways.ERASED: CAT, ways.UNRELATED: DOG, "": ""}
        encoded = {name: host.encode(clip, prompt) for name, prompt in prompts.items()}
        return ways.Stage(model, trained, encoded, host.empty_latent(model, 64, 64), lambda: load_demo_model()[0])


@pytest.mark.parametrize("way", [ways.weight_swap, ways.host_hooks, ways.two_copies, ways.both_always])
def test_every_way_steers_to_the_same_picture(stage, way):
    assert relative_error(way(stage, ways.ERASED, 4, 2), ways.both_sides(stage, ways.ERASED, 4, 2)) < CLOSE


def test_what_each_way_costs(stage):
    costs = {way: it["evaluations"] for way, it in ways.costs(stage, 10, 1, 1).items()}
    assert costs["ours, unrelated"] == 23 / 20 and costs["ours, erased"] == 33 / 20
    assert costs["ours, erased, cond and uncond"] == 43 / 20
    assert {costs[way] for way in ("weight swap", "host weight hooks", "two copies")} == {2.0}
