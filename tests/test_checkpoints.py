"""Models from files, through the host's own loaders: learned on and drawn with, in every precision."""

import comfy.cli_args
import nodes
import numpy
import pytest
import torch
from artist_graph import drawn, learned
from model_files import PRECISIONS, SD1, SD3, STRENGTH, behind_a_lora, load, lora_changes, models, save_lora
from real_host import HOST
from unguide.unguide_ops import host
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide
from unguide.unguide_ops.training.trainer import train

from dev.bench.reference import relative_error
from dev.client import GraphError, free
from dev.environment import make_base
from dev.families.checkpoints import SMALL_FILES, save_checkpoint, save_diffusion_model, save_vae, sd15_checkpoint
from dev.families.checks import TARGET, FamilyCheck
from dev.server import HostServer

AS_PUBLISHED = SteeringConfig(w=-1.0, lora_branch="cond and uncond", eta=1.0)
REFUSED = "quantised.*load an fp16, bf16 or fp32 checkpoint.*`weight_dtype` to default"


def of_file(tiny, *how, **training):
    """The proof on a model from its file."""
    return FamilyCheck(tiny, load=lambda: load(tiny, *how), **training)


@pytest.mark.parametrize("tiny", SMALL_FILES, ids=lambda it: it.name)
def test_a_model_from_its_file_learns_and_is_steered_as_two_copies_of_it(tiny, tmp_path):
    proof = of_file(tiny)
    before, after = proof.losses()
    assert after < before and proof.is_untouched()
    assert proof.error_against_copies() < 1e-4 and proof.effect() > 1e-3
    assert torch.equal(proof.draw(proof.steered(w=1.0)), proof.draw(proof.model))
    error, unused = proof.error_against_the_stock_loader(tmp_path / "it.safetensors")
    assert unused == 0 and error < 1e-4


@pytest.mark.parametrize(
    ("tiny", "precision", "kept"),
    [(SD1, "fp16", True), *((SD3, it, kept) for it in ("fp16", "bf16") for kept in (False, True))],
    ids=lambda it: {True: "kept", False: "cast"}[it] if isinstance(it, bool) else getattr(it, "name", it),
)
def test_half_precision_makes_no_more_difference_than_its_rounding(tiny, precision, kept, monkeypatch):
    """In training and drawing; on a CPU the host's is fp32, unless --fp16-unet or --bf16-unet says otherwise."""
    full = of_file(tiny)
    monkeypatch.setattr(comfy.cli_args.args, f"{precision}_unet", kept)
    half = of_file(tiny, precision)
    assert not kept or half.model.model.get_dtype() == PRECISIONS[precision]
    assert half.losses()[1] < half.losses()[0] and half.is_untouched()
    assert all(pair.up.dtype == torch.float32 for pair in half.lora.pairs.values())
    rounding = relative_error(half.draw(half.model), full.draw(full.model))
    assert relative_error(half.draw(half.steered(lora=full.lora)), full.draw(full.steered())) < 3 * rounding < 0.3
    assert torch.equal(half.draw(half.steered(w=1.0)), half.draw(half.model))


def test_an_fp16_file_is_the_same_base_for_a_gate_as_the_fp32_one():
    assert host.fingerprint(load(SD3)) == host.fingerprint(load(SD3, "fp16"))


@pytest.mark.parametrize("weight_dtype", ["fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"])
def test_what_is_loaded_in_fp8_is_refused_for_training_and_steered_as_the_same_weights_in_full(weight_dtype):
    full, small = of_file(SD3), load(SD3, "fp16", weight_dtype)
    with pytest.raises(ValueError, match=REFUSED):
        train(small, full.concept, full.settings)
    weights = host.diffusion_model(small).state_dict()
    host.diffusion_model(full.model).load_state_dict({name: it.float() for name, it in weights.items()})
    ours = full.draw(unguide(small, full.lora, AS_PUBLISHED))
    assert relative_error(ours, full.draw(full.steered())) < 1e-3 < relative_error(ours, full.draw(small))


def test_an_fp8_file_is_trained_where_the_host_loads_it_in_more():
    """On a CPU it does."""
    if load(SD3, "fp8").model.get_dtype().itemsize == 1:
        with pytest.raises(ValueError, match=REFUSED):
            of_file(SD3, "fp8")
        return
    proof = of_file(SD3, "fp8")
    assert proof.losses()[1] < proof.losses()[0] and proof.is_untouched()


