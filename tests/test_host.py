"""What the pack takes for granted in ComfyUI: a test for each assumption (docs/hosts.md has the list).

`python dev test --host PATH tests/test_host.py` tells in seconds which of them another ComfyUI breaks. Each docstring
says who relies on it: modules of `unguide_ops/host`, unless another is named.
"""

import ast
import asyncio
import inspect
import math
import os
import sys
from dataclasses import asdict
from types import SimpleNamespace

import comfy.conds
import comfy.ldm.flux.math
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.quant_ops
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import latent_preview
import nodes
import pytest
import torch
import unguide
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy_api.latest import ComfyExtension, io, ui
from comfy_execution.utils import CurrentNodeContext, get_executing_context
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from real_host import HOST
from unguide.demo_model.loader import load_demo_model
from unguide.nodes import training as nodes_training
from unguide.unguide_ops import host, pipeline
from unguide.unguide_ops.files import lora_file
from unguide.unguide_ops.training import config

CAT, DOG = "a photo of the cat", "a photo of the dog"
LAYER = "middle_block.1.transformer_blocks.0.attn2.to_k"
SHAPE = (2, 24, 8, 8)


@pytest.fixture(scope="module")
def encode(clip):
    return lambda prompt: clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


@pytest.fixture
def look(model, encode):
    """look(body): what `body(guider, options, noise)` returns where the host would sample two pictures."""

    class Look(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, *args, **kwargs):
            self.found = self.body(model_wrap, extra_args["model_options"], noise)
            return noise

    def run(body, its=model, **conds):
        guider, sampler = comfy.samplers.CFGGuider(its), Look()
        guider.inner_set_conds(conds or {CAT: encode(CAT), DOG: encode(DOG)})
        noise, sampler.body = comfy.sample.prepare_noise(torch.zeros(SHAPE), 1), body
        guider.sample(noise, torch.zeros(SHAPE), sampler, torch.tensor([1.0, 0.0]), disable_pbar=True)
        return sampler.found

    return run


def predict(guider, options, x, *conds, sigma=1.0):
    """x0 for each of the conds, told by name."""
    conds = [guider.conds.get(name) for name in conds]
    return comfy.samplers.calc_cond_batch(guider.inner_model, conds, x, x.new_full((len(x),), sigma), options)


@pytest.fixture(scope="module")
def seen(model, sample, encode):
    """One step of a KSampler, begun twice, and what our kinds of wrappers are given in it; in the first time only."""
    its = SimpleNamespace(predictions=[], forwards=[])

    def around_run(executor, *args, **kwargs):
        guider, before = executor.class_obj, dict(executor.class_obj.conds)
        its.run, its.guider, its.conds, kept = args, guider, before, guider.model_options
        guider.conds = {**before, DOG: comfy.sampler_helpers.convert_cond(encode(DOG))}
        options = guider.model_options = comfy.model_patcher.create_model_options_clone(kept)
        for kind, around in ((WrappersMP.CALC_COND_BATCH, around_prediction), (WrappersMP.APPLY_MODEL, around_forward)):
            add_wrapper_with_key(kind, "ours", around, options, is_model_options=True)
        its.first = executor(*args, **kwargs)
        guider.conds, guider.model_options = before, kept
        its.second = executor(*args, **kwargs)
        return its.second

    def around_prediction(executor, *args):
        its.predictions.append(args)
        its.added = its.guider.conds[DOG]
        return executor(*args)

    def around_forward(executor, x, *args, **kwargs):
        its.forwards.append(x)
        return executor(x, *args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "ours", around_run)
    with torch.inference_mode():
        its.samples = sample(clone, steps=1)
    return its


def test_wrappers_of_a_run_get_noise_latent_sampler_and_sigmas_and_its_guider(seen):
    """steered_model.steered_model: OUTER_SAMPLE wrappers get them in this order, and `executor.class_obj`."""
    noise, latent, sampler, sigmas, *_ = seen.run
    assert noise.shape == latent.shape == SHAPE and sigmas.shape == (2,)
    assert isinstance(sampler, comfy.samplers.Sampler) and isinstance(seen.guider, comfy.samplers.CFGGuider)
    assert seen.guider.model_patcher.model.diffusion_model


