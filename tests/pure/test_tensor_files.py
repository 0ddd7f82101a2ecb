"""Files of tensors: what the libraries write is read as they read it; what is read is a copy, by one reader."""

import os
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from unguide.unguide_ops.files import lora_file
from unguide.unguide_ops.files.layouts import file_layers
from unguide.unguide_ops.files.torch_pickle import read_torch_pickle
from unguide.unguide_ops.untrusted import check_parts
from untrusted_files.corpus import kohya
from untrusted_files.pickled import archive, tensor, two_directories

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
         torch.uint8, torch.bool)  # fmt: skip


def some(*shape, dtype=torch.float32):
    return (10 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == it.dtype and one[name].shape == it.shape and torch.equal(one[name], it)
        for name, it in other.items()
    )


def shared():
    whole = some(6, 4)
    return {"whole": whole, "part": whole[2:4], "turned": whole.T, "column": whole[:, 1]}


@pytest.mark.parametrize(
    "make",
    [
        lambda: {str(dtype): some(3, 4, dtype=dtype) for dtype in TYPES},
        shared,
        lambda: {"a": some(2, 3, 4, 5).permute(3, 1, 0, 2), "b": some(), "c": some(0, 4), "d": some(5)[:0]},
        lambda: {"a": torch.nn.Parameter(some(3, 4)), "b": some(2).requires_grad_()},
        lambda: torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict(),
        lambda: OrderedDict((f"{number}.weight", some(2, 2)) for number in range(500)),
        lambda: {3: some(2)},
    ],
)
def test_what_torch_saves_is_read_as_torch_reads_it(tmp_path, make):
    with torch.inference_mode(False):
        its = make()
        torch.save(its, tmp_path / "it.pth")
        torch.save({"epoch": 3, "best": 0.5, "state_dict": its, "more": [1, ("a", None, True)]}, tmp_path / "more.pth")
        expected = torch.load(tmp_path / "it.pth", weights_only=True)
        for name in ("it.pth", "more.pth"):
            assert same(read_torch_pickle(tmp_path / name), {str(key): it.detach() for key, it in expected.items()})


def test_what_the_library_writes_is_read_as_it_reads_it(tmp_path):
    more = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.complex64)
    its = {str(dtype): some(3, 4).to(dtype) for dtype in (*TYPES, *more)} | {"none": some(0, 3), "one": some()}
    save_file(its, tmp_path / "it.safetensors", {"a": 'b"\\"{[,', "\u00e4": ""})
    found, metadata = lora_file.read_tensors(tmp_path / "it.safetensors")
    bits = [{name: it.view(torch.uint8) if it.ndim else it for name, it in of.items()}
            for of in (found, load_file(tmp_path / "it.safetensors"))]  # fmt: skip
    assert same(*bits) and {name: it.dtype for name, it in found.items()} == {
        name: it.dtype for name, it in its.items()
    }
    assert metadata == {"a": 'b"\\"{[,', "\u00e4": ""}


def overwrite(file, size):
    file.seek(size // 2)
    file.write(b"\xff" * (size // 2))


@pytest.mark.parametrize("change", [lambda file, size: file.truncate(9), overwrite])
def test_what_becomes_of_its_file_does_not_reach_a_loaded_lora(tmp_path, change):
    path = tmp_path / "it.safetensors"
    path.write_bytes(save(kohya(lora_down__weight=torch.ones(2, 500_000), lora_up__weight=torch.ones(64, 2))))
    (pair,) = lora_file.load_lora(path).pairs.values()
    with path.open("r+b") as file:
        change(file, os.fstat(file.fileno()).st_size)
    assert pair.down.eq(1).all() and pair.up.eq(1).all()


def test_of_two_directories_in_a_zip_none_is_believed(tmp_path):
    """Python's reader takes one, torch's another: the case is real, and no reader but ours is asked."""
    one, other = (archive(tensor(1), **{"data/0": it}) for it in (b"\0\0\x80?", b"\0\0\0@"))
    (tmp_path / "it.pth").write_bytes(two_directories(one, other))
    assert torch.load(tmp_path / "it.pth", weights_only=True)["a.lora.A"].item() == 2
    with pytest.raises(ValueError, match="as if there were two"):
        read_torch_pickle(tmp_path / "it.pth")
    (tmp_path / "it.pth").write_bytes(one)
    assert read_torch_pickle(tmp_path / "it.pth")["a.lora.A"].item() == 1


def test_torch_is_never_asked_to_load(tmp_path, monkeypatch):
    torch.save({"a": some(2)}, tmp_path / "it.pth")
    monkeypatch.setattr(torch, "load", None)
    assert read_torch_pickle(tmp_path / "it.pth").keys() == {"a"}


@pytest.mark.parametrize(
    ("json", "parts"),
    [(b"[1,2,[3]]", 4), (b'{"a":"{[,","b":"\\"{{{"}', 2), (b'{"a\\\\":1,"b":",,,\\\\"}', 2), (b'["",""]', 2)],
)
def test_parts_of_json_are_counted_outside_of_its_texts(json, parts):
    check_parts(json, parts)
    with pytest.raises(ValueError, match="more than"):
        check_parts(json, parts - 1)


def test_a_lora_takes_no_more_memory_than_its_file_until_it_acts():
    its = kohya(lora_down__weight=some(2, 192).to(torch.float8_e5m2), lora_up__weight=some(64, 2).half())
    (pair,) = file_layers(its).pairs.values()
    assert {it.dtype for it in vars(pair).values() if isinstance(it, torch.Tensor)} == {torch.float8_e5m2, torch.half}
    assert pair.down.dtype == pair.up.dtype == torch.float32


def test_a_rank_above_all_that_a_layer_has_is_refused():
    with pytest.raises(ValueError, match="has rank 1025 for 192 inputs and 64 outputs, and may have 1024"):
        file_layers(kohya(lora_down__weight=torch.ones(1025, 192), lora_up__weight=torch.ones(64, 1025)))
