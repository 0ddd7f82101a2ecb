"""LoRAs made elsewhere: every layout gives the same predictions as its own formula, and no code in a file is run."""

import json
import os
import pickle

import comfy.lora
import comfy.sd
import nodes
import pytest
import torch
from precision import CLOSE
from safetensors.torch import save_file
from unguide.nodes.importing import UnGuideImportLoRA
from unguide.nodes.lora import UnGuideLoadLoRA
from unguide.unguide_ops import host
from unguide.unguide_ops.concept_lora import ConceptLoRA
from unguide.unguide_ops.files import layouts, lora_file
from unguide.unguide_ops.files.importers import import_lora
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide
from unguide.unguide_ops.lora import target_layers
from unguide.unguide_ops.model_adapter import adapter_for

from dev.bench.reference import relative_error
from dev.families.tiny import TINY

KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
DIFFUSERS = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"


def halves(model, name=KOHYA, rank=2):
    generator = torch.Generator().manual_seed(4)
    layer = host.diffusion_model(model).get_submodule(host.layer_slices(model)[name].path)
    down = torch.randn(rank, layer.in_features, generator=generator)
    return down, 0.3 * torch.randn(layer.out_features, rank, generator=generator)


def drawn_at_w_0(model, lora, sample):
    return sample(unguide(model, lora, SteeringConfig(w=0.0, lora_branch="cond and uncond")))


@pytest.mark.parametrize("choice", [target_layers.CROSS_ATTENTION, target_layers.ALL_BUT_CROSS_ATTENTION])
def test_the_authors_files_predict_what_their_formula_says(model, sample, tmp_path, choice):
    """y = W x + 8 (x A) B in every layer of the target set, written out here over the model's own Linears."""
    linears = target_layers.select_target_layers(host.diffusion_model(model), choice).linears
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for path, layer in linears.items():
        tensors[f"{path}.lora.A"] = torch.randn(layer.in_features, 1, generator=generator) / 16
        tensors[f"{path}.lora.B"] = torch.randn(1, layer.out_features, generator=generator) / 16
    torch.save(tensors, tmp_path / "lora.pth")
    imported = import_lora(tmp_path / "lora.pth", host.layer_slices(model))
    assert imported.layout == "UnGuide authors" and len(imported.lora.pairs) == len(linears)
    assert all(name.startswith("lora_unet_") for name in imported.lora.pairs)  # which most loaders read
    before = sample(model)
    ours = drawn_at_w_0(model, imported.lora, sample)
    forwards = {path: layer.forward for path, layer in linears.items()}
    try:
        for path, layer in linears.items():
            a, b = tensors[f"{path}.lora.A"], tensors[f"{path}.lora.B"]
            layer.forward = lambda x, plain=forwards[path], a=a, b=b: plain(x) + 8 * (x @ a.to(x)) @ b.to(x)
        theirs = sample(model)
    finally:
        for layer in linears.values():
            vars(layer).pop("forward")
    assert relative_error(ours, theirs) < CLOSE and relative_error(theirs, before) > 0.01


DOWN_UP, A_B = ("down", "up"), ("A", "B")
PEFT = f"base_model.model.{DIFFUSERS}.to_k"
LAYOUTS = [
    ("kohya", f"{KOHYA}.lora_HALF.weight", DOWN_UP),  # LECO and sliders as well
    ("diffusers", f"unet.{DIFFUSERS}.processor.to_k_lora.HALF.weight", DOWN_UP),
    ("diffusers", f"unet.{DIFFUSERS}.to_k.lora.HALF.weight", DOWN_UP),
    ("diffusers", f"unet.{DIFFUSERS}.to_k.lora_HALF.weight", A_B),
    ("peft", f"{PEFT}.lora_HALF.weight", A_B),
    ("peft", f"{PEFT}.lora_HALF.default.weight", A_B),
    ("plain module names", "diffusion_model.PATH.lora_HALF.weight", A_B),
]