def test_a_lora_in_front_is_part_of_the_base():
    """As if its change were written into the model's weights."""
    merged, plain = load(SD3), load(SD3)
    for name, (down, up) in lora_changes().items():
        host.diffusion_model(merged).get_submodule(name).weight.data += STRENGTH * up @ down
    ours, theirs = (FamilyCheck(SD3, load=lambda it=it: it) for it in (behind_a_lora(load(SD3)), merged))
    for name, pair in theirs.lora.pairs.items():
        assert relative_error(ours.lora.pairs[name].up, pair.up) < 1e-3, name
    assert relative_error(ours.draw(ours.steered()), theirs.draw(theirs.steered())) < 1e-4
    assert relative_error(ours.draw(ours.model), ours.draw(plain)) > 1e-3
    assert host.fingerprint(ours.model) == host.fingerprint(plain)


def test_a_checkpoint_without_a_text_encoder_is_told():
    save_checkpoint(SD1, models("checkpoints") / "no text.safetensors")
    model, clip, _ = nodes.CheckpointLoaderSimple().load_checkpoint("no text.safetensors")
    assert host.fingerprint(model) == host.fingerprint(load(SD1))
    with pytest.raises(ValueError, match="no text encoder.*Load CLIP"):
        host.encode(clip, TARGET)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A server with a SD3 in fp16 for the embedded model's prompts, its VAE, and a LoRA."""
    base = make_base(tmp_path_factory.mktemp("base"))
    for kind in ("diffusion_models", "vae", "loras"):
        (base / "models" / kind).mkdir()
    save_diffusion_model(SD3, base / "models" / "diffusion_models" / "sd3.safetensors", torch.float16)
    save_vae(base / "models" / "vae" / "vae.safetensors", channels=16)
    save_lora(base / "models" / "loras" / "not ours.safetensors")
    with HostServer(HOST, base) as server:
        yield server.url


def small_parts(build, weight_dtype="default"):
    unet = build.add("UNETLoader", unet_name="sd3.safetensors", weight_dtype=weight_dtype)
    lora = {"lora_name": "not ours.safetensors", "strength_model": STRENGTH}
    vae = build.add("VAELoader", vae_name="vae.safetensors")
    return [build.add("LoraLoaderModelOnly", model=[unet, 0], **lora), 0], build.model()[1], [vae, 0]


def test_an_artist_s_graphs_run_on_files_and_draw_the_same_after_unloading(url):
    report, name = learned(url, small_parts)
    assert report["iterations"] == 2 and report["calibration"] == "done"
    (report, pictures), (again, others) = (drawn(url, small_parts, name) for _ in range(2) if free(url) is None)
    assert report == again and len(report["decisions"]) == 1 and report["lora_steps"]
    assert all(numpy.array_equal(it, others[name]) for name, it in pictures.items())
    assert not numpy.array_equal(pictures["base"], pictures["erased"])


def test_in_fp8_the_same_graphs_say_what_to_load_for_training_and_draw(url):
    def small_parts_in_fp8(build):
        return small_parts(build, "fp8_e4m3fn")

    with pytest.raises(GraphError, match=f"UnGuideTrainLoRA.*{REFUSED}"):
        learned(url, small_parts_in_fp8)
    report, pictures = drawn(url, small_parts_in_fp8, learned(url, small_parts)[1])
    assert "this one in another precision" in report["decisions"][0]["doubt"]
    assert not numpy.array_equal(pictures["base"], pictures["erased"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_artist_s_graphs_run_on_a_whole_stable_diffusion_1_5(tmp_path):
    """Of random weights, 2 GB in fp16, by CheckpointLoaderSimple, with the file's own text encoder and VAE."""
    base = make_base(tmp_path)
    (base / "models" / "checkpoints").mkdir()
    (base / "models" / "checkpoints" / "sd15.safetensors").symlink_to(sd15_checkpoint())

    def whole(build):
        it = build.add("CheckpointLoaderSimple", ckpt_name="sd15.safetensors")
        return [it, 0], [it, 1], [it, 2]

    with HostServer(HOST, base) as server:
        report, name = learned(server.url, whole)
        assert report["iterations"] == 2 and report["calibration"] == "done"
        report, pictures = drawn(server.url, whole, name)
    assert "low-rank branch on 32 layers" in report["path"] and len(report["decisions"]) == 1
    assert not numpy.array_equal(pictures["base"], pictures["erased"])
