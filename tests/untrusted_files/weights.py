"""LoRAs of weights that must not be calculated with, and of some that may."""

import torch
from safetensors.torch import save
from untrusted_files.builders import Builder, Table
from untrusted_files.builders import lora_file as file
from untrusted_files.corpus import CALIBRATION, INPUTS, LAYER, OUTPUTS, kohya, lower_half, unguide_lora
from untrusted_files.metadata import packed_prompt
from untrusted_files.parsers import demo

nan, infinity = float("nan"), float("inf")
WITHOUT_PAIR = {"lora_down__weight": None, "lora_up__weight": None, "alpha": None}


def lora(**changes: torch.Tensor | float | None) -> Builder:
    """A good LoRA with changes in its tensors, as `corpus.kohya` takes them."""
    return file(lambda: save(kohya(**{name: torch.tensor(value) if isinstance(value, float | int) else value
                                      for name, value in changes.items()})))  # fmt: skip


def down(dtype: torch.dtype) -> Builder:
    """A LoRA whose lower half is of this type."""
    return lora(lora_down__weight=lower_half(1.0).to(dtype))


def shapes(**shapes: tuple[int, ...]) -> Builder:
    """A LoRA of ones in these shapes, by suffix (`__` is a dot)."""
    return file(lambda: save({f"{LAYER}.{name.replace('__', '.')}": torch.ones(it) for name, it in shapes.items()}))


def gated(**shapes: tuple[int, ...]) -> Builder:
    """A calibrated LoRA with random tensors of these shapes as its target prompt."""
    return file(lambda: unguide_lora(
        calibration={**CALIBRATION, "base": demo()[3]},
        target_prompt=packed_prompt(**{name: torch.randn(shape) for name, shape in shapes.items()})))  # fmt: skip


CASES: Table = {
    "NaN": ("lora", lora(lora_down__weight=lower_half(nan)), "down.weight` has .*are NaN, infinite"),
    "one NaN at the end": ("lora", lora(lora_down__weight=lower_half(nan, -1)), "are NaN, infinite"),
    "infinite": ("lora", lora(lora_up__weight=torch.full((OUTPUTS, 2), infinity)), "are NaN, infinite"),
    "NaN in whole weights": ("lora", lora(**WITHOUT_PAIR, diff=torch.full((OUTPUTS, INPUTS), nan)), "NaN, infinite"),
    "beyond half precision": ("lora", lora(lora_down__weight=lower_half(1e30)), "beyond 65504"),
    "integers": ("lora", down(torch.int64), "of type torch.int64"),
    "booleans": ("lora", down(torch.bool), "of type torch.bool"),
    "complex numbers": ("lora", down(torch.complex64), "of type torch.complex64"),
    "8-bit floats": ("lora", down(torch.float8_e4m3fn), ""),
    "another shape": ("lora", lora(lora_down__weight=torch.ones(3, INPUTS)), "has shapes"),
    "one dimension": ("lora", lora(lora_down__weight=torch.ones(INPUTS)), "has shapes"),
    "no dimension": ("lora", lora(lora_down__weight=1.0), "has shapes"),
    "rank 0": ("lora", lora(lora_down__weight=torch.ones(0, INPUTS), lora_up__weight=torch.ones(OUTPUTS, 0)),
               "has 0 numbers"),
    "no upper half": ("lora", lora(lora_up__weight=None), "no upper one"),
    "alpha NaN": ("lora", lora(alpha=nan), "alpha` has weights"),
    "alpha infinite": ("lora", lora(alpha=-infinity), "alpha` has weights"),
    "alpha huge": ("lora", lora(alpha=1e30), "alpha` has weights"),
    "alpha negative": ("lora", lora(alpha=-1.0), ""),
    "alpha a whole number": ("lora", lora(alpha=4), ""),
    "alpha two numbers": ("lora", lora(alpha=torch.ones(2)), "must be one"),
    "another model's layer": ("drawn", lora(lora_down__weight=torch.ones(2, 7)), "another model family"),
    "another text encoder's prompt": ("drawn", gated(cross_attn=(1, 77, 5)), "encoded for another model"),
    "a prompt that is an area, a mask and a control": ("drawn", gated(
        cross_attn=(1, 77, INPUTS), pooled_output=(1, INPUTS), area=(4,), mask=(1, 8, 8), control=(1,)), ""),
    "a LoHa without its second half": ("drawn", shapes(hada_w1_a=(2, INPUTS)), "cannot use"),
    "a LoHa whose halves do not fit": ("drawn", shapes(
        hada_w1_a=(2, INPUTS), hada_w1_b=(2, INPUTS), hada_w2_a=(2, INPUTS), hada_w2_b=(2, INPUTS)), "cannot use"),
    "a LoHa of 40 GB": ("drawn", shapes(
        hada_w1_a=(10**5, 1), hada_w1_b=(1, 10**5), hada_w2_a=(10**5, 1), hada_w2_b=(1, 10**5)), "would make"),
    "a LoKr of 40 GB": ("drawn", shapes(lokr_w1=(1000, 100), lokr_w2=(1000, 100)), "would make"),
    "a middle part of 1.4 MB": ("drawn", shapes(
        lora_up__weight=(64, 1, 1, 1), lora_mid__weight=(1, 1, 600, 600), lora_down__weight=(1, 3000, 1, 1)),
        "would make"),
    "a LoKr's Tucker core": ("drawn", shapes(
        lokr_w1=(1, 1), lokr_w2_a=(1, 3200), lokr_t2=(1, 1, 15, 15), lokr_w2_b=(1, 3200)), "would make"),
    "a LoHa's Tucker core": ("drawn", shapes(
        hada_w1_a=(1, 3200), hada_w1_b=(1, 3200), hada_w2_a=(1, 3200), hada_w2_b=(1, 3200), hada_t1=(1, 1, 15, 15),
        hada_t2=(1, 1, 15, 15)), "would make"),
    "a GLoRA of 40 GB": ("drawn", shapes(
        a1__weight=(INPUTS, 10**5), a2__weight=(10**5, INPUTS), b1__weight=(10**5, 1), b2__weight=(1, 10**5)),
        "would make"),
    "an OFT of one block": ("drawn", shapes(oft_blocks=(1, 5000, 5000)), "would make"),
    "a BOFT of 5,000 turns": ("drawn", shapes(oft_blocks=(5000, 1, 64, 64), alpha=()), "would make"),
    "a DoRA of 40 million norms": ("drawn", shapes(
        lora_up__weight=(64, 1), lora_down__weight=(1, INPUTS), dora_scale=(4 * 10**7, 1)), "would make"),
    "a rank of 50,000": ("lora", shapes(lora_up__weight=(64, 50_000), lora_down__weight=(50_000, INPUTS)),
                         "has rank 50000"),
    "all of 65504": ("drawn", lora(lora_down__weight=torch.full((2, INPUTS), 65504.0),
                                   lora_up__weight=torch.full((OUTPUTS, 2), 65504.0)), ""),
}  # fmt: skip
