"""Training on the real model: it learns, it moves only the LoRA, it can be repeated, resumed and stopped."""

import dataclasses
import inspect
import json
import os

import comfy.model_management
import comfy.patcher_extension
import pytest
import torch
from diffusers_terms import ddim_in_diffusers_terms, network_of
from real_host import REPOSITORY
from unguide.demo_model.loader import load_demo_model
from unguide.unguide_ops import host
from unguide.unguide_ops.concept import EMPTY_PROMPT, Concept, EncodedConcept
from unguide.unguide_ops.concept_lora import ConceptLoRA
from unguide.unguide_ops.files import lora_file
from unguide.unguide_ops.lora import target_layers
from unguide.unguide_ops.lora.adapter import LoRAAdapter
from unguide.unguide_ops.training import checkpointing, config, trained_slices, trainer
from unguide.unguide_ops.training.batches import batch_at, student_trajectory
from unguide.unguide_ops.training.config import TrainingConfig
from unguide.unguide_ops.training.loss import prediction_losses
from unguide.unguide_ops.training.metrics import TrainingMetrics
from unguide.unguide_ops.training.start import create_pairs
from unguide.unguide_ops.training.trainer import train

from dev.bench.reference import relative_error
from dev.families.tiny import TINY

SHORT = TrainingConfig(iterations=3, rank=2, steps=5, width=64, height=64, reuse=2, batch_size=2)


def short(**changes):
    return dataclasses.replace(SHORT, **changes)


def live_on(model, concept, body):
    """body(live, latents at two noise levels)."""
    latent = host.empty_latent(model, 64, 64)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))

    def run(live):
        path = student_trajectory(
            live, LoRAAdapter({}), noise, concept.concept.target, 9.0, 10, [0, 2], lambda x0: None
        )
        latents, sigmas = zip(*path, strict=True)
        return body(live, torch.cat(latents), list(sigmas))

    return host.session(model, concept.prompts, latent, run)


def fresh_pairs(model, live, asked):
    selection = target_layers.select_target_layers(live.diffusion_model, "automatic")
    at = trained_slices.trained_slices(selection, host.names_in_files(model, selection.naming))
    return create_pairs(selection, at, asked, torch.Generator().manual_seed(0))


def losses_of(model, concept, pairs):
    """Mean loss under the erased prompts, and under two retained ones, of a branch with these pairs."""
    it = concept.concept
    adapter = LoRAAdapter({host.layer_slices(model)[name]: pair for name, pair in pairs.items()})

    def body(live, latents, sigmas):
        batch = batch_at(live, latents, sigmas, [it.target] * 2, [list(it.preserved[:2])] * 2, it.reference, 2.0, 64)
        with adapter.attached(live.diffusion_model), adapter.on():
            losses = prediction_losses(live.row_predictions(batch.latents, batch.sigmas, batch.prompts), batch.goals)
        return losses[batch.erases].mean().item(), losses[~batch.erases].mean().item()

    return live_on(model, concept, body)


def test_every_row_has_its_own_prompt_and_noise_level(model, concept):
    prompts = [concept.concept.target, EMPTY_PROMPT, concept.concept.reference]

    def body(live, latents, sigmas):
        rows = [0, 1, 1]
        together = live.row_predictions(latents[rows], latents.new_tensor(sigmas)[rows], prompts)
        alone = [
            live.predictions(latents[i : i + 1], sigmas[i], prompt)[0] for i, prompt in zip(rows, prompts, strict=True)
        ]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)

    live_on(model, concept, body)


def test_training_forgets_keeps_the_rest_and_leaves_the_model_bit_for_bit(model, concept, sample):
    picture = sample(model)
    before = {name: weight.clone() for name, weight in model.model.state_dict().items()}
    trained = train(model, concept, dataclasses.replace(config.OBJECT, width=64, height=64))
    assert len(trained.lora.pairs) == 14
    untrained, change = losses_of(model, concept, {})[0], losses_of(model, concept, trained.lora.pairs)
    assert change[0] < 0.7 * untrained and change[1] < 0.05 * untrained
    assert trained.report()["separation"] > 0.9  # the house is heard as the housecat
    assert trained.report()["erasure"] > 0.6
    assert trained.evaluations <= 1080  # a tenth of the paper's
    assert all(torch.equal(weight, before[name]) for name, weight in model.model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.model.modules())
    assert torch.equal(sample(model), picture)