def test_a_run_can_be_begun_again_inside_its_wrapper(seen):
    """steered_model (`restart`): the executor may be called twice, with the conds and the options as they were."""
    assert torch.equal(seen.first, seen.second)


def test_prompts_have_names_and_a_number_each_when_a_run_begins(seen, encode):
    """sampling_run.SamplingRun: `guider.conds` holds entries by name; `convert_cond` numbers each anew (`uuid`)."""
    assert set(seen.conds) == {"positive", "negative"}
    same = encode(CAT)
    others = [comfy.sampler_helpers.convert_cond(same) for _ in range(2)]
    assert len({entry["uuid"] for its in (*seen.conds.values(), *others) for entry in its}) == 4


def test_a_prompt_added_when_a_run_begins_is_encoded_with_the_others(seen):
    """sampling_run.SamplingRun.add_prompt: the host makes `model_conds` of all `guider.conds`, whatever their names."""
    assert isinstance(seen.added[0]["model_conds"]["c_crossattn"], comfy.conds.CONDRegular)


def test_wrappers_of_a_prediction_get_model_conds_latents_and_noise_levels(seen, model):
    """PredictionCall: so in CALC_COND_BATCH, positionally; a level for each row; conds still have their numbers."""
    network, conds, x, timestep, *_ = seen.predictions[0]
    assert network is model.model and x.shape == SHAPE and timestep.shape == (2,)
    numbers = {its[0]["uuid"]: name for name, its in seen.conds.items()}
    assert sorted(numbers[its[0]["uuid"]] for its in conds) == ["negative", "positive"]


def test_wrappers_of_a_forward_get_the_whole_batch_first(seen):
    """evaluation_counter.EvaluationCounter: the rows of APPLY_MODEL's x are the evaluations."""
    assert sum(len(x) for x in seen.forwards) == 4  # two pictures, cond and uncond


def test_wrappers_on_a_guider_s_own_options_act_in_that_run_alone(seen):
    """_in_run: sampling reads `guider.model_options`; `create_model_options_clone` copies what they hold."""
    assert len(seen.predictions) == 1  # of two runs, the first


def test_a_clone_shares_the_network_and_keeps_what_hangs_on_it(model):
    """steered_model.steered_model: one model in memory; attachments and wrappers travel to clones and never back."""
    hung = model.clone()
    hung.set_attachments("test", (1, 2))
    hung.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "test", len)
    clone = hung.clone()
    assert clone.model is model.model and clone.get_attachment("test") == (1, 2)
    assert clone.get_wrappers(WrappersMP.OUTER_SAMPLE, "test") == [len]
    assert model.get_attachment("test") is None and not model.get_wrappers(WrappersMP.OUTER_SAMPLE, "test")


@pytest.mark.parametrize("kind", [Guider_PerpNeg, Guider_DualCFG])
def test_guiders_call_what_shall_not_be_seen_by_names_we_know(model, encode, kind):
    """sampling_run.NEGATIVE_NAMES: any other name is a prompt that the gate looks at."""
    guider = kind(model)
    guider.set_conds(encode(CAT), encode(DOG), encode(""))
    assert "negative" in guider.original_conds
    assert set(guider.original_conds) <= {"positive", "middle", "negative", "empty_negative_prompt"}


def test_guiders_know_their_guidance(model):
    """sampling_run.SamplingRun.cfg: `cfg`, or `cfg1` of the one with two."""
    plain, dual = comfy.samplers.CFGGuider(model), Guider_DualCFG(model)
    plain.set_cfg(3.0)
    dual.set_cfg(5.0, 2.0)
    assert plain.cfg == 3.0 and dual.cfg1 == 5.0 and not hasattr(plain, "cfg1")


def test_where_and_when_a_prompt_counts_stands_in_keys_we_know(look, encode):
    """prompt.AREA_AND_TIME: without them it is the same prompt, everywhere and all the time."""
    (where,) = nodes.ConditioningSetArea().append(encode(CAT), 32, 32, 0, 0, 0.5)
    (where,) = nodes.ConditioningSetMask().append(where, torch.ones(1, 64, 64), "default", 0.5)
    (where,) = nodes.ConditioningSetTimestepRange().set_range(where, 0.1, 0.9)
    (entry,), (plain,) = (look(lambda guider, *_: guider.conds["it"], it=its) for its in (where, encode(CAT)))
    known = {"area", "mask", "mask_strength", "set_area_to_bounds", "strength", "timestep_start", "timestep_end"}
    assert entry.keys() - plain.keys() - {"start_percent", "end_percent"} == known


