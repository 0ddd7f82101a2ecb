"""LoRAs that cannot act on the embedded model: of every kind, with shapes that fit nothing there, or without effect."""

import torch
from unguide.unguide_ops import host
from unguide.unguide_ops.lora.low_rank import LowRankPair

LINEAR = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"
CONV = "diffusion_model.input_blocks.1.0.in_layers.2"
NORM = "diffusion_model.input_blocks.1.0.in_layers.0"


def fields_of_loras(model) -> dict[str, dict]:
    """The fields of each ConceptLoRA by its name; if one cannot be made or attached to MODEL, an error must say so."""
    generator = torch.Generator().manual_seed(5)
    state = host.diffusion_model(model).state_dict()
    linear, conv = (state[f"{layer.removeprefix('diffusion_model.')}.weight"] for layer in (LINEAR, CONV))
    outputs, inputs = linear.shape
    channels = conv.shape[1]

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    def hada(outputs, inputs):
        shapes = {"a": (outputs, 2), "b": (2, inputs)}
        return {f"hada_w{i}_{half}": randn(*shapes[half]) for i in (1, 2) for half in "ab"}

    pair = {"lora_down.weight": randn(2, inputs), "lora_up.weight": randn(outputs, 2)}
    norms = linear.float().norm(dim=1, keepdim=True)
    glora = {"a1.weight": randn(7, 2), "a2.weight": randn(2, 7), "b1.weight": randn(5, 2), "b2.weight": randn(2, 7)}
    other_tensors = {
        "OFT": (LINEAR, {"oft_blocks": randn(5, 3, 3), "alpha": torch.tensor(1.0)}),
        "OFT of zeros": (LINEAR, {"oft_blocks": torch.zeros(outputs // 2, 2, 2), "alpha": torch.tensor(1.0)}),
        "BOFT": (LINEAR, {"oft_blocks": randn(1, 5, 3, 3), "alpha": torch.tensor(1.0)}),
        "BOFT of zeros": (LINEAR, {"oft_blocks": torch.zeros(1, outputs // 2, 2, 2), "alpha": torch.tensor(1.0)}),
        "LoHa": (LINEAR, hada(7, 5)),
        "LoHa that is too small": (LINEAR, hada(outputs // 2, inputs)),
        "LoHa of zeros": (LINEAR, {suffix: torch.zeros_like(part) for suffix, part in hada(outputs, inputs).items()}),
        "LoHa, tucker": (CONV, {f"hada_w{i}_{half}": randn(2, 7) for i in (1, 2) for half in "ab"}
                         | {f"hada_t{i}": randn(2, 2, 3, 3) for i in (1, 2)}),
        "LoKr": (LINEAR, {"lokr_w1": randn(3, 3), "lokr_w2": randn(5, 5)}),
        "LoKr of zeros": (LINEAR, {"lokr_w1": torch.zeros(2, 2), "lokr_w2": randn(outputs // 2, inputs // 2)}),
        "LoKr, tucker": (CONV, {"lokr_w1": randn(2, 2), "lokr_t2": randn(2, 2, 3, 3), "lokr_w2_a": randn(2, 7),
                                "lokr_w2_b": randn(2, 7)}),
        "LoCon": (CONV, {"lora_down.weight": randn(2, 7, 3, 3), "lora_up.weight": randn(len(conv), 2, 1, 1)}),
        "LoCon, tucker": (CONV, {"lora_down.weight": randn(2, 7, 1, 1), "lora_mid.weight": randn(2, 2, 3, 3),
                                 "lora_up.weight": randn(len(conv), 2, 1, 1)}),
        "GLoRA": (LINEAR, glora),
        "DoRA": (LINEAR, {**pair, "dora_scale": randn(7, 1)}),
        "DoRA with other halves": (LINEAR, {"lora_down.weight": randn(2, 7), "lora_up.weight": randn(outputs, 2),
                                            "dora_scale": norms}),
        "DoRA of zeros": (LINEAR, {**pair, "lora_up.weight": torch.zeros(outputs, 2), "dora_scale": norms}),
        "diff": (LINEAR, {"diff": randn(7, 5)}),
        "diff of one number": (LINEAR, {"diff": randn(1)}),
        "diff of zeros": (LINEAR, {"diff": torch.zeros(outputs, inputs)}),
        "diff below rounding": (LINEAR, {"diff": 1e-9 * randn(outputs, inputs)}),
        "diff in 8 bits, of zeros": (LINEAR, {"diff": torch.zeros(outputs, inputs).to(torch.float8_e4m3fn)}),
        "a bias that the layer has not": (LINEAR, {"diff_b": randn(outputs)}),
        "w_norm": (NORM, {"w_norm": randn(7)}),
        "w_norm of zeros": (NORM, {"w_norm": torch.zeros(channels)}),
        "set_weight": (LINEAR, {"set_weight": randn(7, 5)}),
        "set_weight, the same": (LINEAR, {"set_weight": linear.float().clone()}),
    }  # fmt: skip
    pairs = {
        "a pair of zeros": LowRankPair(randn(2, inputs), torch.zeros(outputs, 2), 1.0),
        "a pair with alpha 0": LowRankPair(randn(2, inputs), randn(outputs, 2), 0.0),
        "a pair below rounding": LowRankPair(randn(2, inputs), 1e-10 * randn(outputs, 2), 1.0),
        "a pair for other inputs": LowRankPair(randn(2, 7), randn(outputs, 2), 1.0),
    }
    loras = {name: {"pairs": {}, "other_tensors": {layer: tensors}} for name, (layer, tensors) in other_tensors.items()}
    return loras | {name: {"pairs": {LINEAR: pair}} for name, pair in pairs.items()}
