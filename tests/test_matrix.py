"""UnGuidance together with ComfyUI's own nodes and imitations of other packs: parts x (gate or fixed w) x prompts.

The fast tests try a cat and a dog in one batch by the gate, with some of the parts; `-m slow` tries everything, and
`python dev bench composition` counts what came of it.
"""

import functools
import traceback

import comfy.model_management
import comfy.model_patcher
import einops
import nodes
import pytest
import torch
from comfy.patcher_extension import merge_nested_dicts
from einops import rearrange
from imitations import IMITATIONS, all_parts, attention, caches, host_nodes, networks
from imitations.parts import FIXED, GATE, Part, W
from imitations.sampling import CAT, DOG, Assets, Sampling
from real_host import HOST, REPOSITORY
from side_by_side import draw_blended
from unguide.demo_model.loader import load_demo_model
from unguide.unguide_ops import host
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide
from unguide.unguide_ops.host import pack_state
from unguide.unguide_ops.host.other_packs import other_pack_objects, replaced_forwards

from dev import hosts
from dev.bench import composition
from dev.bench.composition import DOES_NOT_APPLY, REFUSED, RIGHT, WRONG
from dev.bench.reference import blend, merge, relative_error

PARTS = all_parts()
BATCHES = ((CAT,), (DOG,), (CAT, DOG))
CASES = [*((GATE, batch) for batch in BATCHES), *((FIXED, batch) for batch in BATCHES if CAT in batch)]
FAST_CASE = (GATE, (CAT, DOG))
STEERED = 0.01  # relative error by which an erased picture differs from the base's, at least
COST_STEPS = 20
EVALUATIONS = {False: (43, 63), True: (46, 86)}
"""Whether model calls are made whole -> evaluations for an unrelated and an erased picture; plain sampling takes 40."""
PINNED, NEWEST = hosts.at(HOST).name is not None, hosts.at(HOST).name == hosts.NEWEST


def combinations():
    """(part, mode, prompts), the parameters of a test; all that the fast tests leave out is marked."""
    for part in PARTS:
        for mode, prompts in CASES:
            if len(prompts) == 1 or not part.expected.one_picture:
                marks = [] if part.fast and (mode, prompts) == FAST_CASE else [pytest.mark.slow]
                name = f"{part.name}-{mode}-{' and '.join(prompt.split()[-1] for prompt in prompts)}"
                yield pytest.param(part, mode, prompts, marks=marks, id=name)


@pytest.fixture(scope="module")
def assets(trained):
    with torch.inference_mode():
        return Assets(trained)