@pytest.mark.parametrize(("layout", "name", "its"), LAYOUTS, ids=lambda it: it if isinstance(it, str) else "")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_every_layout_is_the_same_lora(model, tmp_path, layout, name, its, suffix):
    down, up = halves(model)
    path = host.layer_slices(model)[KOHYA].path
    names = [name.replace("HALF", half).replace("PATH", path) for half in its]
    tensors = dict(zip(names, (down, up), strict=True))
    file = tmp_path / f"it{suffix}"
    save_file(tensors, file) if suffix == ".safetensors" else torch.save(tensors, file)
    imported = import_lora(file, host.layer_slices(model))
    ((found, pair),) = imported.lora.pairs.items()
    assert host.layer_slices(model)[found].path == path and imported.layout == layout
    assert torch.equal(pair.down, down) and torch.equal(pair.up, up) and pair.scale == 1.0


class Bomb:
    """A pickle that would leave a file behind."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_code_in_a_pickle_is_not_executed(model, tmp_path):
    for save in (torch.save, lambda it, path: path.write_bytes(pickle.dumps(it))):
        save({"a.lora.A": Bomb(tmp_path / "executed")}, tmp_path / "lora.pth")
        with pytest.raises(ValueError, match="lora.pth is not a file of plain tensors.*never executed"):
            import_lora(tmp_path / "lora.pth", host.layer_slices(model))
        assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a.lora.A": torch.ones(3, 1)}, "no matching A"),
        ({"a.lora.A": torch.ones(3, 1), "a.lora.B": torch.ones(2, 3)}, "no matching A"),
        ({"a.lora.A": torch.ones(3, 1), "a.lora.B": torch.ones(1, 3)}, "1 of its 1 layers are not in this model, `a`"),
        ({"step": 3}, "holds no LoRA"),
        ([torch.ones(2)], "holds no LoRA"),
        ({"conv.weight": torch.ones(2)}, "no kind of LoRA"),
    ],
)
def test_what_is_no_lora_for_this_model_is_refused_by_name(model, tmp_path, content, message):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=f"odd.pth.*{message}"):
        import_lora(tmp_path / "odd.pth", host.layer_slices(model))
    (tmp_path / "odd.pth").write_bytes(b"no zip, no pickle")
    with pytest.raises(ValueError, match="odd.pth is not a file of plain tensors"):
        import_lora(tmp_path / "odd.pth", host.layer_slices(model))


def test_an_imported_lora_is_calibrated_and_used(model, clip, lora, concept, sample):
    """The whole way by the nodes: import, calibrate, gate."""
    from unguide.unguide_ops.gate.calibrate import calibrate

    path, name = next(host.new_lora_paths("unguide/theirs"))
    path = path.with_suffix(".pth")
    tensors = {}
    for key, pair in lora.pairs.items():
        place = host.layer_slices(model)[key].path
        tensors |= {f"{place}.lora.A": pair.down.T.clone(), f"{place}.lora.B": pair.up.T.clone() * pair.scale / 8}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, path)
    name = str(path.relative_to(path.parents[1]))
    assert name in nodes.LoraLoader.INPUT_TYPES()["required"]["lora_name"][0]
    imported, report = UnGuideImportLoRA.execute(model, name, 8.0).args[:2]
    assert json.loads(report)["layers"] == len(lora.pairs)
    ready, _ = calibrate(model, imported, concept, 64, 64, captions=4)
    courses = []
    sample(unguide(model, ready, SteeringConfig(), courses.append))
    assert courses[0].decisions[0].w == 0.0


# --- The stock loader as the oracle: what it makes of every weight, we make of it

FAMILIES = {it.name: it for it in TINY}
FP8 = torch.float8_e4m3fn


@pytest.fixture(scope="module")
def family():
    """A tiny model by its name."""
    made = {}

    def of(name):
        if name not in made:
            with torch.inference_mode():
                made[name] = FAMILIES[name].model()
        return made[name]

    return of


def copied(weight):
    return weight.to(torch.float32, copy=True)


def stock_weights(model, tensors):
    """What ComfyUI's Load LoRA makes of each weight that it changes, by its name."""
    patched, _ = comfy.sd.load_lora_for_models(model, None, dict(tensors), 1.0, 0.0)
    plain = model.model.state_dict()
    return {key: comfy.lora.calculate_weight(its, copied(plain[key]), key) for key, its in patched.patches.items()}


