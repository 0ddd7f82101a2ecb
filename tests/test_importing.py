"""LoRAs made elsewhere: every layout gives the same predictions as its own formula, and no code in a file is run."""

import json
import os
import pickle

import nodes
import pytest
import torch
from precision import CLOSE
from safetensors.torch import save_file
from unguide.nodes.importing import UnGuideImportLoRA
from unguide.unguide_ops import host, targets
from unguide.unguide_ops.importing import import_lora
from unguide.unguide_ops.steering import SteeringSettings
from unguide.unguide_ops.unguidance import unguide

from dev.bench.two_copies import relative_error

KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
DIFFUSERS = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"


def halves(model, name=KOHYA, rank=2):
    generator = torch.Generator().manual_seed(4)
    layer = host.diffusion_model(model).get_submodule(host.places(model)[name].path)
    down = torch.randn(rank, layer.in_features, generator=generator)
    return down, 0.3 * torch.randn(layer.out_features, rank, generator=generator)


def drawn_at_w_0(model, lora, sample):
    return sample(unguide(model, lora, SteeringSettings(w=0.0, sides="cond and uncond")))


@pytest.mark.parametrize("choice", [targets.CROSS_ATTENTION, targets.ALL_BUT_CROSS_ATTENTION])
def test_the_authors_files_predict_what_their_formula_says(model, sample, tmp_path, choice):
    """y = W x + 8 (x A) B in every layer of the target set, written out here over the model's own Linears."""
    linears = targets.select(host.diffusion_model(model), choice).linears
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for path, layer in linears.items():
        tensors[f"{path}.lora.A"] = torch.randn(layer.in_features, 1, generator=generator) / 16
        tensors[f"{path}.lora.B"] = torch.randn(1, layer.out_features, generator=generator) / 16
    torch.save(tensors, tmp_path / "lora.pth")
    imported = import_lora(tmp_path / "lora.pth", host.places(model))
    assert imported.layout == "UnGuide authors" and len(imported.lora.pairs) == len(linears)
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
    path = host.places(model)[KOHYA].path
    names = [name.replace("HALF", half).replace("PATH", path) for half in its]
    tensors = dict(zip(names, (down, up), strict=True))
    file = tmp_path / f"it{suffix}"
    save_file(tensors, file) if suffix == ".safetensors" else torch.save(tensors, file)
    imported = import_lora(file, host.places(model))
    ((found, pair),) = imported.lora.pairs.items()
    assert host.places(model)[found].path == path and imported.layout == layout
    assert torch.equal(pair.down, down) and torch.equal(pair.up, up) and pair.alpha == 1.0


class Bomb:
    """A pickle that would leave a file behind."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_code_in_a_pickle_is_not_executed(model, tmp_path):
    for save in (torch.save, lambda it, path: path.write_bytes(pickle.dumps(it))):
        save({"a.lora.A": Bomb(tmp_path / "executed")}, tmp_path / "lora.pth")
        with pytest.raises(ValueError, match="lora.pth is no file of plain tensors.*never executed"):
            import_lora(tmp_path / "lora.pth", host.places(model))
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
        import_lora(tmp_path / "odd.pth", host.places(model))
    (tmp_path / "odd.pth").write_bytes(b"no zip, no pickle")
    with pytest.raises(ValueError, match="odd.pth is no file of plain tensors"):
        import_lora(tmp_path / "odd.pth", host.places(model))


def test_an_imported_lora_is_calibrated_and_used(model, clip, lora, concept, sample):
    """The whole way by the nodes: import, calibrate, gate."""
    from unguide.unguide_ops.calibrate import calibrate

    path, name = host.new_lora_path("unguide/theirs")
    path = path.with_suffix(".pth")
    tensors = {}
    for key, pair in lora.pairs.items():
        place = host.places(model)[key].path
        tensors |= {f"{place}.lora.A": pair.down.T.clone(), f"{place}.lora.B": pair.up.T.clone() * pair.alpha / 8}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, path)
    name = str(path.relative_to(path.parents[1]))
    assert name in nodes.LoraLoader.INPUT_TYPES()["required"]["lora_name"][0]
    imported, report = UnGuideImportLoRA.execute(model, name, 8.0).args[:2]
    assert json.loads(report)["layers"] == len(lora.pairs)
    ready, _ = calibrate(model, imported, concept, 64, 64, captions=4)
    courses = []
    sample(unguide(model, ready, SteeringSettings(), courses.append))
    assert courses[0].decisions[0].w == -1.0
