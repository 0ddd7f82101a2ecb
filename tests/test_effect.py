"""No unsteered picture without an error: a LoRA's effect is measured, whatever its kind, the way, w and the side."""

import pytest
import torch
from unguide.unguide_ops import effect
from unguide.unguide_ops.branch import Branch
from unguide.unguide_ops.effect import NoEffectError
from unguide.unguide_ops.lora import ConceptLoRA
from unguide.unguide_ops.steering import SIDES, SteeringSettings
from unguide.unguide_ops.unguidance import unguide

from dev.reliability import unfit
from dev.reliability.stage import stage

W_AND_SIDES = [(w, sides) for w in unfit.WS for sides in SIDES]


@pytest.fixture(scope="module")
def it():
    with torch.inference_mode():
        return stage()


def test_what_cannot_act_is_an_error_by_every_way_w_and_side(it):
    silent = []
    for number, (name, make) in enumerate(unfit.loras(it.model).items()):
        w, sides = W_AND_SIDES[number % len(W_AND_SIDES)]
        cases = [("always erase", *case) for case in W_AND_SIDES]
        cases += [("linked", w, sides), ("inside sampling", w, sides)]
        for way, w, sides in cases:
            linked = {"erased": True} if way == "linked" else {}
            problem = unfit.run(it, name, make, {"gate": way, "w_erased": w, "lora_branch": sides, **linked})
            silent += [(name, way, w, sides, problem)] if problem else []
    assert not silent


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("w", unfit.WS)
def test_layers_that_are_computed_and_thrown_away_are_an_error(model, lora, sample, w, sides):
    guided = unguide(model, lora, SteeringSettings(w=w, sides=sides))
    for place in ("input", "middle", "output"):
        for number in range(12):
            guided.set_model_attn2_replace(lambda q, k, v, extra: q, place, number)
    with pytest.raises(NoEffectError, match="had no effect"):
        sample(guided)


def test_a_lora_of_which_a_part_does_not_fit_acts_with_the_rest_and_says_so(it):
    fits = unfit.loras(it.model)["LoHa"]().others | {unfit.NORM: {"w_norm": torch.ones(64)}}
    norm = it.model.model.diffusion_model.get_submodule(unfit.NORM.removeprefix("diffusion_model.")).weight
    fits[unfit.NORM] = {"w_norm": torch.ones(norm.shape)}
    courses = []
    picture = it.draw(unguide(it.model, ConceptLoRA({}, others=fits), SteeringSettings(w=0.0), courses.append))
    assert not torch.equal(picture, it.draw(it.model))
    (told,) = courses[0].warnings
    assert told.startswith("Only a part of the LoRA acted: 1 of the 2 weights")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_is_measured_against_the_rounding_of_its_dtype(dtype):
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    noise = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    assert not effect.is_changed(weight, (weight.float() * (1 + 1e-7 * noise)).to(dtype))
    assert effect.is_changed(weight, (weight.float() + 0.02 * noise).to(dtype))


def test_an_empty_lora_changes_nothing(it):
    linear = torch.nn.Linear(3, 3)
    with Branch({}, {"weight": lambda weight: weight.clone()}).attached(linear) as branch:
        with pytest.raises(NoEffectError, match="of the 1 weights"), branch.on():
            pass
        assert branch.changes and not branch.is_on