def test_entries_that_areas_add_stand_behind_a_prompt_s_own(look, encode):
    """prediction_call.PredictionCall: the first entry of a cond tells whose it is, whatever the host adds to it."""
    (where,) = nodes.ConditioningSetArea().append(encode(CAT), 32, 32, 0, 0, 1.0)
    conds = look(lambda guider, *_: guider.conds, positive=where, negative=encode(""))
    positive, negative = ([entry["uuid"] for entry in conds[name]] for name in ("positive", "negative"))
    assert len(negative) == 2 and negative[0] not in positive


def test_a_cond_may_be_left_out_of_a_prediction(look):
    """PredictionCall: None among the conds gives zeros; any number of conds and rows may be asked for."""
    nothing, something, _ = look(lambda guider, options, noise: predict(guider, options, noise[:1], "", CAT, ""))
    assert not nothing.any() and something.any() and something.shape == (1, 24, 8, 8)


def test_a_sampler_of_ours_is_shown_the_loaded_model(look):
    """session: `Sampler.sample` gets the guider with `inner_model` and encoded conds, options, and the noise."""

    def body(guider, options, noise):
        its = guider.inner_model
        assert noise.shape == SHAPE and "transformer_options" in options
        assert (its.manual_cast_dtype or its.get_dtype()) == torch.float32  # what the forward computes in
        assert its.diffusion_model and its.latent_format and its.model_sampling
        return list(guider.conds)

    assert look(body) == [CAT, DOG]  # prompts may have any names


def test_predictions_are_x0_and_rows_may_differ_in_prompt_and_noise_level(look):
    """session.LiveModel: joined conds (`_copy_with`, `concat`) and a level for each row give what each gives alone."""

    def body(guider, options, x):
        (cat,), (dog,), sigmas = guider.conds[CAT], guider.conds[DOG], x.new_tensor([10.0, 2.0])
        both = {name: it._copy_with(it.concat([dog["model_conds"][name]])) for name, it in cat["model_conds"].items()}
        conds = [[{**cat, "model_conds": both}]]
        (together,) = comfy.samplers.calc_cond_batch(guider.inner_model, conds, x, sigmas, options)
        alone = predict(guider, options, x[:1], CAT, sigma=10.0) + predict(guider, options, x[1:], DOG, sigma=2.0)
        assert together.allclose(torch.cat(alone), atol=1e-4)
        (almost_clean,) = predict(guider, options, x, CAT, sigma=0.03)
        assert almost_clean.allclose(x, atol=0.2)

    look(body)


def test_attention_can_be_replaced_by_torch_s_own(look):
    """autograd.differentiable: `optimized_attention_override` gets a function beside `attention_pytorch`."""
    asked = []

    def override(attention, *args, **kwargs):
        asked.append(attention)
        return sys.modules[attention.__module__].attention_pytorch(*args, **kwargs)

    def body(guider, options, noise):
        options["transformer_options"]["optimized_attention_override"] = override
        return predict(guider, options, noise, CAT)[0]

    assert look(body).isfinite().all() and asked


def test_gradients_pass_through_a_prediction(look, encode):
    """session.session: nothing on the way switches them off; parameters and buffers can be replaced by name."""

    def body(guider, options, noise):
        its = guider.inner_model
        for name in [name for name, _ in its.named_parameters()]:
            comfy.utils.set_attr_param(its, name, comfy.utils.get_attr(its, name).detach().clone())
        for name in [name for name, _ in its.named_buffers()]:
            comfy.utils.set_attr(its, name, comfy.utils.get_attr(its, name).clone())
        x = noise.clone().requires_grad_()
        return torch.autograd.grad(predict(guider, options, x, "it")[0].sum(), x)[0]

    fresh = load_demo_model()[0]
    with torch.inference_mode(False), torch.enable_grad():
        assert look(body, its=fresh, it=[[cross.clone(), {}] for cross, _ in encode(CAT)]).any()


