"""LoRAs that cannot act on the embedded model: of every kind, with shapes that fit nothing there, or without effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

LINEAR = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"
CONV = "diffusion_model.input_blocks.1.0.in_layers.2"
NORM = "diffusion_model.input_blocks.1.0.in_layers.0"
WAYS = ("always erase", "linked", "inside sampling")
WS = (-1.0, 0.0, 0.5, 2.0)


def loras(model) -> dict[str, Callable]:
    """A function that makes each, by its name; what cannot be made or attached to MODEL must be refused in words."""
    import torch
    from unguide.unguide_ops import host
    from unguide.unguide_ops.lora import ConceptLoRA, LowRankPair

    generator = torch.Generator().manual_seed(5)
    state = host.diffusion_model(model).state_dict()
    linear, conv = (state[f"{it.removeprefix('diffusion_model.')}.weight"] for it in (LINEAR, CONV))
    outputs, inputs = linear.shape
    channels = conv.shape[1]

    def some(*shape):
        return torch.randn(*shape, generator=generator)

    def hada(out, width):
        return {f"hada_w{i}_{half}": some(*((out, 2) if half == "a" else (2, width))) for i in (1, 2) for half in "ab"}

    pair = {"lora_down.weight": some(2, inputs), "lora_up.weight": some(outputs, 2)}
    norms = linear.float().norm(dim=1, keepdim=True)
    glora = {"a1.weight": some(7, 2), "a2.weight": some(2, 7), "b1.weight": some(5, 2), "b2.weight": some(2, 7)}
    others = {
        "OFT": (LINEAR, {"oft_blocks": some(5, 3, 3), "alpha": torch.tensor(1.0)}),
        "OFT of zeros": (LINEAR, {"oft_blocks": torch.zeros(outputs // 2, 2, 2), "alpha": torch.tensor(1.0)}),
        "BOFT": (LINEAR, {"oft_blocks": some(1, 5, 3, 3), "alpha": torch.tensor(1.0)}),
        "BOFT of zeros": (LINEAR, {"oft_blocks": torch.zeros(1, outputs // 2, 2, 2), "alpha": torch.tensor(1.0)}),
        "LoHa": (LINEAR, hada(7, 5)),
        "LoHa that is too small": (LINEAR, hada(outputs // 2, inputs)),
        "LoHa of zeros": (LINEAR, {end: torch.zeros_like(it) for end, it in hada(outputs, inputs).items()}),
        "LoHa, tucker": (CONV, {f"hada_w{i}_{half}": some(2, 7) for i in (1, 2) for half in "ab"}
                         | {f"hada_t{i}": some(2, 2, 3, 3) for i in (1, 2)}),
        "LoKr": (LINEAR, {"lokr_w1": some(3, 3), "lokr_w2": some(5, 5)}),
        "LoKr of zeros": (LINEAR, {"lokr_w1": torch.zeros(2, 2), "lokr_w2": some(outputs // 2, inputs // 2)}),
        "LoKr, tucker": (CONV, {"lokr_w1": some(2, 2), "lokr_t2": some(2, 2, 3, 3), "lokr_w2_a": some(2, 7),
                                "lokr_w2_b": some(2, 7)}),
        "LoCon": (CONV, {"lora_down.weight": some(2, 7, 3, 3), "lora_up.weight": some(len(conv), 2, 1, 1)}),
        "LoCon, tucker": (CONV, {"lora_down.weight": some(2, 7, 1, 1), "lora_mid.weight": some(2, 2, 3, 3),
                                 "lora_up.weight": some(len(conv), 2, 1, 1)}),
        "GLoRA": (LINEAR, glora),
        "DoRA": (LINEAR, {**pair, "dora_scale": some(7, 1)}),
        "DoRA with other halves": (LINEAR, {"lora_down.weight": some(2, 7), "lora_up.weight": some(outputs, 2),
                                            "dora_scale": norms}),
        "DoRA of zeros": (LINEAR, {**pair, "lora_up.weight": torch.zeros(outputs, 2), "dora_scale": norms}),
        "diff": (LINEAR, {"diff": some(7, 5)}),
        "diff of one number": (LINEAR, {"diff": some(1)}),
        "diff of zeros": (LINEAR, {"diff": torch.zeros(outputs, inputs)}),
        "diff below rounding": (LINEAR, {"diff": 1e-9 * some(outputs, inputs)}),
        "diff in 8 bits, of zeros": (LINEAR, {"diff": torch.zeros(outputs, inputs).to(torch.float8_e4m3fn)}),
        "a bias that the layer has not": (LINEAR, {"diff_b": some(outputs)}),
        "w_norm": (NORM, {"w_norm": some(7)}),
        "w_norm of zeros": (NORM, {"w_norm": torch.zeros(channels)}),
        "set_weight": (LINEAR, {"set_weight": some(7, 5)}),
        "set_weight, the same": (LINEAR, {"set_weight": linear.float().clone()}),
    }  # fmt: skip
    pairs = {
        "a pair of zeros": LowRankPair(some(2, inputs), torch.zeros(outputs, 2), 1.0),
        "a pair with alpha 0": LowRankPair(some(2, inputs), some(outputs, 2), 0.0),
        "a pair below rounding": LowRankPair(some(2, inputs), 1e-10 * some(outputs, 2), 1.0),
        "a pair for other inputs": LowRankPair(some(2, 7), some(outputs, 2), 1.0),
    }
    made: dict[str, Callable] = {
        name: lambda layer=layer, its=its: ConceptLoRA({}, others={layer: its}) for name, (layer, its) in others.items()
    }
    return made | {name: lambda it=it: ConceptLoRA({LINEAR: it}) for name, it in pairs.items()}


def cases(model) -> Iterator[tuple[str, Callable, dict]]:
    """Name, maker and the gate's inputs of each LoRA by each way, w and side."""
    from unguide.unguide_ops.steering import SIDES

    for (name, make), way, w, sides in product(loras(model).items(), WAYS, WS, SIDES):
        linked = {"erased": True} if way == "linked" else {}
        yield f"{name}, {way}, w = {w:g}, {sides}", make, {"gate": way, "w_erased": w, "lora_branch": sides, **linked}


def run(it, name: str, make: Callable, gate: dict) -> str:
    """Draw a case on the stage `it`: "" where an error says that nothing acts, else what is wrong."""
    import dataclasses

    from unguide.nodes.sampling import UnGuidance
    from unguide.unguide_ops import host

    asked = {"w_unrelated": 1.0, "w_erased": -1.0, **gate}
    try:
        target = host.pack_conditioning(it.encode(it.concept.concept.target))
        lora = dataclasses.replace(make(), calibration=it.lora.calibration, target_prompt=target)
        it.draw(UnGuidance.execute(it.model, lora, **asked).args[0])
    except (ValueError, RuntimeError) as error:
        return "" if len(str(error)) > 40 and "LoRA" in str(error) else f"{type(error).__name__}: {error}"
    return "a picture without an error"
