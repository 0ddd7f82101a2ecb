"""The paper's equations and the measures, as pure maths."""

import math

import pytest
import scipy.linalg
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy.stats import t as student
from unguide.unguide_ops import ddim
from unguide.unguide_ops.gate import scores, threshold
from unguide.unguide_ops.guidance.blend import blend
from unguide.unguide_ops.lora.initialisation import closed_form_up, concept_directions, output_scale
from unguide.unguide_ops.lora.low_rank import LowRankPair
from unguide.unguide_ops.metrics import h0
from unguide.unguide_ops.training import loss, metrics

tensors = npst.arrays("float64", (2, 3), elements=st.floats(-100, 100)).map(torch.from_numpy)
numbers = st.floats(-10, 10)


@given(tensors, tensors, numbers)
def test_blend_at_its_landmarks(base, lora, w):
    assert torch.equal(blend(base, lora, 1.0), base) and torch.equal(blend(base, lora, 0.0), lora)
    torch.testing.assert_close(blend(base, lora, -1.0), 2 * lora - base)
    torch.testing.assert_close(blend(base, lora, 2.0), 2 * base - lora)
    torch.testing.assert_close(blend(base, base, w), base)


@given(tensors, tensors, numbers)
def test_eta_takes_what_lies_along_the_prediction_from_the_part_beyond_both(base, lora, w):
    assume(min(base.norm(dim=1).min(), lora.norm(dim=1).min()) > 1e-2)
    torch.testing.assert_close(blend(base, lora, w, 1 - 1e-12), blend(base, lora, w), rtol=1e-6, atol=1e-6)
    nearest = blend(base, lora, min(max(w, 0.0), 1.0))
    across = blend(base, lora, w, 0.0) - nearest
    assert (across * nearest).sum(1).abs().max() <= 1e-9 * (1 + across.norm() * nearest.norm())
    along = blend(base, lora, w) - nearest - across
    torch.testing.assert_close(blend(base, lora, w, 0.5), nearest + across + along / 2, rtol=1e-6, atol=1e-6)


@given(tensors, tensors, tensors, tensors, numbers, numbers)
def test_blending_before_guidance_is_blending_after_it(base, base_uncond, lora, lora_uncond, w, scale):
    cfg = ddim.classifier_free_guidance
    before = cfg(blend(base_uncond, lora_uncond, w), blend(base, lora, w), scale)
    after = blend(cfg(base_uncond, base, scale), cfg(lora_uncond, lora, scale), w)
    torch.testing.assert_close(before, after, rtol=1e-9, atol=1e-6)


@given(tensors, tensors, numbers)
def test_the_erasing_target_moves_from_the_reference_away_from_the_target(target, reference, g):
    torch.testing.assert_close(loss.erasing_target(reference, reference, g), reference)
    moved = loss.erasing_target(target, reference, g) - reference
    torch.testing.assert_close(moved, g * (reference - target))


@given(tensors, tensors, st.floats(0.1, 10))
def test_a_ddim_step_to_zero_is_the_denoised_picture_and_keeps_the_noise_otherwise(x, denoised, sigma):
    assert torch.equal(ddim.ddim_step(x, denoised, sigma, 0.0), denoised)
    half = ddim.ddim_step(x, denoised, sigma, sigma / 2)
    torch.testing.assert_close((half - denoised) / (sigma / 2), (x - denoised) / sigma)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_h0_is_a_mean_of_its_three_terms(acc_e, acc_s, acc_g):
    terms = (1 - acc_e, acc_s, 1 - acc_g)
    assert min(terms) - 1e-9 <= h0(acc_e, acc_s, acc_g) <= max(terms) + 1e-9


def test_h0_of_the_published_average():
    assert h0(0.0654, 0.9865, 0.0767) == pytest.approx(0.9477, abs=2e-3)  # UnGuide, mean over ten classes
    assert h0(1.0, 1.0, 0.0) == 0.0


@given(st.integers(1, 3), st.integers(0, 1000))
def test_directions_answer_the_concept_and_not_what_is_preserved(rank, seed):
    generator = torch.Generator().manual_seed(seed)
    preserved = torch.randn(5, 16, generator=generator)
    concept = torch.randn(3, 16, generator=generator) + preserved.mean(0)
    rows = concept_directions(concept, preserved, rank, ridge=1e-6)
    assert rows.shape == (rank, 16) and rows[0].square().mean().item() == pytest.approx(1, rel=1e-4)
    assert (preserved @ rows[0]).abs().max() < 0.05 * (concept @ rows[0]).square().mean().sqrt()
    outputs = concept @ torch.randn(16, 4, generator=generator)
    heard = output_scale(outputs, concept, rows) * (concept @ rows[0])
    assert heard.square().mean().item() == pytest.approx(outputs.square().mean().item(), rel=1e-3)