def test_gradients_pass_through_rotary_embeddings(model, encode):
    """session.session, to train on Flux and its kin: the host's kernels have gradients, or are left out in training."""

    def body(live):
        q, k = (torch.randn(1, 2, 6, 8, device=live.device, requires_grad=True) for _ in range(2))
        turned = comfy.ldm.flux.math.rope(torch.arange(6.0, device=live.device)[None], 8, 10000).unsqueeze(1)
        sum(it.sum() for it in comfy.ldm.flux.math.apply_rope(q, k, turned)).backward()
        return q.grad

    assert host.session(model, {CAT: encode(CAT)}, torch.zeros(SHAPE), body, trainable=True).any()


@pytest.mark.parametrize("steps", [10, 50])
def test_a_ddim_schedule_has_a_level_for_each_step_and_ends_at_zero(model, steps):
    """session.LiveModel.ddim_sigmas, for calibration and training."""
    sigmas = comfy.samplers.calculate_sigmas(model.model.model_sampling, "ddim_uniform", steps).tolist()
    assert len(sigmas) == steps + 1 and sigmas == sorted(sigmas, reverse=True) and sigmas[-1] == 0


def test_a_run_starts_from_the_seed_s_noise_in_the_model_s_shape_and_scale(model):
    """live: `prepare_noise` draws on the CPU, `fix_empty_latent_channels` and `noise_scaling` fit it to the model."""
    noise = comfy.sample.prepare_noise(torch.zeros(SHAPE), 7)
    assert noise.equal(torch.randn(SHAPE, generator=torch.manual_seed(7)))
    empty = comfy.sample.fix_empty_latent_channels(model, torch.zeros(2, 4, 8, 8))
    assert empty.shape == SHAPE and model.get_model_object("latent_format").latent_channels == 24
    latents = model.model.model_sampling.noise_scaling(torch.tensor([3.0]), noise.clone(), empty, True)
    assert latents.allclose(noise * math.sqrt(10))


def test_stock_sampling_and_its_lists(seen):
    """sampling: `nodes.common_ksampler` gives ({"samples": ...},); samplers and schedulers have names."""
    assert seen.samples.shape == SHAPE
    assert {"euler", "ddim"} <= set(comfy.samplers.KSampler.SAMPLERS)
    assert {"normal", "ddim_uniform"} <= set(comfy.samplers.KSampler.SCHEDULERS)


def test_a_prompt_is_encoded_as_the_host_s_node_does(clip, encode):
    """conditioning: one entry, [cross-attention tensor, extras with `pooled_output`]."""
    ((cross, extras),) = encode(CAT)
    ((by_node, _),) = nodes.CLIPTextEncode().encode(clip, CAT)[0]
    assert cross.equal(by_node) and cross.ndim == 3 and "pooled_output" in extras


def test_layers_and_parts_of_layers_have_their_usual_names_in_lora_files(model):
    """layers: names -> keys of the state dict; a part of a Linear is (key, (dimension, first, number), ...)."""
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    kohya = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    assert keys[kohya] == keys[f"diffusion_model.{LAYER}"] == f"diffusion_model.{LAYER}.weight"
    parts = comfy.utils.flux_to_diffusers({"depth": 1, "depth_single_blocks": 1, "hidden_size": 8})
    name, where, *_ = parts["transformer_blocks.0.attn.add_k_proj.weight"]
    assert name == "double_blocks.0.txt_attn.qkv.weight" and where == (0, 8, 8)


def test_a_lora_of_any_kind_is_read_as_patches_of_weights():
    """patching: `load_lora(tensors, {name: key}, False)` gives patches by key, `calculate_weight` applies them."""
    up, down = torch.ones(4, 1), torch.ones(1, 3)
    found = comfy.lora.load_lora({"it.lora_up.weight": up, "it.lora_down.weight": down}, {"it": "key"}, False)
    weight = comfy.lora.calculate_weight([(1.0, found["key"], 1.0, None, None)], torch.zeros(4, 3), "key")
    assert weight.equal(up @ down) and not comfy.lora.load_lora({"it.unknown": up}, {"it": "key"}, False)


