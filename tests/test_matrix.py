"""UnGuidance with everything that the host ships and with imitations of public packs (`dev.composition`)."""

import comfy.samplers
import einops
import nodes
import pytest
import torch
from einops import rearrange
from real_host import HOST, REPOSITORY
from unguide.demo_model import load_demo_model
from unguide.unguide_ops.host import others
from unguide.unguide_ops.steering import SteeringSettings
from unguide.unguide_ops.unguidance import unguide

from dev import hosts
from dev.bench import composition
from dev.bench.side_by_side import draw_blended
from dev.bench.two_copies import blend, merge, relative_error
from dev.composition import caches, every, host_nodes, matrix
from dev.composition.parts import Part
from dev.composition.stage import CAT, DOG, Scene, Stage
from dev.composition.verdicts import REFUSED, WRONG

PARTS = every.parts()
OF_HOST = {it.name for it in host_nodes.parts()}
BOTH = (matrix.GATE, (CAT, DOG))
PINNED, NEWEST = hosts.at(HOST).name is not None, hosts.at(HOST).name == hosts.NEWEST


@pytest.fixture(scope="module")
def stage(trained):
    with torch.inference_mode():
        return Stage(load_demo_model, trained)


def check(outcomes, part):
    wrong = [f"{it.name}: {it.words}" for it in outcomes if it.verdict == WRONG]
    assert not wrong
    if part.expected.refusal:
        assert any(it.verdict == REFUSED for it in outcomes)


@pytest.mark.parametrize("part", [it for it in PARTS if it.in_haste], ids=lambda it: it.name)
def test_a_cat_and_a_dog_in_one_batch_by_the_gate(stage, part):
    check(matrix.try_part(stage, part, [BOTH]), part)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS, ids=lambda it: it.name)
def test_every_combination(stage, part):
    check(matrix.try_part(stage, part), part)
    assert matrix.acts(stage, part) or part.expected.silent or part.expected.refusal


@pytest.mark.skipif(not PINNED, reason="a newer host has nodes that nobody has looked at; the benchmark counts them")
def test_every_node_of_the_host_is_tried_or_left_out_for_a_reason():
    assert not host_nodes.unknown()
    named = [*host_nodes.TRIED, *(name for names in host_nodes.OUT.values() for name in names)]
    assert len(named) == len(set(named)) and (not NEWEST or host_nodes.TRIED.keys() <= host_nodes.found().keys())
    assert host_nodes.EXPECTED.keys() | host_nodes.STEPS.keys() | host_nodes.HASTE <= host_nodes.TRIED.keys()


def test_the_page_has_the_table_of_the_matrix():
    page = (REPOSITORY / "docs" / "sampling.md").read_text(encoding="utf-8")
    rows = page.split(composition.BEGIN)[1].split(composition.END)[0].split("|---|---|---|\n")[1].strip().splitlines()
    listed = {name for row in rows for name in row.split(" | ")[1].split("; ")}
    assert listed == ({it.name for it in PARTS} if NEWEST else listed | {it.name for it in every.IMITATIONS})


def test_two_runs_side_by_side_draw_what_two_merged_copies_do(stage, model, trained):
    other = blend(model, (merge(load_demo_model()[0], trained), -1.0))
    runs = [(Scene(stage, (CAT,), 3).draw, it) for it in (stage.model, stage.merged)]
    assert relative_error(draw_blended(*runs, [-1.0]), Scene(stage, (CAT,), 3).draw(other)) < 1e-4
    assert torch.equal(draw_blended(*runs, [1.0]), runs[0][0](stage.model))


def test_two_runs_side_by_side_end_with_the_error_of_either(stage):
    def fail(model):
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        draw_blended((Scene(stage, (CAT,), 2).draw, stage.model), (fail, stage.merged), [-1.0])