@given(st.integers(0, 5), st.integers(1, 6), st.integers(1, 3))
def test_the_directions_are_those_of_the_generalised_eigenproblem(seed, inputs, rank):
    """Whether the concept has fewer inputs than a layer is wide, or more; those that it does not span are zero."""
    generator = torch.Generator().manual_seed(seed)
    concept, preserved = (torch.randn(number, 4, generator=generator) for number in (inputs, 7))
    rows = concept_directions(concept, preserved, rank, ridge=0.1)
    found = min(rank, inputs, 4)
    assert not rows[found:].any() and rows[:found].any(1).all()
    kept = (preserved.T @ preserved / 7).double()
    kept += 0.1 * kept.trace() / 4 * torch.eye(4)
    wanted = scipy.linalg.eigh((concept.T @ concept / inputs).double().numpy(), kept.numpy())[1].T[::-1][:found]
    alike = torch.nn.functional.cosine_similarity(rows[:found].double(), torch.from_numpy(wanted.copy()))
    torch.testing.assert_close(alike.abs(), torch.ones(found).double(), rtol=1e-4, atol=1e-4)
    gram = rows[:found].double() @ kept @ rows[:found].double().T
    assert (gram / gram[0, 0] - torch.eye(found)).abs().max() < 1e-3  # equally large responses to what is preserved


@given(st.integers(0, 20))
def test_the_closed_form_makes_the_wanted_change_and_leaves_others_alone(seed):
    """Exactly, if what is preserved lies elsewhere; and as the normal equations say, if it does not."""
    generator = torch.Generator().manual_seed(seed)
    concept, preserved = torch.randn(9, 3, generator=generator), torch.randn(5, 3, generator=generator)
    up = torch.randn(4, 3, generator=generator)
    found = closed_form_up(concept, torch.zeros(5, 3), concept @ up.T)
    torch.testing.assert_close(found, up, rtol=1e-4, atol=1e-4)
    wanted = torch.randn(9, 4, generator=generator)
    up = closed_form_up(concept, preserved, wanted)
    slope = (concept @ up.T - wanted).T @ concept / 9 + (preserved @ up.T).T @ preserved / 5
    assert slope.abs().max() < 1e-5
    silent = torch.cat([concept, torch.zeros(9, 1)], 1), torch.cat([preserved, torch.zeros(5, 1)], 1)
    torch.testing.assert_close(closed_form_up(*silent, wanted), torch.cat([up, torch.zeros(4, 1)], 1))


@given(tensors, tensors, st.floats(0.1, 5))
def test_erasure_at_its_landmarks(base, reference, g):
    assume((reference - base).flatten(1).norm(dim=1).min() > 1e-3)
    goal = loss.erasing_target(base, reference, g)
    for predicted, share in ((base, 0.0), (reference, 1.0), (goal, 1.0 + g)):
        assert metrics.erasure(predicted, base, reference).tolist() == pytest.approx([share, share], abs=1e-6)


def test_scores_at_their_landmarks():
    base, change = torch.randn(4, 2, 3), torch.randn(4, 2, 3)
    for share in (1.0, 0.0, 0.4, -1.0):
        assert torch.allclose(
            scores.response(base, base + share * change, base, base + change), torch.full((4,), share)
        )
    across = torch.randn(4, 6) @ (torch.eye(6) - torch.nn.functional.normalize(change[:1].flatten(1)).T.mm(
        torch.nn.functional.normalize(change[:1].flatten(1))))  # fmt: skip
    moved = base[:1] + 9 * across[:1].view(1, 2, 3)
    assert scores.response(base[:1], moved, base[:1], base[:1] + change[:1]).abs() < 1e-4
    assert torch.allclose(scores.change_norm(base, base + change), change.flatten(1).norm(dim=1), atol=1e-5)


def test_the_threshold_holds_its_false_positive_rate():
    unrelated = student.rvs(threshold.DEGREES_OF_FREEDOM, 0.05, 0.1, size=200_000, random_state=0).tolist()
    for rate in (0.2, 0.05, 0.01):
        limit = threshold.score_threshold(unrelated, rate)
        assert sum(score > limit for score in unrelated) / 200_000 == pytest.approx(rate, rel=0.2)


def test_the_fewer_scores_are_known_the_higher_the_threshold_and_too_few_are_refused():
    few = [-0.2, 0.0, 0.2]
    assert threshold.score_threshold(few, 0.01) > threshold.score_threshold(few * 5, 0.01)
    with pytest.raises(ValueError, match="scores of 2 unrelated prompts"):
        threshold.score_threshold(few[:2], 0.01)


def test_the_probability_grows_with_the_score_from_0_to_almost_1():
    unrelated = [0.0, 0.03, -0.03, 0.05, -0.05]
    chances = [threshold.concept_probability(score / 20, unrelated) for score in range(-4, 25)]
    assert chances == sorted(chances) and chances[0] == 0.0 and chances[4] == 0.0 and chances[-1] > 0.99
    assert threshold.concept_probability(threshold.score_threshold(unrelated, 0.001), unrelated) > 0.5


@given(st.integers(1, 4), st.integers(4, 9), st.integers(4, 9), st.floats(0.1, 9))
def test_a_pair_adds_alpha_up_down_x(rank, inputs, outputs, alpha):
    generator = torch.Generator().manual_seed(rank)
    pair = LowRankPair.create(inputs, outputs, rank, alpha, generator)
    x = torch.randn(5, inputs)
    assert not pair.change(x).any() and math.isclose(pair.scale, alpha)
    pair.up = torch.randn(outputs, rank, generator=generator)
    torch.testing.assert_close(pair.change(x), alpha * x @ (pair.up @ pair.down).T, rtol=1e-3, atol=1e-4)