def test_layers_are_called_as_modules(look):
    """unguide_ops/lora/adapter.py: a `forward` put on a Linear is what a prediction runs."""
    calls = []

    def body(guider, options, noise):
        layer = guider.inner_model.diffusion_model.get_submodule(LAYER)
        plain = layer.forward
        layer.forward = lambda x: calls.append(x.shape) or plain(x)
        try:
            predict(guider, options, noise, CAT)
        finally:
            del layer.forward
        return layer.in_features, layer.out_features, layer.weight

    inputs, outputs, weight = look(body)
    assert calls == [(2, 77, inputs)] and weight.shape == (outputs, inputs) and weight.is_floating_point()


def test_a_weight_that_is_patched_is_kept(model):
    """layers.fingerprint: the model's own weight stands in `backup`, for all clones."""
    key = f"diffusion_model.{LAYER}.weight"

    def now():
        return model.model.state_dict()[key].clone().cpu()

    own = now()
    patched = model.clone()
    patched.add_patches({key: ("diff", (torch.ones_like(own),))})
    comfy.model_management.load_models_gpu([patched])
    changed, kept = now(), model.backup[key].weight.clone().cpu()
    comfy.model_management.load_models_gpu([model])
    assert kept.equal(own) and changed.allclose(own + 1) and now().equal(own)


def test_a_layer_left_in_main_memory_is_patched_when_it_computes(model):
    """layers.weight_of: its weight stays as it is; what it computes with, functions in `weight_function` make of it."""
    layer = model.model.diffusion_model.get_submodule(LAYER)
    own = layer.weight.clone().cpu()
    patched = model.clone()
    patched.add_patches({f"diffusion_model.{LAYER}.weight": ("diff", (torch.ones_like(own),))})
    comfy.model_management.unload_all_models()
    patched.patch_model(model.load_device, lowvram_model_memory=1)
    try:
        (patch,) = layer.weight_function
        assert layer.weight.cpu().equal(own) and patch(own.clone()).allclose(own + 1)
        assert host.weight_of(layer).cpu().allclose(own + 1)
    finally:
        patched.unpatch_model(model.offload_device)
    assert not layer.weight_function and host.weight_of(layer).cpu().equal(own)


def test_a_quantised_weight_is_told_from_a_plain_one():
    """layers.check_trainable: no LoRA is trained on it, whatever the host's quantised tensors pass for."""
    weight = comfy.quant_ops.QuantizedTensor.from_float(torch.randn(16, 16).bfloat16(), "TensorCoreFP8Layout")
    layer = SimpleNamespace(weight=weight)
    with pytest.raises(ValueError, match="quantised"):
        host.check_trainable({"it": layer})


def test_the_host_estimates_memory(model):
    """memory: bytes that a shape needs, the model's and the device's."""
    its, device = comfy.model_management, model.load_device
    assert 0 < model.model.memory_required([1, 24, 8, 8]) < model.model.memory_required([4, 24, 8, 8])
    assert model.model_size() == its.module_size(model.model) > 1e6
    assert its.get_total_memory(device) >= its.get_free_memory(device) > 0
    assert its.minimum_inference_memory() > 0 and isinstance(its.get_torch_device(), torch.device)
    its.free_memory(0, device)


def test_files_are_listed_and_found(tmp_path):
    """folders: a kind of models of ours; new files are listed at once."""
    folder_paths.add_model_folder_path("unguide_test", str(tmp_path))
    assert folder_paths.get_filename_list("unguide_test") == []
    assert folder_paths.get_full_path("unguide_test", "a.safetensors") is None
    (tmp_path / "a.safetensors").touch()
    assert folder_paths.get_filename_list("unguide_test") == ["a.safetensors"]
    for find in (folder_paths.get_full_path, folder_paths.get_full_path_or_raise):
        assert find("unguide_test", "a.safetensors") == str(tmp_path / "a.safetensors")
    assert folder_paths.get_folder_paths("loras") and folder_paths.get_input_directory() and folder_paths.models_dir