def test_before_any_training_the_concept_is_nearly_erased_and_others_are_left_alone(model, concept):
    """The point of the start: what is left to train is little."""
    trained = train(model, concept, short(iterations=1, rank=4, learning_rate=1e-12))
    first = trained.metrics.history[0]
    assert first.erasure > 0.9
    untrained = losses_of(model, concept, {})[0]
    assert losses_of(model, concept, trained.lora.pairs)[1] < 0.02 * untrained
    random = train(model, concept, short(iterations=1, initialisation="random", learning_rate=1e-12))
    assert abs(random.metrics.history[0].erasure) < 1e-3


def test_a_layer_outside_the_families_is_started_by_what_it_reads(model, concept):
    """Attention's output reads the picture: it starts as in the paper, and k and v as they always do."""
    asked = short(iterations=1, learning_rate=1e-12, targets="custom", pattern=r"attn2\.to_k$|attn1\.to_out")
    pairs = train(model, concept, asked).lora.pairs
    assert {name: bool(pair.up.abs().max() > 1e-6) for name, pair in pairs.items()} == {
        name: "attn2" in name for name in pairs
    }


def test_the_same_seed_gives_the_same_file(model, concept, tmp_path):
    contents = []
    for seed in (5, 5, 6):
        lora_file.save_lora(tmp_path / "it.safetensors", train(model, concept, short(seed=seed)).lora)
        contents.append((tmp_path / "it.safetensors").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_as_in_the_paper_an_iteration_is_a_new_trajectory_and_three_evaluations(model, concept):
    paper = dataclasses.replace(config.PAPER_OBJECT, iterations=4, steps=5, width=64, height=64)
    trained = train(model, concept, paper)
    generator = torch.Generator().manual_seed(0)
    (pair, *_) = trained.lora.pairs.values()
    for it in trained.lora.pairs.values():  # the draws of the pairs, then those of the trajectories
        torch.randn(it.down.shape, generator=generator)
    stops = []
    for _ in range(4):
        stops.append(int(torch.randperm(5, generator=generator)[0]))
        torch.randn(host.empty_latent(model, 64, 64).shape, generator=generator)
        torch.randperm(len(concept.concept.preserved), generator=generator)
        torch.rand((), generator=generator)
        torch.randperm(1, generator=generator)
    assert trained.evaluations == sum(2 * stop + 3 for stop in stops)
    assert pair.rank == 1 and all(it.retain == 0 for it in trained.metrics.history)


def test_a_trajectory_that_serves_many_iterations_is_paid_once(model, concept):
    once = train(model, concept, short(iterations=6, reuse=6, batch_size=2)).evaluations
    start = len({*concept.concept.erased, concept.concept.reference, *concept.concept.retained})
    # what layers read under each prompt; its steps; base on target, reference, retained; the LoRA's
    assert once == start + 2 * 4 + 5 * (1 + 1 + 1) + 6 * 2 * 2


def test_checkpointing_changes_memory_and_nothing_else(model, concept):
    plain, checkpointed = (train(model, concept, short(checkpointing=it)).lora.pairs for it in (False, True))
    for name, pair in plain.items():
        assert relative_error(checkpointed[name].up, pair.up) < 1e-2  # Adam magnifies the rounding of small gradients
    assert len(list(checkpointing.blocks(model.model.diffusion_model))) > 10


def test_resume_goes_on_with_the_pairs(model, concept):
    first = train(model, concept, SHORT).lora
    second = train(model, concept, short(learning_rate=1e-12), resume=first).lora
    assert second.training["iterations_done"] == 6 and second.training["resumed"]
    for name, pair in first.pairs.items():
        torch.testing.assert_close(second.pairs[name].up, pair.up, rtol=1e-4, atol=1e-9)
    with pytest.raises(ValueError, match="choose the `targets` that it was trained with"):
        train(model, concept, short(targets="all but cross-attention"), resume=first)
    elsewhere = ConceptLoRA({"lora_unet_nowhere": next(iter(first.pairs.values()))})
    with pytest.raises(ValueError, match="does not fit the model.*lora_unet_nowhere"):
        train(model, concept, SHORT, resume=elsewhere)


def test_training_ends_once_the_target_is_erased_and_says_if_it_is_not(model, concept):
    asked = dataclasses.replace(config.OBJECT, width=64, height=64)
    trained = train(model, concept, asked)
    assert trained.stopped.startswith("once") and len(trained.metrics.history) < asked.iterations
    assert trained.report()["erasure"] >= 0.9 and trained.report()["warning"] == ""
    hopeless = dataclasses.replace(asked, initialisation="random", iterations=12)
    warning = train(model, concept, hopeless).report()["warning"]
    assert "not erased yet" in warning and "`iterations` (12)" in warning
    assert "use at least 10" in train(model, concept, dataclasses.replace(asked, iterations=3)).report()["warning"]
    whole = train(model, concept, dataclasses.replace(asked, early_stop=False, iterations=12))
    assert len(whole.metrics.history) == 12 and not whole.report()["warning"]


def test_all_but_cross_attention_trains_every_other_linear(model, concept):
    lora = train(model, concept, short(iterations=1, targets="all but cross-attention")).lora
    assert lora.pairs and not any("attn2" in name for name in lora.pairs)


def test_cancel_keeps_what_was_trained_and_leaves_the_model_as_it_was(model, concept, sample):
    picture = sample(model)

    class CancelInTheThird(host.ProgressReporter):
        def set_preview(self, x0):
            if len(seen) == 2:
                comfy.model_management.interrupt_current_processing()
            super().set_preview(x0)

        def update(self, count, words):
            super().update(count, words)
            seen.append(words)

    seen: list[str] = []
    trained = train(model, concept, short(iterations=10), progress=CancelInTheThird())
    assert trained.stopped == trainer.CANCELLED and len(seen) == len(trained.metrics.history) == 2
    assert isinstance(trained.lora, ConceptLoRA) and trained.lora.training["iterations_done"] == 2
    assert not any("forward" in vars(module) for module in model.model.modules())
    assert torch.equal(sample(model), picture)


def test_a_quantised_model_is_refused():
    layer = torch.nn.Linear(2, 2)
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ValueError, match="load an fp16, bf16 or fp32 checkpoint"):
        host.check_trainable({"it": layer})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_gets_a_lora_in_fp32(concept, dtype):
    model, *_ = load_demo_model()
    model.model.diffusion_model.to(dtype).dtype = dtype
    asked = short(iterations=6, reuse=6, initialisation="random", learning_rate=3e-4)
    trained = train(model, concept, asked)
    losses = [it.erasing for it in trained.metrics.history]
    assert sum(losses[3:]) < sum(losses[:3])
    assert train(model, concept, SHORT).metrics.mean("erasure") > 0.7
    assert {pair.up.dtype for pair in trained.lora.pairs.values()} == {torch.float32} and not trained.lora.is_zero


