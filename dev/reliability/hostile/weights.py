"""What a LoRA must not calculate with, and what it may."""

from __future__ import annotations

from collections.abc import Callable

from dev.reliability.hostile.making import Make, Table, written
from dev.reliability.hostile.metadata import prompt
from dev.reliability.parsers import fingerprint
from dev.reliability.seeds import CALIBRATION, INPUTS, LAYER, OUTPUTS, kohya, ours, safetensors


def weights(value: float, number: int = 0):
    """The lower half, with one number changed."""
    import torch

    down = torch.randn(2, INPUTS, generator=torch.Generator().manual_seed(0))
    down.view(-1)[number] = value
    return down


def table() -> Table:
    """All of them."""

    def lora(**changed) -> Make:
        return written("lora.safetensors", lambda: safetensors(kohya(**{n: it() for n, it in changed.items()})))

    def of(make: str, *arguments, **options) -> Callable:
        def made():
            import torch

            return getattr(torch, make)(*arguments, **options)

        return made

    def kind(name: str) -> Callable:
        def made():
            import torch

            return weights(1.0).to(getattr(torch, name))

        return made

    def loha() -> bytes:
        import torch

        its = {"hada_w1_a": torch.ones(10**5, 1), "hada_w1_b": torch.ones(1, 10**5)}
        its |= {name.replace("1", "2"): it.clone() for name, it in its.items()}
        return safetensors({f"{LAYER}.{name}": it for name, it in its.items()})

    def lokr() -> bytes:
        import torch

        return safetensors({f"{LAYER}.lokr_w{it}": torch.ones(1000, 100) for it in (1, 2)})

    def other(**shapes: tuple) -> Make:
        def made() -> bytes:
            import torch

            return safetensors({f"{LAYER}.{name.replace('__', '.')}": torch.ones(it) for name, it in shapes.items()})

        return written("lora.safetensors", made)

    def gated(**said: tuple) -> Make:
        def made() -> bytes:
            import torch

            its = {name: torch.randn(shape) for name, shape in said.items()}
            return ours(calibration={**CALIBRATION, "base": fingerprint()}, target_prompt=prompt(**its))

        return written("lora.safetensors", made)

    whole = {"lora_down__weight": lambda: None, "lora_up__weight": lambda: None, "alpha": lambda: None}
    return {name: (parser, make, expected) for name, (parser, make, expected) in {
        "NaN": ("lora", lora(lora_down__weight=lambda: weights(float("nan"))), "down.weight` has .*are no numbers"),
        "one NaN at the end": ("lora", lora(lora_down__weight=lambda: weights(float("nan"), -1)), "are no numbers"),
        "infinite": ("lora", lora(lora_up__weight=of("full", (OUTPUTS, 2), float("inf"))), "are no numbers"),
        "NaN in whole weights": ("lora", lora(**whole, diff=of("full", (OUTPUTS, INPUTS), float("nan"))), "no numbers"),
        "beyond half precision": ("lora", lora(lora_down__weight=lambda: weights(1e30)), "beyond 65504"),
        "integers": ("lora", lora(lora_down__weight=kind("int64")), "of type torch.int64"),
        "booleans": ("lora", lora(lora_down__weight=kind("bool")), "of type torch.bool"),
        "complex numbers": ("lora", lora(lora_down__weight=kind("complex64")), "of type torch.complex64"),
        "8-bit floats": ("lora", lora(lora_down__weight=kind("float8_e4m3fn")), ""),
        "another shape": ("lora", lora(lora_down__weight=of("ones", 3, INPUTS)), "has shapes"),
        "one dimension": ("lora", lora(lora_down__weight=of("ones", INPUTS)), "has shapes"),
        "no dimension": ("lora", lora(lora_down__weight=of("tensor", 1.0)), "has shapes"),
        "rank 0": ("lora", lora(lora_down__weight=of("ones", 0, INPUTS), lora_up__weight=of("ones", OUTPUTS, 0)),
                   "has 0 numbers"),
        "no upper half": ("lora", lora(lora_up__weight=lambda: None), "no upper one"),
        "alpha NaN": ("lora", lora(alpha=of("tensor", float("nan"))), "alpha` has weights"),
        "alpha infinite": ("lora", lora(alpha=of("tensor", float("-inf"))), "alpha` has weights"),
        "alpha huge": ("lora", lora(alpha=of("tensor", 1e30)), "alpha` has weights"),
        "alpha negative": ("lora", lora(alpha=of("tensor", -1.0)), ""),
        "alpha a whole number": ("lora", lora(alpha=of("tensor", 4)), ""),
        "alpha two numbers": ("lora", lora(alpha=of("ones", 2)), "must be one"),
        "another model's layer": ("drawn", lora(lora_down__weight=of("ones", 2, 7)), "another model family"),
        "another text encoder's prompt": ("drawn", gated(cross_attn=(1, 77, 5)), "encoded for another model"),
        "a prompt that is an area, a mask and a control": ("drawn", gated(
            cross_attn=(1, 77, INPUTS), pooled_output=(1, INPUTS), area=(4,), mask=(1, 8, 8), control=(1,)), ""),
        "a LoHa without its second half": ("drawn", written("lora.safetensors", lambda: safetensors(
            {f"{LAYER}.hada_w1_a": weights(1.0)})), "can do nothing with"),
        "a LoHa whose halves do not fit": ("drawn", written("lora.safetensors", lambda: safetensors(
            {f"{LAYER}.hada_w{it}": weights(1.0) for it in ("1_a", "1_b", "2_a", "2_b")})), "can do nothing with"),
        "a LoHa of 40 GB": ("drawn", written("lora.safetensors", loha), "would make"),
        "a LoKr of 40 GB": ("drawn", written("lora.safetensors", lokr), "would make"),
        "a middle part of 1.4 MB": ("drawn", other(
            lora_up__weight=(64, 1, 1, 1), lora_mid__weight=(1, 1, 600, 600), lora_down__weight=(1, 3000, 1, 1)),
            "would make"),
        "a LoKr's Tucker core": ("drawn", other(
            lokr_w1=(1, 1), lokr_w2_a=(1, 3200), lokr_t2=(1, 1, 15, 15), lokr_w2_b=(1, 3200)), "would make"),
        "a LoHa's Tucker core": ("drawn", other(
            hada_w1_a=(1, 3200), hada_w1_b=(1, 3200), hada_w2_a=(1, 3200), hada_w2_b=(1, 3200), hada_t1=(1, 1, 15, 15),
            hada_t2=(1, 1, 15, 15)), "would make"),
        "a GLoRA of 40 GB": ("drawn", other(
            a1__weight=(INPUTS, 10**5), a2__weight=(10**5, INPUTS), b1__weight=(10**5, 1), b2__weight=(1, 10**5)),
            "would make"),
        "an OFT of one block": ("drawn", other(oft_blocks=(1, 5000, 5000)), "would make"),
        "a BOFT of 5,000 turns": ("drawn", other(oft_blocks=(5000, 1, 64, 64), alpha=()), "would make"),
        "a DoRA of 40 million norms": ("drawn", other(
            lora_up__weight=(64, 1), lora_down__weight=(1, INPUTS), dora_scale=(4 * 10**7, 1)), "would make"),
        "a rank of 50,000": ("lora", other(lora_up__weight=(64, 50_000), lora_down__weight=(50_000, INPUTS)),
                             "has rank 50000"),
        "all of 65504": ("drawn", lora(lora_down__weight=of("full", (2, INPUTS), 65504.0),
                                       lora_up__weight=of("full", (OUTPUTS, 2), 65504.0)), ""),
    }.items()}  # fmt: skip
