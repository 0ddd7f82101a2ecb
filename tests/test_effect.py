"""No unsteered picture without an error: a LoRA's effect is measured, whatever its kind, the gate, w and the branch."""

import dataclasses
from itertools import product

import pytest
import torch
from fixtures import Fixtures
from ineffective_loras import NORM, fields_of_loras
from unguide.nodes.sampling import UnGuidance
from unguide.unguide_ops import host
from unguide.unguide_ops.concept_lora import ConceptLoRA
from unguide.unguide_ops.guidance.config import LORA_BRANCHES, SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide
from unguide.unguide_ops.lora import effect
from unguide.unguide_ops.lora.adapter import LoRAAdapter
from unguide.unguide_ops.lora.effect import NoEffectError

WS = (-1.0, 0.0, 0.5, 2.0)
W_AND_BRANCHES = [*product(WS, LORA_BRANCHES)]


@pytest.fixture(scope="module")
def fixtures():
    with torch.inference_mode():
        return Fixtures()


def problem_of(fixtures, fields, **gate):
    """What is wrong with how a LoRA ends that cannot act: "" if an error says so."""
    target = host.pack_conditioning(fixtures.encode(fixtures.concept.concept.target))
    try:
        lora = dataclasses.replace(ConceptLoRA(**fields), calibration=fixtures.lora.calibration, target_prompt=target)
        fixtures.draw(UnGuidance.execute(fixtures.model, lora, w_unrelated=1.0, **gate).args[0])
    except (ValueError, RuntimeError) as error:
        return "" if len(str(error)) > 40 and "LoRA" in str(error) else f"{type(error).__name__}: {error}"
    return "a picture without an error"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("gate", "all_others"), [
    ("always erase", False), ("linked", False), ("inside sampling", False),
    pytest.param("linked", True, marks=pytest.mark.slow), pytest.param("inside sampling", True, marks=pytest.mark.slow),
])  # fmt: skip
def test_what_cannot_act_is_an_error_by_every_gate_w_and_branch(fixtures, record_figure, gate, all_others):
    """With the quickest gate each LoRA by all w and branches; with others by one of them, and all others if slow."""
    linked = {"erased": True} if gate == "linked" else {}
    problems = {}
    for number, (name, fields) in enumerate(fields_of_loras(fixtures.model).items()):
        for index, (w, branch) in enumerate(W_AND_BRANCHES):
            is_among_some = gate == "always erase" or number % len(W_AND_BRANCHES) == index
            if is_among_some != all_others:
                settings = {"gate": gate, "w_erased": w, "lora_branch": branch, **linked}
                problems[name, w, branch] = problem_of(fixtures, fields, **settings)
    silent = {case: problem for case, problem in problems.items() if problem}
    record_figure("effect", unfit_cases=len(problems), silent_unsteered=len(silent))
    assert not silent


@pytest.mark.parametrize("branch", LORA_BRANCHES)
@pytest.mark.parametrize("w", WS)
def test_layers_that_are_computed_and_thrown_away_are_an_error(model, lora, sample, w, branch):
    guided = unguide(model, lora, SteeringConfig(w=w, lora_branch=branch))
    for place in ("input", "middle", "output"):
        for number in range(12):
            guided.set_model_attn2_replace(lambda q, k, v, extra: q, place, number)
    with pytest.raises(NoEffectError, match="had no effect"):
        sample(guided)


def test_a_lora_of_which_a_part_does_not_fit_acts_with_the_rest_and_says_so(fixtures):
    norm = fixtures.model.model.diffusion_model.get_submodule(NORM.removeprefix("diffusion_model.")).weight
    fields = fields_of_loras(fixtures.model)["LoHa"]
    fields["other_tensors"][NORM] = {"w_norm": torch.ones(norm.shape)}
    reports = []
    guided = unguide(fixtures.model, ConceptLoRA(**fields), SteeringConfig(w=0.0), reports.append)
    assert not torch.equal(fixtures.draw(guided), fixtures.draw(fixtures.model))
    (warning,) = reports[0].warnings
    assert warning.startswith("Only a part of the LoRA acted: 1 of the 2 weights")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_is_measured_against_the_rounding_of_its_dtype(dtype):
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    assert not effect.is_changed(weight, (weight.float() * (1 + 1e-7 * noise)).to(dtype))
    assert effect.is_changed(weight, (weight.float() + 0.02 * noise).to(dtype))


def test_an_empty_lora_changes_nothing():
    linear = torch.nn.Linear(3, 3)
    with LoRAAdapter({}, {"weight": lambda weight: weight.clone()}).attached(linear) as adapter:
        with pytest.raises(NoEffectError, match="of the 1 weights"), adapter.on():
            pass
        assert adapter.changes and not adapter.is_on