def test_a_size_that_the_model_cannot_take_is_refused(model, concept):
    with pytest.raises(ValueError, match="`width` is 65: use a multiple of 8"):
        train(model, concept, short(width=65))


@pytest.mark.parametrize("name", config.PRESETS)
def test_a_preset_sets_all_but_what_is_free(name):
    it = config.preset(name, width=64, seed=7, iterations=5)
    assert (it.width, it.seed, it.iterations) == (64, 7, config.PRESETS[name].iterations)
    assert (it.targets == "all but cross-attention") == name.startswith("nudity")


def test_the_page_shows_the_presets_as_they_are():
    """If this fails, write the left side into the file."""
    shown = json.loads((REPOSITORY / "web" / "presets.json").read_text(encoding="utf-8"))
    assert {name: config.preset_values(it) for name, it in config.PRESETS.items()} == shown


@pytest.mark.parametrize("field", ["optimizer", "schedule", "targets"])
def test_an_unknown_choice_is_refused_with_the_known_ones(model, concept, field):
    with pytest.raises(ValueError, match=f"`{field}` is 'x': use one of"):
        train(model, concept, short(**{field: "x"}))


def test_a_loss_that_is_no_number_stops_with_advice(model, concept):
    with pytest.raises(FloatingPointError, match="lower `learning_rate`"):
        train(model, concept, short(iterations=40, learning_rate=1e18))


WILD = [
    {"learning_rate": rate, "alpha": alpha, "iterations": iterations, "optimizer": optimizer, "initialisation": start}
    for rate, alpha in ((100.0, 1000.0), (1e4, 8.0), (1e6, 1.0), (1e18, 8.0))
    for iterations in (1, 4)
    for optimizer, start in (("Adam", config.CONCEPT_DIRECTIONS), ("SGD", config.RANDOM))
]


@pytest.mark.parametrize("its", WILD, ids=lambda it: " ".join(map(str, it.values())))
def test_whatever_is_trained_can_be_loaded_or_training_says_what_to_lower(model, concept, tmp_path, its):
    try:
        trained = train(model, concept, short(**its))
    except FloatingPointError as error:
        assert "lower `learning_rate`" in str(error)
    else:
        lora_file.save_lora(tmp_path / "it.safetensors", trained.lora)
        assert lora_file.load_lora(tmp_path / "it.safetensors").pairs.keys() == trained.lora.pairs.keys()


