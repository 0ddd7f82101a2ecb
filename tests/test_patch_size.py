"""What a LoRA of any kind makes of a weight is reckoned first: what fits passes, what is far more does not."""

import comfy.lora
import pytest
import torch
from unguide.unguide_ops import host
from unguide.unguide_ops.host import patching
from unguide.unguide_ops.host.patch_size import elements_allocated, meta_tensors

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
RANK = 64


def of_shapes(**shapes):
    """A layer's tensors by suffix; `__` is a dot."""
    return {suffix.replace("__", "."): torch.ones(shape) for suffix, shape in shapes.items()}


def fitting(outputs, inputs, *kernel):
    """A layer's tensors of every kind, as their makers write them for a weight of this shape."""
    ones = [1] * len(kernel)
    loha = {f"hada_w{it}_{half}": (outputs, RANK) if half == "a" else (RANK, inputs * torch.Size(kernel).numel())
            for it in (1, 2) for half in "ab"}  # fmt: skip
    dora = {"dora_scale": (1, inputs, *ones)}
    kinds = {
        "LoCon": {"lora_up__weight": (outputs, RANK, *ones), "lora_down__weight": (RANK, inputs, *kernel), "alpha": ()},
        "LoHa": loha | {"alpha": ()},
        "LoHa, DoRA": loha | dora,
        "LoKr": {"lokr_w1": (8, 8), "lokr_w2": (outputs // 8, inputs // 8, *kernel)},
        "LoKr, DoRA": {"lokr_w1_a": (8, 4), "lokr_w1_b": (4, 8), "lokr_w2": (outputs // 8, inputs // 8, *kernel),
                       **dora},
        "GLoRA": {"a1__weight": (inputs, RANK, *ones), "a2__weight": (RANK, inputs, *ones),
                  "b1__weight": (outputs, RANK, *ones), "b2__weight": (RANK, inputs, *kernel)},
        "OFT": {"oft_blocks": (outputs // 32, 32, 32), "alpha": ()},
        "BOFT": {"oft_blocks": (4, outputs // 8, 8, 8), "rescale": (outputs, 1, *ones), "alpha": ()},
        "difference": {"diff": (outputs, inputs, *kernel)},
        "whole": {"set_weight": (outputs, inputs, *kernel)},
    }  # fmt: skip
    if kernel:
        kinds["LoCon, Tucker, DoRA"] = {"lora_up__weight": (outputs, RANK, 1, 1),
                                        "lora_mid__weight": (RANK, RANK, *kernel),
                                        "lora_down__weight": (RANK, inputs, 1, 1), **dora}  # fmt: skip
        kinds["LoHa, Tucker, DoRA"] = {
            f"hada_w{it}_{half}": (RANK, outputs if half == "a" else inputs) for it in (1, 2) for half in "ab"
        } | {"hada_t1": (RANK, RANK, *kernel), "hada_t2": (RANK, RANK, *kernel), **dora}
        kinds["LoKr, Tucker, DoRA"] = {"lokr_w1": (8, 8), "lokr_w2_a": (RANK, outputs // 8),
                                       "lokr_t2": (RANK, RANK, *kernel), "lokr_w2_b": (RANK, inputs // 8),
                                       **dora}  # fmt: skip
    return {kind: of_shapes(**its) for kind, its in kinds.items()}


SHAPES = [(1280, 1280), (640, 320, 3, 3)]
CASES = [(shape, kind) for shape in SHAPES for kind in fitting(*shape)]


@pytest.mark.parametrize(("shape", "kind"), CASES, ids=str)
def test_a_lora_that_fits_makes_far_less_than_it_may_and_all_is_counted(shape, kind):
    tensors = fitting(*shape)[kind]
    patching._check_fit(NAME, tensors, torch.Size(shape))

    def made(its, weight):
        patch = comfy.lora.load_lora({f"{NAME}.{end}": it for end, it in its.items()}, {NAME: NAME}, False)[NAME]
        return elements_allocated(lambda: comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], weight, NAME))

    reckoned = made(meta_tensors(tensors), torch.empty(shape, device="meta"))
    assert reckoned <= 0.75 * patching.MAX_GROWTH * torch.Size(shape).numel()
    really = made({**tensors, **({"alpha": torch.tensor(0.0)} if "alpha" in tensors else {})}, torch.zeros(shape))
    assert 0.5 * reckoned <= really <= reckoned + 1000


N, MANY = 3000, 20_000
LARGE = {
    "lora_mid": {"lora_up__weight": (64, 1, 1, 1), "lora_mid__weight": (1, 1, 400, 400),
                 "lora_down__weight": (1, 5000, 1, 1)},
    "lora_mid of a long kernel": {"lora_up__weight": (64, 9, 1, 1), "lora_mid__weight": (9, 9, 1, MANY),
                                  "lora_down__weight": (9, 192, 1, 1)},
    "lora, both long": {"lora_up__weight": (MANY, 1, 1, 1), "lora_down__weight": (1, MANY, 1, 1)},
    "loha": {f"hada_w{it}_{half}": (MANY, 1) if half == "a" else (1, MANY) for it in (1, 2) for half in "ab"},
    "hada_t1": {f"hada_w{it}_{half}": (1, N) for it in (1, 2) for half in "ab"}
               | {"hada_t1": (1, 1, 2, 2), "hada_t2": (1, 1, 2, 2)},
    "lokr_w1, lokr_w2": {"lokr_w1": (300, 300), "lokr_w2": (300, 300)},
    "lokr_w1_a": {"lokr_w1_a": (MANY, 1), "lokr_w1_b": (1, MANY), "lokr_w2": (1, 1)},
    "lokr_w2_a": {"lokr_w1": (1, 1), "lokr_w2_a": (MANY, 1), "lokr_w2_b": (1, MANY)},
    "lokr_t2": {"lokr_w1": (1, 1), "lokr_w2_a": (1, N), "lokr_t2": (1, 1, 2, 2), "lokr_w2_b": (1, N)},
    "lokr_t2 alone": {"lokr_w1": (1, 1), "lokr_w2_a": (1, 1), "lokr_t2": (1, 1, N, N), "lokr_w2_b": (1, 1)},
    "glora": {"a1__weight": (192, MANY), "a2__weight": (MANY, 192), "b1__weight": (MANY, 1), "b2__weight": (1, MANY)},
    "oft": {"oft_blocks": (1, N, N)},
    "boft": {"oft_blocks": (1, 1, N, N), "alpha": ()},
    "boft, often": {"oft_blocks": (4000, 1, 64, 64), "alpha": ()},
    "dora": {"lora_up__weight": (64, 1), "lora_down__weight": (1, 192), "dora_scale": (30 * 2**20, 1)},
}  # fmt: skip


@pytest.mark.parametrize("kind", LARGE)
def test_small_files_of_any_kind_that_make_far_more_are_refused(model, kind):
    with pytest.raises(ValueError, match="would make [0-9]+ numbers of a weight of 12288"):
        host.weight_changes(model, {NAME: of_shapes(**LARGE[kind])})