def test_saved_files_are_numbered(tmp_path):
    """folders.new_lora_paths: sub/folder/name -> folder, name, and the next number behind those that are there."""
    folder, name, counter, *_ = folder_paths.get_save_image_path("sub/it", str(tmp_path))
    assert (folder, name, counter) == (str(tmp_path / "sub"), "it", 1)
    (tmp_path / "sub" / "it_00001_.safetensors").touch()
    assert folder_paths.get_save_image_path("sub/it", str(tmp_path))[2] == 2


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """The host's folder of LoRAs, empty, of which our part is a link to another, as users with two disks have it."""
    loras, elsewhere, output = (tmp_path / name for name in ("loras", "elsewhere", "output"))
    for folder in (loras, elsewhere, output):
        folder.mkdir()
    (loras / "unguide").symlink_to(elsewhere, target_is_directory=True)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(loras)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "output_directory", str(output))
    return loras


def test_files_in_a_folder_that_is_a_link_are_numbered_and_listed(loras, lora):
    """folders.new_lora_paths: of a whole prefix, hosts since 0.30 refuse to follow a link; of each part they do not."""
    for number in (1, 2):
        path, name = next(host.new_lora_paths("unguide/sub/it"))
        lora_file.save_lora(path, lora)
        assert name == os.path.join("unguide", "sub", f"it_0000{number}_.safetensors")
        assert name in folder_paths.get_filename_list("loras") and folder_paths.get_full_path("loras", name) == str(
            path
        )
    assert len(list((loras.parent / "elsewhere" / "sub").iterdir())) == 2


def test_what_was_trained_is_kept_elsewhere_where_the_host_refuses_its_folder(loras, lora, monkeypatch):
    """save_interrupted: what it says of the loras folder may be any exception, and is no reason to lose it."""
    numbered = folder_paths.get_save_image_path

    def refuses(prefix, folder, *args, **kwargs):
        if os.path.realpath(folder).startswith(str(loras.parent / "output")):
            return numbered(prefix, folder, *args, **kwargs)
        raise Exception("Saving outside the output folder is not allowed.")  # in the host's own class: any

    monkeypatch.setattr(folder_paths, "get_save_image_path", refuses)
    metrics = SimpleNamespace(history=[0.0])
    nodes_training.save_interrupted(SimpleNamespace(metrics=metrics, lora=lora))
    (kept,) = (loras.parent / "output").rglob("*.safetensors")
    assert kept.relative_to(loras.parent).as_posix() == "output/unguide/cancelled/concept_00001_.safetensors"
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: refuses("", loras))
    nodes_training.save_interrupted(SimpleNamespace(metrics=metrics, lora=lora))  # raises nothing, whatever refuses


def test_progress_is_told_with_a_picture(monkeypatch):
    """ProgressReporter: `ProgressBar.update_absolute(value, total, preview)` hands them to the server's hook."""
    told = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *args, **kwargs: told.append(args))
    comfy.utils.ProgressBar(3).update_absolute(2, 3, ("JPEG", None, None))
    assert told == [(2, 3, ("JPEG", None, None))]


def test_previews_come_from_the_latent_format(model):
    """progress.preview_image: ("JPEG", picture, size) of latents; no previewer is None, as with previews off."""
    its = model.model.latent_format
    assert latent_preview.get_previewer(torch.device("cpu"), its) is None
    previewer = latent_preview.Latent2RGBPreviewer(its.latent_rgb_factors, its.latent_rgb_factors_bias)
    kind, picture, _ = previewer.decode_latent_to_preview_image("JPEG", torch.zeros(SHAPE))
    assert kind == "JPEG" and picture.convert("RGB").size == (8, 8)


def test_cancel_is_an_exception_once():
    """progress.ProgressReporter and nodes/training.py."""
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        comfy.model_management.throw_exception_if_processing_interrupted()
    comfy.model_management.throw_exception_if_processing_interrupted()