@pytest.mark.parametrize(("part", "mode", "prompts"), [*combinations()])
def test_combination(assets, part, mode, prompts, record_figure):
    result = {"verdict": WRONG, "words": "", "another_picture": "", "ws": [], "error": None}
    try:
        result |= check_combination(assets, part, mode, prompts)
    except BaseException as error:  # a failed assertion, too
        result["words"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        untried = part.group == host_nodes.UNTRIED
        record_figure("combination", part=part.name, way=mode, prompts=prompts, untried=untried, **result)
    if result["verdict"] == DOES_NOT_APPLY:
        pytest.skip(result["words"])


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_effect_and_cost(assets, part, record_figure):
    figures = {"number": PARTS.index(part), "part": part.name, "group": part.group, "refusal": part.expected.refusal}
    comfy.model_management.load_models_gpu([assets.model])  # takes out what an earlier part has injected
    try:
        figures["costs_more"] = costs_more(assets, part)
        if part.only_patches and part.fast and not part.expected.refusal:
            figures["costs"] = costs = evaluations(assets, part)
            if costs["plain"] == 2 * COST_STEPS:
                assert (costs["unrelated"], costs["erased"]) == EVALUATIONS[figures["costs_more"]]
    finally:
        record_figure("part", **figures)
    if not (part.expected.no_effect or part.expected.refusal):
        plain = Sampling(assets, (CAT,), part.steps).draw(assets.model)
        assert not torch.equal(plain_picture(assets, part, (CAT,)), plain)


def check_combination(assets, part, mode, prompts):
    """Draws a combination and asserts that the result is the expected one; returns what the benchmark records of it."""
    expected = part.expected
    try:
        plain = plain_picture(assets, part, prompts)
    except Exception as error:
        if part.group == host_nodes.UNTRIED:
            return {"verdict": DOES_NOT_APPLY, "words": f"{type(error).__name__}: {error}"}
        raise
    reports = []
    config = SteeringConfig(
        w=None if mode == GATE else W, w_erased=W, words_first=False, lora_branch="cond and uncond", eta=1.0
    )

    def guided(model):
        return unguide(model, assets.lora, config, reports.append)

    if expected.refused(mode, prompts):
        with pytest.raises((RuntimeError, ValueError), match=expected.refusal) as caught:
            draw(assets, part, prompts, guided)
        *_, (frame, _) = traceback.walk_tb(caught.tb)
        assert frame.f_globals["__name__"].startswith("unguide."), "raised by something else than UnGuide"
        return {"verdict": REFUSED, "words": f"{caught.typename}: {caught.value}"}

    picture = draw(assets, part, prompts, guided)
    ws = [decision.w for decision in reports[-1].decisions] if reports else []
    right_ws = [W if mode == FIXED or (prompt == CAT and expected.erased) else 1.0 for prompt in prompts]
    if expected.another_picture and ws == [W] * len(prompts):
        right_ws = ws  # a picture that looks at the concept's may be taken for it
    assert ws in ([], right_ws)
    unrelated = [i for i, w in enumerate(right_ws) if w == 1]
    erased = [i for i, w in enumerate(right_ws) if w != 1]
    changed = [i for i in unrelated if not torch.equal(picture[i], plain[i])]
    assert not changed or (erased and expected.another_picture), "an unrelated picture is not the base's"
    error = None
    if erased:
        error = relative_error(picture, picture_of_two_copies(assets, part, prompts, tuple(right_ws)))
        assert error < expected.tolerance, "not the picture of two merged copies"
        for i in erased if ws else ():
            assert relative_error(picture[i], plain[i]) > STEERED, "the unsteered picture"
    return {"verdict": RIGHT, "another_picture": expected.another_picture if changed else "", "ws": ws, "error": error}


def draw(assets, part, prompts, guided, steps=None):
    """Latents; `guided(MODEL)` is applied after the part for one picture, before it for more."""
    sampling = sampling_with(assets, part, prompts, steps)
    if len(prompts) > 1:
        return sampling.draw(part.patch(assets, guided(assets.model)))
    return sampling.draw(guided(part.patch(assets, assets.model)))


def sampling_with(assets, part, prompts, steps=None):
    sampling = Sampling(assets, prompts, steps or part.steps)
    part.change(sampling)
    return sampling


@functools.lru_cache(maxsize=4)  # the combinations of a part are tested in a row
def plain_picture(assets, part, prompts):
    """Latents by the part without UnGuidance."""
    return draw(assets, part, prompts, lambda model: model)


@functools.lru_cache(maxsize=4)
def picture_of_two_copies(assets, part, prompts, ws):
    """Latents by two models with a part each, the LoRA merged into the second one."""
    runs = [sampling_with(assets, part, prompts).draw for _ in range(2)]
    base, merged = part.patch(assets, assets.model), part.patch(assets, assets.merged)
    return draw_blended((runs[0], base), (runs[1], merged_after(assets, part) if merged.patches else merged), ws)


@functools.lru_cache(maxsize=1)
def merged_after(assets, part):
    """A model whose weights the part has patched, and the LoRA merged into those."""
    return merge(part.patch(assets, load_demo_model()[0]), assets.lora)


def costs_more(assets, part):
    """Whether the part takes part in predictions, so that UnGuidance makes each model call whole."""
    model, sampling = part.patch(assets, assets.model), sampling_with(assets, part, (CAT,))
    options = comfy.model_patcher.create_model_options_clone(model.model_options)
    wrappers = options.setdefault("transformer_options", {}).setdefault("wrappers", {})
    merge_nested_dicts(wrappers, model.wrappers, copy_dict1=False)  # as ComfyUI does for a run
    with sampling.around(model):
        forwards = replaced_forwards(model.model.diffusion_model)
        return bool(other_pack_objects(model, options, [[more for _, more in sampling.positive]], forwards))


def evaluations(assets, part):
    """Evaluations for one picture at 20 steps: without UnGuidance, and an unrelated and an erased one by the gate."""

    def count(prompt, guided):
        counter = host.EvaluationCounter()
        draw(assets, part, (prompt,), lambda model: counter.count_on(guided(model)), COST_STEPS)
        return counter.count

    def by_gate(model):
        return unguide(model, assets.lora, SteeringConfig(w_erased=W, words_first=False))

    return {"plain": count(DOG, lambda model: model), "unrelated": count(DOG, by_gate), "erased": count(CAT, by_gate)}


@pytest.mark.skipif(not PINNED, reason="a newer host has nodes that nobody has looked at; the benchmark counts them")
def test_every_node_of_the_host_is_tried_or_left_out_for_a_reason():
    listed, present = host_nodes.listed(), host_nodes.nodes_that_count().keys()
    assert present <= {*listed} and len(listed) == len({*listed})
    assert not NEWEST or host_nodes.TRIED.keys() <= present
    assert host_nodes.EXPECTED.keys() | host_nodes.STEPS.keys() | host_nodes.FAST <= host_nodes.TRIED.keys()


def test_the_page_has_the_table_of_the_matrix():
    page = (REPOSITORY / "docs" / "sampling.md").read_text(encoding="utf-8")
    rows = page.split(composition.BEGIN)[1].split(composition.END)[0].split("|---|---|---|\n")[1].strip().splitlines()
    listed = {name for row in rows for name in row.split(" | ")[1].split("; ")}
    assert listed == ({part.name for part in PARTS} if NEWEST else listed | {part.name for part in IMITATIONS})


def test_two_runs_side_by_side_draw_what_two_merged_copies_do(assets, model, trained):
    copies = blend(model, (merge(load_demo_model()[0], trained), -1.0))
    runs = [(Sampling(assets, (CAT,), 3).draw, of) for of in (assets.model, assets.merged)]
    assert relative_error(draw_blended(*runs, [-1.0]), Sampling(assets, (CAT,), 3).draw(copies)) < 1e-4
    assert torch.equal(draw_blended(*runs, [1.0]), runs[0][0](assets.model))


def test_two_runs_side_by_side_end_with_the_error_of_either(assets):
    def fail(model):
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        draw_blended((Sampling(assets, (CAT,), 2).draw, assets.model), (fail, assets.merged), [-1.0])


def test_a_combination_that_goes_wrong_is_found(assets):
    """A part that draws another picture each time, and one that always draws by the model without UnGuidance."""
    changes = iter(range(100))

    def another(sampling):
        sampling.latent = sampling.latent + 0.1 * next(changes)

    def bypass(assets, model):
        return assets.model

    for part in (Part("another each time", "", change=another), Part("without UnGuidance", "", bypass)):
        with pytest.raises(AssertionError, match="not the picture of two merged copies"):
            check_combination(assets, part, FIXED, (CAT,))


# --- single promises, to the number


def test_a_pack_s_memory_is_followed_to_the_end_of_the_pack_and_no_further():
    """What other packs share with everybody (libraries, the host's own lists) is left alone."""
    counter = {"calls": 0}

    def patch(q, k, v, extra):
        counter["calls"] += 1
        assert pytest and nodes.NODE_CLASS_MAPPINGS and rearrange(q, "b n -> b n") is not None
        return q, k, v

    memory = pack_state.PackState([patch], torch.device("cpu"))
    before = memory.snapshot()
    patch(torch.zeros(1, 1), None, None, {})
    holders = [id(entry[1]) for entry in before if len(entry) > 1]
    assert id(counter) in holders and id(nodes.NODE_CLASS_MAPPINGS) not in holders
    assert not {id(vars(einops.einops)), id(vars(pytest)), id(vars(nodes))} & {*holders}
    memory.restore(before)
    assert counter == {"calls": 0}


def guided_with_reports(model, lora):
    reports = []
    return unguide(model, lora, SteeringConfig(w_erased=W, words_first=False), reports.append), reports


def pushed(assets, scale):
    """A MODEL whose cross-attention sees the text pushed away from the dog's."""
    dog = assets.encode(DOG)[0][0]
    return attention.with_text_patch(assets.model, lambda text: text + scale * (text - dog.to(text)))


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_the_target_scores_1_whatever_a_patch_makes_of_the_text(assets, scale):
    model, reports = guided_with_reports(pushed(assets, scale), assets.lora)
    sampling = Sampling(assets, (CAT,), 2)
    sampling.cfg = 1.0
    sampling.draw(model)
    assert reports[0].decisions[0].decision.score == pytest.approx(1, abs=1e-3)
    assert reports[0].decisions[0].w == -1.0


def test_the_plain_model_is_known_after_blocks_of_it_were_compiled(assets):
    for patch in (networks.compiled_block, lambda assets, model: model):
        model, reports = guided_with_reports(patch(assets, assets.model), assets.lora)
        Sampling(assets, (CAT,), 1).draw(model)
        assert [decision.w for decision in reports[0].decisions] == [-1.0]


def test_a_base_that_predicts_nan_is_not_blamed_on_the_lora(assets):
    """An unrelated picture is what it would be without UnGuidance, without a message; else it is the model's fault."""

    def failing(apply, args):
        return caches.predict(apply, args) * (float("nan") if args["timestep"][0] < 1 else 1)

    model = caches.with_function_wrapper(assets.model, failing)
    drawn, plain = (Sampling(assets, (DOG,), 6).draw(of) for of in (guided_with_reports(model, assets.lora)[0], model))
    assert torch.equal(drawn.isnan(), plain.isnan()) and plain.isnan().any()
    with pytest.raises(ValueError, match="the model itself, without the LoRA"):
        Sampling(assets, (CAT,), 6).draw(guided_with_reports(model, assets.lora)[0])


def test_pictures_that_share_a_prompt_share_a_decision(assets):
    model, reports = guided_with_reports(assets.model, assets.lora)
    Sampling(assets, (CAT, DOG, DOG, CAT, DOG), 2).draw(model)
    scores = [picture.decision.score for picture in reports[0].decisions]
    assert scores[0] == scores[3] and scores[1] == scores[2] == scores[4] and scores[0] > scores[1]


def test_a_forward_that_was_put_back_is_nobody_s(model):
    network = model.model.diffusion_model
    layer = network.input_blocks[0][0]
    layer.forward = layer.forward  # as a pack leaves it that has removed its own
    try:
        assert replaced_forwards(network) == []
        layer.forward = lambda *args, **kwargs: type(layer).forward(layer, *args, **kwargs)
        assert layer.forward in replaced_forwards(network)
    finally:
        del layer.forward