def test_weights_that_break_in_the_last_step_are_an_error_and_keep_no_file(model, concept, monkeypatch):
    """No loss is computed after it. Nor are they kept where something else fails then."""
    asked = short(iterations=2)
    stepped, kept = [], []

    class Breaking(torch.optim.SGD):
        def step(self, *its, **more):
            super().step(*its, **more)
            stepped.append(1)
            if len(stepped) == asked.iterations:
                self.param_groups[0]["params"][0].data.fill_(torch.nan)

    monkeypatch.setitem(config.OPTIMIZERS, "Adam", Breaking)
    with pytest.raises(
        FloatingPointError, match="After 2 iterations the LoRA's weights are NaN.*lower `learning_rate`"
    ):
        train(model, concept, asked, rescue=kept.append)
    stepped.clear()
    monkeypatch.setattr(TrainingMetrics, "is_converged", lambda self: len(self.history) == 2 and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(model, concept, dataclasses.replace(asked, early_stop=True), rescue=kept.append)
    assert not kept


def test_a_rank_beyond_the_layer_is_refused(model, concept):
    with pytest.raises(ValueError, match="`rank` is 200"):
        train(model, concept, short(rank=200))


def test_the_latents_trained_on_are_those_of_ddim(model, clip, concept):
    """With a branch that changes nothing, they are what DDIM leaves when stopped at the same step."""
    latent = host.empty_latent(model, 64, 64)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(2))
    target, stop = concept.concept.target, 3

    def body(live):
        adapter = LoRAAdapter(fresh_pairs(model, live, SHORT))
        with adapter.attached(live.diffusion_model):
            ((z, sigma),) = student_trajectory(live, adapter, noise, target, 7.5, 5, [stop], lambda x0: None)
        return z / (1 + sigma**2) ** 0.5

    z = host.session(model, concept.prompts, latent, body)
    cond, uncond = host.encode(clip, target)[0][0], host.encode(clip, "")[0][0]
    expected, _ = ddim_in_diffusers_terms(network_of(model), noise, cond, uncond, 7.5, 5, stop)
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-4)


def test_few_rows_at_once_give_the_same_gradients(model, concept, monkeypatch):
    slow = short(optimizer="SGD", learning_rate=0.1)  # Adam makes much of rounding where a gradient is nearly 0
    at_once = train(model, concept, slow).lora.pairs
    monkeypatch.setattr(host.TrainingMemory, "of", lambda *args: host.TrainingMemory(3, False))
    in_parts = train(model, concept, slow).lora.pairs
    for name, pair in at_once.items():
        torch.testing.assert_close(in_parts[name].up, pair.up, rtol=1e-3, atol=1e-6)


class SmallCard:
    """A wrapper for APPLY_MODEL that runs out of memory beyond so many rows, fewer if activations are kept."""

    def __init__(self, kept, checkpointed):
        self.kept, self.checkpointed, self.refused = kept, checkpointed, 0

    def on(self, model):
        clone = model.clone()
        clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "small card", self.around_forward)
        return clone

    def around_forward(self, executor, x, *args, **kwargs):
        blocks = list(checkpointing.blocks(executor.class_obj.diffusion_model))
        keeps = torch.is_grad_enabled() and not self.twice(blocks[-1])
        if len(x) > (self.kept if keeps else self.checkpointed):
            self.refused += 1
            raise host.OutOfMemory("CUDA out of memory.")
        return executor(x, *args, **kwargs)

    @staticmethod
    def twice(block):
        """Whether the block is checkpointed now: then its result has torch's hook for it."""
        wrapper = vars(block).get("forward")
        return wrapper is not None and inspect.getclosurevars(wrapper).nonlocals["enabled"]()


@pytest.mark.parametrize(
    ("kept", "checkpointed", "rows", "twice"), [(8, 8, 4, False), (1, 9, 1, False), (0, 2, 1, True)]
)
def test_out_of_memory_is_answered_with_fewer_rows_then_with_checkpointing(
    model, concept, kept, checkpointed, rows, twice
):
    slow = short(optimizer="SGD", learning_rate=0.1)
    plain = train(model, concept, slow).lora.pairs
    card = SmallCard(kept, checkpointed)
    trained = train(card.on(model), concept, slow)
    assert card.refused == 0 if kept == 8 else card.refused
    assert (trained.computed["rows_at_once"], trained.computed["checkpointing"]) == (rows, twice)
    for name, pair in trained.lora.pairs.items():
        torch.testing.assert_close(pair.up, plain[name].up, rtol=1e-3, atol=1e-6)


def test_a_card_on_which_not_one_row_fits_says_so_and_leaves_the_model_as_it_was(model, concept, sample):
    picture = sample(model)
    with pytest.raises(host.OutOfMemory):
        train(SmallCard(0, 0).on(model), concept, SHORT)
    assert torch.equal(sample(model), picture)