def test_a_combination_that_goes_wrong_is_found(stage):
    """A part that draws another picture each time, and one that shows the unsteered picture, in spite of all."""
    changes = iter(range(100))

    def another(scene):
        scene.latent = scene.latent + 0.1 * next(changes)

    def without(stage, model):
        return stage.model

    for part in (Part("another each time", "", scene=another), Part("without us", "", model=without)):
        (found,) = matrix.try_part(stage, part, [(matrix.FIXED, (CAT,))])
        assert found.verdict == WRONG and found.words


# --- single promises, to the number


def test_a_pack_s_memory_is_followed_to_the_end_of_the_pack_and_no_further():
    """What other packs share with everybody (libraries, the host's own lists) is left alone."""
    kept = {"calls": 0}

    def patch(q, k, v, extra):
        kept["calls"] += 1
        assert pytest and nodes.NODE_CLASS_MAPPINGS and rearrange(q, "b n -> b n") is not None
        return q, k, v

    memory = others.Memory([patch], torch.device("cpu"))
    before = memory.taken()
    patch(torch.zeros(1, 1), None, None, {})
    holders = [id(it[1]) for it in before if len(it) > 1]
    assert id(kept) in holders and id(nodes.NODE_CLASS_MAPPINGS) not in holders
    assert not {id(vars(einops.einops)), id(vars(pytest)), id(vars(nodes))} & {*holders}
    memory.put(before)
    assert kept == {"calls": 0}


def guided(model, lora, **settings):
    courses = []
    return unguide(model, lora, SteeringSettings(**settings), courses.append), courses


def pushed(stage, scale):
    away = stage.encode(DOG)[0][0]

    def patch(q, k, v, extra):
        numbers = extra["cond_or_uncond"]
        chunks = zip(numbers, k.chunk(len(numbers)), strict=True)
        text = torch.cat([c + scale * (c - away.to(c)) if number == 0 else c for number, c in chunks])
        return q, text, text

    model = stage.model.clone()
    model.set_model_attn2_patch(patch)
    return model


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_the_target_scores_1_whatever_a_patch_makes_of_the_text(stage, scale):
    model, courses = guided(pushed(stage, scale), stage.lora)
    scene = Scene(stage, (CAT,), 2)
    scene.guider = lambda model: with_cfg(scene, model, 1.0)
    scene.draw(model)
    assert courses[0].decisions[0].verdict.score == pytest.approx(1, abs=1e-3)
    assert courses[0].decisions[0].w == -1.0


def with_cfg(scene, model, cfg):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(scene.positive, scene.negative)
    guider.set_cfg(cfg)
    return guider


def test_the_plain_model_is_known_after_blocks_of_it_were_compiled(stage):
    (part,) = (it for it in PARTS if it.name == "blocks compiled")
    for patch in (part.model, lambda stage, model: model):
        model, courses = guided(patch(stage, stage.model), stage.lora)
        Scene(stage, (CAT,), 1).draw(model)
        assert [it.w for it in courses[0].decisions] == [-1.0]


def test_a_base_that_predicts_nan_is_not_blamed_on_the_lora(stage):
    """Of an unrelated picture nothing is said: it is what it would be without us; else it is the model's fault."""

    def failing(apply, args):
        made = apply(args["input"], args["timestep"], **args["c"])
        return made * float("nan") if args["timestep"][0] < 1 else made

    model = caches.with_function_wrapper(stage.model, failing)
    drawn, plain = (Scene(stage, (DOG,), 6).draw(it) for it in (guided(model, stage.lora)[0], model))
    assert torch.equal(drawn.isnan(), plain.isnan()) and plain.isnan().any()
    with pytest.raises(ValueError, match="the model itself, without the LoRA"):
        Scene(stage, (CAT,), 6).draw(guided(model, stage.lora)[0])


def test_pictures_that_share_a_prompt_share_a_decision(stage):
    model, courses = guided(stage.model, stage.lora)
    Scene(stage, (CAT, DOG, DOG, CAT, DOG), 2).draw(model)
    scores = [it.verdict.score for it in courses[0].decisions]
    assert scores[0] == scores[3] and scores[1] == scores[2] == scores[4] and scores[0] > scores[1]
