"""Wherever a model's weights are, whatever mode they were made in and moved in: the same LoRA, the same pictures."""

import comfy.model_management
import comfy.utils
import pytest
import torch
from model_files import SD3, behind_a_lora, load
from moving import act_moves, leave_in_main_memory
from unguide.unguide_ops import host
from unguide.unguide_ops.gate.calibrate import calibrate
from unguide.unguide_ops.gate.probe import ProbeConfig, probe
from unguide.unguide_ops.training.trainer import CANCELLED, train

from dev.bench.reference import relative_error
from dev.families.checks import OTHER, TARGET, FamilyCheck
from dev.families.tiny import TINY

SIZE = 64
KINDS = {"plain": lambda it: it, "cloned": lambda it: it.clone(), "behind a LoRA": behind_a_lora}


def nothing(model):
    """Between two parts of a job."""


def unload(model):
    """What the page's Unload Models does, outside of any node."""
    with torch.inference_mode(False):
        comfy.model_management.unload_all_models()


def make_room(model):
    """What the host does where another model needs half of this one's memory."""
    for it in comfy.model_management.current_loaded_models:
        if it.model is not None and it.model.is_clone(model):
            it.model.partially_unload(it.model.offload_device, it.model.loaded_size() // 2)


BETWEEN = {"unloaded": unload, "half unloaded": make_room}


def everything(tiny, model, between=nothing):
    """What a LoRA's life on MODEL gives; `between(model)` happens before each part of it."""
    job = FamilyCheck(tiny, load=lambda: between(model) or model, retain_weight=3.0)
    between(model)
    lora, _ = calibrate(model, job.lora, job.concept, SIZE, SIZE, captions=4)
    between(model)
    asked = ProbeConfig(mode="calibrated", width=SIZE, height=SIZE, seeds=1)
    readings = probe(model, lora, tiny.prompt, [TARGET, OTHER], asked).prompt_scores
    found = {"scores": torch.tensor([it.scores for it in readings])}
    for name, steered in (("base", model), ("LoRA alone", job.steered(0.0, lora)), ("erased", job.steered(lora=lora))):
        between(model)
        found[name] = job.draw(steered)
    between(model)
    for name, pair in train(model, job.concept, job.settings, resume=lora).lora.pairs.items():
        found |= {f"{name}, up": pair.up, f"{name}, down": pair.down}
    return found


def as_expected(found, expected):
    for name, it in expected.items():
        assert relative_error(found[name], it) < 1e-5, name


def draw_once(tiny, model):
    latent = {"samples": host.empty_latent(model, SIZE, SIZE)}
    host.ksample(model, 0, 1, 1.0, "euler", "simple", tiny.prompt(""), tiny.prompt(""), latent, 1.0)


@pytest.fixture(scope="module")
def where_nothing_moves():
    """What SD3's weights give that were made outside of inference mode, behind a LoRA or not."""
    with torch.inference_mode(False):
        model, other = load(SD3), load(SD3)
    with torch.inference_mode():
        return {False: everything(SD3, model), True: everything(SD3, behind_a_lora(other))}


STATES = [(made, first, memory, "plain") for made in ("in inference mode", "outside")
          for first in ("sampler", "trainer") for memory in ("loaded", "unloaded")]  # fmt: skip
STATES += [("in inference mode", "trainer", memory, kind) for kind in ("cloned", "behind a LoRA")
           for memory in ("loaded", "unloaded", "half unloaded", "partly loaded")]  # fmt: skip


@pytest.mark.parametrize(("made", "first", "memory", "kind"), STATES)
def test_a_model_from_a_file(made, first, memory, kind, where_nothing_moves, monkeypatch):
    """`first`: who puts it on the device."""
    act_moves(monkeypatch)
    if memory == "partly loaded":
        leave_in_main_memory(monkeypatch, all_but=3e5)
    with torch.inference_mode(made == "in inference mode"):
        model = load(SD3)
    model = KINDS[kind](model)
    if first == "sampler":
        draw_once(SD3, model)
    found = everything(SD3, model, BETWEEN.get(memory, nothing))
    as_expected(found, where_nothing_moves[kind == "behind a LoRA"])


@pytest.mark.parametrize("memory", ["loaded", "unloaded"])
@pytest.mark.parametrize("tiny", [it for it in TINY if it.name in ("SD 1.x", "Flux dev")], ids=lambda it: it.name)
def test_a_model_whose_weights_are_frozen(tiny, memory, monkeypatch):
    """As those of some loaders, and all that a LoRA has been patched into; the host's own leaves the rest as made."""
    with torch.inference_mode(False):
        model = tiny.model()
    expected = everything(tiny, model)
    act_moves(monkeypatch)
    as_expected(everything(tiny, tiny.model(), BETWEEN.get(memory, nothing)), expected)


def test_previews_and_cancel(monkeypatch):
    act_moves(monkeypatch)
    shown = []

    def hook(value, total, preview, *args, **kwargs):
        shown.append(preview)
        comfy.model_management.interrupt_current_processing(value == 1)

    proof = FamilyCheck(SD3, load=lambda: load(SD3))
    before = proof.draw(proof.model)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    cancelled = train(proof.model, proof.concept, proof.settings, progress=host.ProgressReporter(1))
    monkeypatch.undo()
    assert cancelled.stopped == CANCELLED and len(cancelled.metrics.history) == 1
    assert shown[0][1].size > (0, 0) and torch.equal(proof.draw(proof.model), before) and proof.is_untouched()