def our_weights(model, lora):
    """What our branch makes of them: rows of low-rank pairs added, whole weights changed."""
    adapter = adapter_for(model, lora)
    plain, found = host.diffusion_model(model).state_dict(), {}
    for place, pair in adapter.pairs.items():
        weight = found.setdefault(f"diffusion_model.{place.path}.weight", copied(plain[f"{place.path}.weight"]))
        weight[place.rows] += pair.scale * pair.up @ pair.down
    for name, change in adapter.changes.items():
        key = f"diffusion_model.{name}"
        found[key] = change(found.get(key, copied(plain[name])))
    return found


def assert_as_stock(model, tensors, folder, read_by=("load", "import"), as_stock=None):
    """Both nodes' readers change every weight as the stock loader does, at least one, and by more than rounding."""
    path = folder / "it.safetensors"
    save_file({key: it.contiguous() for key, it in tensors.items()}, path)
    expected = stock_weights(model, as_stock or tensors)
    plain = model.model.state_dict()
    assert expected and all(relative_error(it, plain[key].float()) > 1e-4 for key, it in expected.items())
    readers = {"load": lora_file.load_lora, "import": lambda it: import_lora(it, host.layer_names(model)).lora}
    for reader in read_by:
        lora = readers[reader](path)
        lora_file.save_lora(folder / "again.safetensors", lora)
        for found in (lora, lora_file.load_lora(folder / "again.safetensors")):
            assert found.is_finite and not found.is_zero
            ours = our_weights(model, found)
            assert ours.keys() == expected.keys()
            for key, it in expected.items():
                assert relative_error(ours[key], it) < 1e-5, (reader, key)


