"""The recipe of the other families' models: a few steps of each, from nothing and from the weights that are there."""

import copy
import re

import pytest
import torch
from torch.nn.functional import normalize

from dev.families.trained import TRAINED, load_trained
from dev.recipe import families
from dev.recipe.pool import Pool

STEPS = families.Options(steps=12, batch=8, resume=False)


@pytest.fixture(scope="module")
def pool():
    """Four captions of two lengths and their pictures, without drawing any: noise, each caption its own."""
    generator = torch.Generator().manual_seed(0)
    contexts = torch.randn(5, 77, 192, generator=generator)
    concepts = normalize(torch.randn(3, 192, generator=generator), dim=1)
    return Pool(
        latents=torch.randn(4, 24, 8, 8, generator=generator).repeat(4, 1, 1, 1),
        captions=torch.arange(1, 5).repeat(4), contexts=contexts, origin=torch.zeros(192),
        directions=torch.randn(6, 192, generator=generator), concepts=concepts,
        words=torch.randn(3, 77, 192, generator=generator), belongs=torch.arange(3),
        lengths=torch.tensor([1, 4, 4, 6, 6]), word_lengths=torch.tensor([4, 4, 6]),
    )  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
@torch.inference_mode(False)
def test_a_new_model_learns_and_its_average_follows(name, pool):
    model = families.new_model(name, STEPS)
    average = copy.deepcopy(model.diffusion_model)
    with torch.enable_grad():
        lines = list(families.trained_steps(name, model, average, pool, STEPS))
    losses = [float(re.search(r"loss ([\d.]+)", line)[1]) for line in lines]
    assert len(lines) == 12 and losses[-1] < losses[0] < 3
    for mine, its in zip(average.parameters(), model.diffusion_model.parameters(), strict=True):
        assert torch.isfinite(its).all() and torch.isfinite(mine).all()


def test_it_goes_on_from_the_weights_that_are_there_and_stores_what_can_be_loaded(pool, tmp_path):
    with torch.inference_mode(False), torch.enable_grad():
        families.train("sd2v", tmp_path, pool, families.Options(steps=2, batch=4, resume=True))
    before, after = (load_trained("sd2v", *folder)[0].model.diffusion_model for folder in ((), (tmp_path,)))
    for (name, a), b in zip(before.named_parameters(), after.parameters(), strict=True):
        assert (a - b).abs().max() < 0.1 * a.abs().max() + 0.05, name


def test_captions_of_one_length_share_a_batch(pool):
    generator = torch.Generator().manual_seed(1)
    for widened in (0.0, 2.0):
        _, contexts, lengths = pool.batch(16, 0.25, widened, generator, alike=True)
        assert len({*lengths.tolist()} - {1}) == 1 and len(contexts) == 16
    parts = list(families.by_length(torch.arange(16.0), contexts, lengths))
    assert sum(len(latents) for latents, _ in parts) == 16
    assert [part.shape[1] for _, part in parts] == lengths.unique().tolist()