@pytest.mark.parametrize(
    ("free_gib", "rows", "twice"), [(80, 8, False), (18, 2, False), (6.5, 4, True), (1, 1, True), (0, 1, True)]
)
def test_rows_and_checkpointing_follow_from_the_free_memory(model, monkeypatch, free_gib, rows, twice):
    """A row as SDXL's at 1024 pixels; free is what is left beside its weights on cards of 90, 24, 12, 6 and 4 GiB."""
    monkeypatch.setattr(model.model, "memory_required", lambda shape: 0.256 * 2**30 * shape[0])
    free = free_gib * 2**30
    monkeypatch.setattr(
        comfy.model_management,
        "get_free_memory",
        lambda dev=None, torch_free_too=False: (free, 0) if torch_free_too else free,
    )
    chosen = host.TrainingMemory.of(model, host.empty_latent(model, 64, 64), 8, False)
    assert (chosen.rows, chosen.checkpointing) == (rows, twice)


def test_a_kernel_that_cannot_repeat_is_taken_where_there_is_no_other_and_the_report_says_so(model, concept, caplog):
    def around_forward(executor, x, *args, **kwargs):
        if torch.is_grad_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError("some_backward_cuda does not have a deterministic implementation")
        return executor(x, *args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "no other kernel", around_forward)
    assert train(model, concept, SHORT).report()["repeatable"]
    assert not train(clone, concept, SHORT).report()["repeatable"]
    assert "some_backward_cuda" in caplog.text
    assert not torch.are_deterministic_algorithms_enabled() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_a_model_that_predicts_nan_by_itself_is_not_blamed_on_the_learning_rate(model, concept):
    def around_forward(executor, x, *args, **kwargs):
        return executor(x, *args, **kwargs) * float("nan")

    clone = model.clone()
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "broken", around_forward)
    with pytest.raises(FloatingPointError, match="The model itself predicts NaN"):
        train(clone, concept, SHORT)


def test_gradients_that_overflow_half_precision_are_told(concept):
    model, *_ = load_demo_model()
    model.model.diffusion_model.to(torch.float16).dtype = torch.float16
    overflowing = torch.amp.GradScaler("cpu", init_scale=2.0**120, growth_interval=10**6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.amp, "GradScaler", lambda *args, **kwargs: overflowing)
        with pytest.raises(FloatingPointError, match="Nothing was learnt.*bf16 or fp32"):
            train(model, concept, SHORT)


def as_loaded(model):
    pass


def as_moved_outside_inference_mode(model):
    """What `Module.to` another device does: seen on a GPU when the trainer is the first to load a checkpoint."""
    with torch.inference_mode(False):
        for it in (*model.parameters(), *model.buffers()):
            it.data = it.data.clone()


def as_moved_inside_inference_mode(model):
    for it in (*model.parameters(), *model.buffers()):
        it.data = it.data.clone()


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("moved", [as_loaded, as_moved_outside_inference_mode, as_moved_inside_inference_mode])
def test_weights_may_have_been_made_and_moved_in_any_mode(concept, sample, inference, moved):
    with torch.inference_mode(inference):
        tiny = next(it for it in TINY if it.name == "SD 1.x").model()
    tiny.model.requires_grad_(not inference)
    moved(tiny.model)
    comfy.model_management.load_models_gpu([tiny])  # to a GPU they move
    weights = {name: (it, it.data_ptr()) for name, it in tiny.model.named_parameters()}
    encoded = EncodedConcept.of(Concept(target="a", reference="b", preserve=("c", "d")), TINY[0].prompt)
    twice = [train(tiny, encoded, SHORT).lora for _ in range(2)]
    assert not twice[0].is_zero
    assert all(torch.equal(pair.up, twice[1].pairs[name].up) for name, pair in twice[0].pairs.items())
    for name, it in tiny.model.named_parameters():  # the very same objects, on the very same memory
        assert it is weights[name][0] and it.data_ptr() == weights[name][1] and it.grad is None


def test_weights_left_in_main_memory_are_not_cast_into_shared_buffers(model, concept, monkeypatch):
    """Seen on a GPU: autograd keeps the weight that a layer computed with, and the next one's would overwrite it."""
    streams = []

    def around_forward(executor, *args, **kwargs):
        streams.append(comfy.model_management.NUM_STREAMS)
        return executor(*args, **kwargs)

    monkeypatch.setattr(comfy.model_management, "NUM_STREAMS", 2)
    clone = model.clone()
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "look", around_forward)
    train(clone, concept, SHORT)
    assert set(streams) == {0} and comfy.model_management.NUM_STREAMS == 2