def kinds_for(weight, has_bias):
    """Tensors by suffix of every kind of LoRA that the host can load for a weight, by the kind's name."""
    generator = torch.Generator().manual_seed(7)
    out, *rest = weight.shape

    def some(*shape, scale=0.2):
        return scale * torch.randn(*shape, generator=generator)

    whole = {"diff": {"diff": some(*weight.shape)}, "set_weight": {"set_weight": some(*weight.shape)}}
    if weight.ndim == 1:
        return whole | {"norms": {"w_norm": some(out), **({"b_norm": some(out)} if has_bias else {})}}
    inputs, *kernel = rest
    ones = [1] * len(kernel)
    down, up = some(2, inputs, *kernel), some(out, 2, *ones)
    alpha = {"alpha": torch.tensor(3.0)}
    pair = {"lora_down.weight": down, "lora_up.weight": up}
    width = inputs * torch.Size(kernel).numel()
    loha = {f"hada_w{i}_{half}": some(*((out, 2) if half == "a" else (2, width))) for i in (1, 2) for half in "ab"}
    blocks = some(out // 2, 2, 2)
    found = whole | {
        "pair": pair | alpha,
        "pair without alpha": pair,
        "pair in halves": {key: it.half() for key, it in (pair | alpha).items()},
        "pair in bfloat16": {key: it.bfloat16() for key, it in (pair | alpha).items()},
        "pair in 8 bits": {key: it.to(FP8) for key, it in pair.items()},
        "alpha as a whole number": pair | {"alpha": torch.tensor([4])},
        "DoRA": pair | alpha | {"dora_scale": weight.flatten(1).norm(dim=1).view(-1, 1, *ones) * 1.3},
        "LoHa": loha | alpha,
        "LoHa in 8 bits": {key: it.to(FP8) for key, it in loha.items()},
        "OFT": {"oft_blocks": blocks, **alpha},
        "BOFT": {"oft_blocks": blocks[None], "rescale": some(out, 1, *ones), **alpha},
        "the shape that it has": pair | {"reshape_weight": torch.tensor(weight.shape)},
    }
    if inputs % 2 == 0:
        small = [some(out // 2, inputs // 2, *kernel), some(2, 2)]
        found |= {
            "LoKr": {"lokr_w1": small[1], "lokr_w2": small[0], "alpha": torch.tensor(2.0)},
            "LoKr of full rank, alpha as AI-Toolkit writes it": {
                "lokr_w1": small[1], "lokr_w2": small[0], "alpha": torch.tensor(9999999999.0).half()},
            "LoKr in halves": {"lokr_w1": small[1], "lokr_w2_a": some(out // 2, 2), **alpha,
                               "lokr_w2_b": some(2, inputs // 2 * torch.Size(kernel).numel())},
        }  # fmt: skip
    if kernel:
        found |= {
            "LoCon, CP": {"lora_down.weight": some(2, inputs, 1, 1), "lora_mid.weight": some(2, 2, *kernel),
                          "lora_up.weight": some(out, 2, 1, 1), **alpha},
            "LoHa, CP": {f"hada_w{i}_{half}": some(2, out if half == "a" else inputs) for i in (1, 2) for half in "ab"}
            | {f"hada_t{i}": some(2, 2, *kernel) for i in (1, 2)} | alpha,
        }  # fmt: skip
    else:
        found["GLoRA"] = {"a1.weight": some(inputs, 2), "a2.weight": some(2, inputs), "b1.weight": some(out, 2),
                          "b2.weight": some(2, inputs), **alpha}  # fmt: skip
        found["GLoRA, older"] = {"a1.weight": some(2, inputs), "a2.weight": some(inputs, 2),
                                 "b1.weight": some(2, inputs), "b2.weight": some(out, 2), **alpha}  # fmt: skip
        halves = [*layouts.PAIR_SUFFIXES, ("_lora.down.weight", "_lora.up.weight")]
        found |= {f"halves {low}": {low: down, high: up} for low, high in halves}
    if has_bias:
        found["pair and bias"] = pair | alpha | {"diff_b": some(out)}
        found["bias"] = {"diff_b": some(out)}
    return found


def where_of(key):
    """What of which weight the host's key means, without what it does to the values."""
    return key if isinstance(key, str) else key[:2]


def named(layer, its):
    return {f"{layer}{'' if suffix.startswith('_') else '.'}{suffix}": it for suffix, it in its.items()}


@pytest.mark.parametrize(
    "layer",
    [
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out",
        "diffusion_model.time_embed.0",
        "lora_unet_down_blocks_0_resnets_0_conv1",
        "unet.down_blocks.0.attentions.0.proj_in",
        "diffusion_model.input_blocks.1.0.in_layers.0",
    ],
)
def test_every_kind_changes_weights_as_the_stock_loader_does(family, tmp_path, layer):
    model = family("SD 1.x")
    key = comfy.lora.model_lora_keys_unet(model.model, {})[layer]
    state = model.model.state_dict()
    for its in kinds_for(state[key], key.replace(".weight", ".bias") in state).values():
        assert_as_stock(model, named(layer, its), tmp_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_under_every_name_that_the_host_knows_a_lora_acts_as_in_the_stock_loader(family, tmp_path, name):
    """Fused projections by their parts, norms of their own, rows that it swaps: a pair or a whole weight for each."""
    model = family(name)
    state = model.model.state_dict()
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    every = {}  # one name of each spelling for each kind of weight
    for layer, key in names.items():
        spelling = "".join(it for it in layer if not it.isdigit())
        weight = key if isinstance(key, str) else key[0]
        there = weight in state and state[weight].is_floating_point()
        if there and (isinstance(key, str) or not key[1] or sum(key[1][1:]) <= state[weight].shape[key[1][0]]):
            every.setdefault((spelling, isinstance(key, str)), layer)
    assert len(every) > 20
    loras, held = [], []  # in each, a weight has one name
    for layer in every.values():
        key = names[layer]
        weight, *where = (key,) if isinstance(key, str) else key
        part = state[weight].narrow(*where[0]) if where and where[0] else state[weight]
        kinds = kinds_for(part, False) if part.ndim in (1, 2, 4) else {"diff": {"diff": 0.1 * torch.ones(part.shape)}}
        number = next((it for it, weights in enumerate(held) if where_of(key) not in weights), len(held))
        if number == len(held):
            loras.append({})
            held.append(set())
        held[number].add(where_of(key))
        loras[number] |= named(layer, kinds.get("pair", kinds["diff"]))
    for its in loras:
        assert_as_stock(model, its, tmp_path)


SLIDER = "lora_unet_transformer_blocks_0_attn_to_q"
SPELT = [
    ("Flux dev", SLIDER, "transformer.transformer_blocks.0.attn.to_q"),
    ("Flux dev", "lora_unet_single_transformer_blocks_0_proj_out",
     "lora_transformer_single_transformer_blocks_0_proj_out"),
    ("Flux dev", "base_model.model.transformer_blocks.0.attn.add_k_proj",
     "transformer.transformer_blocks.0.attn.add_k_proj"),
    ("Flux dev", "double_blocks.0.img_attn.qkv", "lora_unet_double_blocks_0_img_attn_qkv"),
    ("Wan 2.1", "lora_unet__blocks_1_cross_attn_k", "diffusion_model.blocks.1.cross_attn.k"),
    ("Wan 2.1", "pipe.dit.blocks.0.cross_attn.k", "diffusion_model.blocks.0.cross_attn.k"),
    ("SD3", "lora_unet_transformer_blocks_0_attn_add_v_proj", "transformer.transformer_blocks.0.attn.add_v_proj"),
    ("SDXL", "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
     "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"),
    ("SDXL", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0",
     "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0"),
    ("Qwen-Image", "lora_transformer_transformer_blocks_0_attn_add_k_proj", "transformer_blocks.0.attn.add_k_proj"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "theirs", "known"), SPELT)
def test_spellings_of_names_that_the_host_passes_over_are_imported(family, tmp_path, name, theirs, known):
    """Import acts as the stock loader with the host's own name; Load says who reads it."""
    model = family(name)
    assert theirs not in comfy.lora.model_lora_keys_unet(model.model, {})
    key = comfy.lora.model_lora_keys_unet(model.model, {})[known]
    weight, *where = (key,) if isinstance(key, str) else key
    part = model.model.state_dict()[weight]
    its = kinds_for(part.narrow(*where[0]) if where and where[0] else part, False)["pair"]
    assert_as_stock(model, named(theirs, its), tmp_path, ["import"], named(known, its))
    with pytest.raises(ValueError, match="1 of its 1 layers are not there.*try UnGuide Import LoRA"):
        unguide(model, lora_file.load_lora(tmp_path / "it.safetensors"), SteeringConfig(w=0.0))


@pytest.mark.parametrize("name", FAMILIES)
def test_no_two_layers_of_a_model_are_spelt_alike(family, name):
    from unguide.unguide_ops.files.importers import bare_name

    keys = {}
    for layer, key in comfy.lora.model_lora_keys_unet(family(name).model, {}).items():
        assert keys.setdefault(bare_name(layer), where_of(key)) == where_of(key), layer


# --- What cannot act is said, and does not keep the rest from acting

TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
ASIDE = {
    "kohya's text encoder": ({f"{TEXT}.lora_down.weight": torch.ones(1, 4), f"{TEXT}.alpha": torch.tensor(1.0)},
                             layouts.TEXT_ENCODERS),
    "ComfyUI's text encoder": ({"text_encoders.clip_l.transformer.text_model.final_layer_norm.diff": torch.ones(4)},
                               layouts.TEXT_ENCODERS),
    "diffusers' text encoder": ({"text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": torch.ones(1, 4)},
                                layouts.TEXT_ENCODERS),
    "its buffers": ({"text_encoder.embeddings.position_ids": torch.arange(77)}, layouts.TEXT_ENCODERS),
    "T5 by OneTrainer": ({"lora_te3_encoder_block_0_layer_0_SelfAttention_k.lora_up.weight": torch.ones(4, 1)},
                         layouts.TEXT_ENCODERS),
    "OneTrainer's embeddings": ({"bundle_emb.word.clip_l": torch.ones(2, 8)}, layouts.EMBEDDINGS),
    "an embedding": ({"emb_params": torch.ones(2, 8)}, layouts.EMBEDDINGS),
    "peft's DoRA": ({f"{KOHYA}.lora_magnitude_vector": torch.ones(64)}, layouts.UNKNOWN),
    "peft's bias": ({f"{KOHYA}.lora_B.bias": torch.ones(64)}, layouts.UNKNOWN),
    "what a trainer counts": ({"step": torch.tensor(200)}, layouts.UNKNOWN),
    "IA3": ({"lora_unet_mid_block_attentions_0_proj_in.on_input": torch.tensor(True)}, layouts.UNKNOWN),
    "an alpha alone": ({"lora_unet_mid_block_attentions_0_proj_in.alpha": torch.tensor(1.0)}, layouts.UNKNOWN),
    "a layer that it lacks": ({"lora_unet_nowhere.lora_down.weight": torch.ones(1, 4),
                               "lora_unet_nowhere.lora_up.weight": torch.ones(4, 1)}, layouts.NO_LAYER),
    "a layer twice": ({f"unet.{DIFFUSERS}.to_k.lora_A.weight": torch.ones(1, 4),
                       f"unet.{DIFFUSERS}.to_k.lora_B.weight": torch.ones(4, 1)}, layouts.DUPLICATE_LAYERS),
}  # fmt: skip


@pytest.mark.parametrize("extra", ASIDE)
@pytest.mark.parametrize("first", [True, False])
def test_what_cannot_act_is_named_with_its_reason_and_the_rest_acts(model, tmp_path, caplog, extra, first):
    down, up = halves(model)
    more, why = ASIDE[extra]
    pair = {f"{KOHYA}.lora_down.weight": down, f"{KOHYA}.lora_up.weight": up}
    tensors = more | pair if first and why != layouts.DUPLICATE_LAYERS else pair | more
    torch.save(tensors, tmp_path / "it.pt")  # keeps their order
    imported = import_lora(tmp_path / "it.pt", host.layer_names(model))
    assert imported.layout == "kohya" and imported.left_out.keys() == {why}
    assert "it.pt: left out, as it cannot act" in caplog.text and why in caplog.text
    report = imported.report()
    assert report["layers"] == 1 and report["left_out"][why]["number"] == len(imported.left_out[why])
    assert report["text_encoder_left_out"] == (len(more) if why == layouts.TEXT_ENCODERS else 0)
    assert report["embeddings_left_out"] == (len(more) if why == layouts.EMBEDDINGS else 0)
    assert_as_stock(model, pair, tmp_path)
    ours, alone = (
        our_weights(model, imported.lora),
        our_weights(model, lora_file.load_lora(tmp_path / "it.safetensors")),
    )
    assert ours.keys() == alone.keys() and all(torch.equal(ours[key], alone[key]) for key in ours)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"bundle_emb.word.clip_l": torch.ones(2, 8)}, "nothing for the diffusion model: only 1 tensor of embeddings"),
        ({f"{TEXT}.alpha": torch.ones(1)}, "nothing for the diffusion model: only 1 tensor for text encoders"),
        ({f"{KOHYA}.alpha": torch.ones(1)}, "no kind of LoRA that ComfyUI can load"),
        ({f"{KOHYA}.weight": torch.ones(64, 192)}, "no kind of LoRA that ComfyUI can load"),
    ],
)
def test_no_kind_of_lora_is_said_only_of_what_the_host_loads_nothing_from(model, tmp_path, tensors, message):
    save_file(tensors, tmp_path / "it.safetensors")
    assert not comfy.lora.load_lora(dict(tensors), comfy.lora.model_lora_keys_unet(model.model, {}), False)
    with pytest.raises(ValueError, match=f"it.safetensors cannot be imported.*{message}"):
        import_lora(tmp_path / "it.safetensors", host.layer_names(model))


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("lora.pth", {"a.lora.A": torch.ones(3, 1), "a.lora.B": torch.ones(1, 3)}),
        ("lora.safetensors", {"a.lora.A": torch.ones(3, 1), "a.lora.B": torch.ones(1, 3)}),
        ("uso.safetensors", {"double_blocks.18.processor.qkv_lora2.up.weight": torch.ones(3, 1)}),
    ],
)
def test_load_points_to_import_where_that_reads_the_file(tmp_path, name, tensors):
    path = tmp_path / name
    torch.save(tensors, path) if name.endswith(".pth") else save_file(tensors, path)
    with pytest.raises(ValueError, match=f"{name}.*UnGuide Import LoRA"):
        lora_file.load_lora(path)


def test_a_control_lora_is_refused_as_such(family, tmp_path):
    """Black Forest Labs' layout: it gives Flux a second picture to look at, and the stock loader widens its input."""
    model = family("Flux dev")
    tensors = {"img_in.lora_A.weight": torch.ones(1, 128), "img_in.lora_B.weight": torch.ones(64, 1),
               "img_in.lora_B.bias": torch.ones(64), "single_blocks.0.norm.key_norm.scale": torch.ones(32)}  # fmt: skip
    save_file(tensors, tmp_path / "canny.safetensors")
    imported = import_lora(tmp_path / "canny.safetensors", host.layer_names(model))
    with pytest.raises(ValueError, match=r"another shape, \[64, 128\] in place of \[64, 64\], as control LoRAs"):
        adapter_for(model, imported.lora)


def test_the_layouts_that_the_host_converts_are_imported_as_it_converts_them(family, tmp_path):
    model = family("Wan 2.1")
    tensors = {}
    for part, outputs in (("cross_attn_k", 64), ("self_attn_q", 64)):
        tensors[f"lora_unet__blocks_0_{part}.lora_down.weight"] = torch.ones(1, 64)
        tensors[f"lora_unet__blocks_0_{part}.lora_up.weight"] = torch.ones(outputs, 1)
    assert_as_stock(model, tensors, tmp_path, ["import"])


@pytest.mark.parametrize(
    ("its", "message"),
    [
        ({"diff": torch.ones(3, 3)}, r"made for a weight of \[3, 3\], the model's is \[64, 192\]"),
        ({"set_weight": torch.ones(3, 5)}, "cannot use"),
    ],
)
def test_whole_weights_of_another_shape_are_refused(model, its, message):
    with pytest.raises(ValueError, match=message):
        our_weights(model, ConceptLoRA({}, other_tensors={KOHYA: its}))


def test_parts_that_do_not_fit_the_layer_are_warned_of(model, caplog):
    loha = {f"hada_w{i}_{half}": torch.ones(3, 3) for i in (1, 2) for half in "ab"}
    our_weights(model, ConceptLoRA({}, other_tensors={KOHYA: loha}))
    assert "changes nothing in `diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight`" in caplog.text


def test_both_nodes_show_what_they_leave_out(model):
    down, up = halves(model)
    pair = {f"{KOHYA}.lora_down.weight": down, f"{KOHYA}.lora_up.weight": up}
    shown = {}
    for name, more in (("whole", {}), ("partly", {"bundle_emb.word.clip_l": torch.ones(2, 8)})):
        path, listed = next(host.new_lora_paths(f"unguide/{name}"))
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(pair | more, path)
        ran = {"load": UnGuideLoadLoRA.execute(listed), "import": UnGuideImportLoRA.execute(model, listed, 8.0)}
        shown |= {(name, node): it.ui.as_dict()["text"][0] if it.ui else "" for node, it in ran.items()}
    left_out = "left out, as it cannot act: 1 tensor of embeddings of words (`bundle_emb.word.clip_l`)"
    assert shown == {
        ("whole", "load"): "", ("whole", "import"): "kohya: 1 layers, rank 2",
        ("partly", "load"): left_out, ("partly", "import"): f"kohya: 1 layers, rank 2\n{left_out}",
    }  # fmt: skip