@pytest.mark.parametrize("base", [None, Exception, BaseException], ids=["the host's own", "an error", "no error"])
def test_cancel_after_training_keeps_what_was_trained(base, loras, model, concept, monkeypatch):
    """nodes/training.py: what Cancel raises is no Exception since 0.20; it may come while the gate is calibrated."""
    if base:
        interrupt = type("Interrupt", (base,), {})
        monkeypatch.setattr(comfy.model_management, "InterruptProcessingException", interrupt)
        monkeypatch.setattr(host, "Interrupted", interrupt)
    calibrate = pipeline.calibrate

    def cancelled(*args, **named):
        comfy.model_management.interrupt_current_processing(True)
        return calibrate(*args, **named)

    monkeypatch.setattr(pipeline, "calibrate", cancelled)
    short = asdict(config.preset("object", iterations=1, width=64, height=64))
    with pytest.raises(host.Interrupted):
        nodes_training.UnGuideTrainLoRA.execute(model, concept, nodes_training.CUSTOM, **short)
    comfy.model_management.throw_exception_if_processing_interrupted()
    (kept,) = folder_paths.get_filename_list("loras")
    assert kept == os.path.join("unguide", "cancelled", "concept_00001_.safetensors")


def test_the_running_node_is_known_and_can_show_text():
    """progress.show_status: `get_executing_context().node_id`, `PromptServer.send_progress_text(text, node_id)`."""
    assert get_executing_context() is None
    with CurrentNodeContext("prompt", "7"):
        assert get_executing_context().node_id == "7"
    server = ast.walk(ast.parse((HOST / "server.py").read_text(encoding="utf-8")))  # it imports in its own process only
    (tell,) = [it.args for it in server if isinstance(it, ast.FunctionDef) and it.name == "send_progress_text"]
    assert [it.arg for it in tell.args][:3] == ["self", "text", "node_id"] and len(tell.args) - len(tell.defaults) <= 3


def test_the_demo_model_is_made_of_the_host_s_classes(demo):
    """demo_model, progress.decoder: MODEL, CLIP and VAE are the host's own, and the VAE takes our autoencoder."""
    model, clip, vae = demo
    assert isinstance(model, comfy.model_patcher.ModelPatcher)
    assert isinstance(clip, comfy.sd.CLIP) and isinstance(vae, comfy.sd.VAE)
    latents = vae.encode(torch.full((1, 64, 64, 3), 0.5))
    pictures = vae.decode(model.model.process_latent_out(latents))
    assert latents.shape == (1, 24, 8, 8) and pictures.shape == (1, 64, 64, 3)
    assert 0 <= pictures.min() <= pictures.max() <= 1


def test_the_host_takes_our_nodes_and_tells_the_page_what_it_needs():
    """__init__.py and nodes: `comfy_entrypoint`; lists, tooltips, own types; `extra_dict` hands on `advanced`; hosts
    since 0.11 take `search_aliases`.
    """
    extension = asyncio.run(unguide.comfy_entrypoint())
    assert isinstance(extension, ComfyExtension)
    info = {it.GET_SCHEMA().node_id: it.GET_NODE_INFO_V1() for it in asyncio.run(extension.get_node_list())}
    required, optional = (info["UnGuidance"]["input"][group] for group in ("required", "optional"))
    assert len(info) == len(unguide.NODES) and required["lora"][0] == "UNGUIDE_LORA" and required["lora"][1]["tooltip"]
    assert optional["softness"][1]["advanced"] is True and optional["w"][1]["forceInput"] is True
    found_as = info["UnGuidance"].get("search_aliases") or []
    assert ("erase" in found_as) == hasattr(nodes.CLIPTextEncode, "SEARCH_ALIASES")
    assert all(info["UnGuidePromptList"]["output_is_list"]) and info["UnGuideSaveLoRA"]["output_node"]
    assert info["UnGuideTrainLoRA"]["input"]["required"]["seed"][1]["control_after_generate"] is True


def test_nodes_return_values_and_something_to_show():
    """nodes: `NodeOutput(*values, ui=...)`, text and pictures below a node, and `fingerprint_inputs`."""
    done = io.NodeOutput(1, "it", ui=ui.PreviewText("shown"))
    assert done.args == (1, "it") and done.ui.as_dict()["text"] == ("shown",)
    inspect.signature(ui.PreviewImage).bind(torch.zeros(1, 8, 8, 3), cls=unguide.NODES[0])
    assert hasattr(io.ComfyNode, "fingerprint_inputs")
