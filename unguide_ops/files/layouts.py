"""The layouts of LoRA files: which layer a tensor belongs to, what it does there, and which tensors cannot act."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..lora.low_rank import LowRankPair, StoredPair
from ..magnitude import FP16_MAX, max_abs
from ..safe_text import printable

LONGEST_NAME = 500  # characters
WEIGHT_DIMENSIONS = {2, 3, 4, 5}  # of the weights of Linears and convolutions
FLOAT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
INTEGER_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
INTEGER_SUFFIXES = (".alpha", ".reshape_weight")  # of tensors that some tools write as integers
PAIR_SUFFIXES = (
    ("lora_down.weight", "lora_up.weight"), ("lora_A.weight", "lora_B.weight"), ("lora.down.weight", "lora.up.weight"),
    ("lora_A.default.weight", "lora_B.default.weight"), ("lora_A", "lora_B"),
    ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
)  # fmt: skip
"""Suffixes of `down` and `up` of a low-rank pair: kohya's, peft's, and those of several versions of diffusers."""
KIND_SUFFIXES = ("hada_w1_a", "lokr_w1", "lokr_w1_a", "lokr_w2", "lokr_w2_a", "a1.weight", "oft_blocks", "w_norm",
                 "diff", "diff_b", "set_weight")  # fmt: skip
"""Suffixes by which the host recognises LoHa, LoKr, GLoRA, (B)OFT and whole weights.

A layer without any of them, and without a low-rank pair, is not changed by its other tensors.
"""
AUXILIARY_SUFFIXES = ("hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1_b", "lokr_w2_b", "lokr_t2",
                      "a2.weight", "b1.weight", "b2.weight", "rescale", "b_norm", "lora_mid.weight", "dora_scale",
                      "reshape_weight", "alpha")  # fmt: skip
"""Suffixes of tensors that act only beside a tensor of one of the kinds, or beside a low-rank pair."""
SUFFIXES = {*(suffix for pair in PAIR_SUFFIXES for suffix in pair), *KIND_SUFFIXES, *AUXILIARY_SUFFIXES}
MOST_SUFFIX_DOTS = 1 + max(it.count(".") for it in SUFFIXES)
RANK_ALWAYS_ALLOWED = 1024
"""In any layer. A higher rank is refused if it exceeds the layer's inputs and outputs: the pair would then take more
memory than the whole weight."""
ATTENTION_PROCESSOR = re.compile(r"_lora\.(down|up)\.weight$")  # in files of older versions of diffusers
TEXT_ENCODERS = "for text encoders"
EMBEDDINGS = "of embeddings of words"
UNKNOWN = "of no kind that the host loads"
NO_LAYER = "for layers that this model does not have"
DUPLICATE_LAYERS = "for layers that the file has under another name too"
OUTSIDE_THE_MODEL = {
    TEXT_ENCODERS: re.compile(
        r"(lora|lycoris)_(prior_)?(te|text_encoder|text_model|clip|t5)|text_encoder|(te[1-4]?|clip_[lgh]|t5xxl)\.|"
        r"(base_model\.model\.)?text_model\.|cond_stage_model\.|conditioner\."
    ),
    EMBEDDINGS: re.compile(r"bundle_emb\.|emb_params$|string_to_(param|token)|clip_[lg]$|<.+>$"),
}
"""How the names of tensors begin that trainers put into LoRA files, but that never act in a diffusion model."""
MOST_REPORTED_NAMES = 20  # for each reason, in a report

LeftOut = dict[str, list[str]]
"""Names of a file's tensors or layers that cannot act, by the reason."""


class UnknownLayoutError(ValueError):
    """A file holds no tensor that is of a known kind of LoRA."""

    def __init__(self, key: str):
        self.key = printable(key)
        super().__init__(f"it holds `{self.key}`, which belongs to no kind of LoRA that ComfyUI can load.")


@dataclass
class FileLayers:
    """A LoRA file's tensors for the diffusion model, by the names that the file gives the layers.

    `pairs` are the low-rank pairs of Linears, `other_tensors` those of all other kinds, by layer and then by suffix.
    """

    pairs: dict[str, LowRankPair] = field(default_factory=dict)
    other_tensors: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=dict)

    def add(self, layer: str, tensors: dict[str, torch.Tensor]) -> None:
        """Add a layer's tensors, by suffix. Raises ValueError if nothing can be calculated with them."""
        if {"lokr_w1", "lokr_w2"} <= tensors.keys():  # nothing to scale by a rank: trainers write any alpha, or inf
            tensors.pop("alpha", None)
        for suffix, tensor in tensors.items():
            check_tensor(f"{layer}.{suffix}", tensor)
        bias = {"diff_b": tensors.pop("diff_b")} if "diff_b" in tensors and len(tensors) > 1 else {}
        pair = _pair(layer, tensors)
        if pair is not None:
            self.pairs[layer] = pair
        other_tensors = bias | (tensors if pair is None else {})
        if other_tensors:
            self.other_tensors[layer] = other_tensors


def file_layers(tensors: Mapping[str, torch.Tensor]) -> FileLayers:
    """A file's tensors by layer. Raises ValueError if none of them acts, or if nothing can be calculated with one."""
    layers = FileLayers()
    by_layer: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        reason = next((reason for reason, names in OUTSIDE_THE_MODEL.items() if names.match(key)), None)
        layer, suffix = _split(key)
        if reason or not suffix:
            layers.left_out.setdefault(reason or UNKNOWN, []).append(key)
        else:
            by_layer.setdefault(layer, {})[suffix] = tensor
    for layer, layer_tensors in by_layer.items():
        if layer_tensors.keys() <= set(AUXILIARY_SUFFIXES):
            layers.left_out.setdefault(UNKNOWN, []).extend(f"{layer}.{suffix}" for suffix in layer_tensors)
        else:
            layers.add(layer, layer_tensors)
    if not layers.pairs and not layers.other_tensors:
        if unknown := layers.left_out.get(UNKNOWN):
            raise UnknownLayoutError(unknown[0])
        raise ValueError(f"it holds nothing for the diffusion model{': only ' if layers.left_out else ''}"
                         f"{left_out_phrase(layers.left_out)}.")  # fmt: skip
    return layers


def _split(key: str) -> tuple[str, str]:
    """A tensor's layer and suffix; the suffix is "" if it is unknown."""
    if len(key) <= LONGEST_NAME:
        layer, *parts = ATTENTION_PROCESSOR.sub(r".lora.\1.weight", key).rsplit(".", MOST_SUFFIX_DOTS)
        for number in range(len(parts)):
            if ".".join(parts[number:]) in SUFFIXES:
                return ".".join((layer, *parts[:number])), ".".join(parts[number:])
    return key, ""


def _pair(layer: str, tensors: Mapping[str, torch.Tensor]) -> LowRankPair | None:
    """The low-rank pair of a layer's tensors; None if they are anything but the pair of a Linear."""
    for down_suffix, up_suffix in PAIR_SUFFIXES:
        if down_suffix not in tensors and up_suffix not in tensors:
            continue
        if down_suffix not in tensors or up_suffix not in tensors:
            present, missing = ("a lower", "upper") if down_suffix in tensors else ("an upper", "lower")
            raise ValueError(f"`{printable(layer)}` has {present} half and no {missing} one.")
        if not tensors.keys() <= {down_suffix, up_suffix, "alpha"}:
            continue
        down, up, alpha = tensors[down_suffix], tensors[up_suffix], tensors.get("alpha")
        if not {down.ndim, up.ndim} <= WEIGHT_DIMENSIONS or down.shape[0] != up.shape[1:].numel():
            raise ValueError(
                f"`{printable(layer)}` has shapes {printable(list(down.shape))} and {printable(list(up.shape))}, not "
                f"[rank, in] and [out, rank]."
            )
        if max(down.ndim, up.ndim) > 2:  # of a convolution
            return None
        check_rank(layer, down.shape[0], down.shape[1], up.shape[0])
        return StoredPair(down, up, alpha.item() / down.shape[0] if alpha is not None else 1.0)
    return None


def check_rank(layer: str, rank: int, inputs: int, outputs: int) -> None:
    """Raises ValueError for a rank at which a pair takes far more memory than the weight that it changes."""
    highest = max(inputs, outputs, RANK_ALWAYS_ALLOWED)
    if rank > highest:
        raise ValueError(f"`{printable(layer)}` has rank {rank} for {inputs} inputs and {outputs} outputs, and may "
                         f"have {highest}: it is damaged, or not a LoRA.")  # fmt: skip


def check_tensor(key: str, tensor: torch.Tensor) -> None:
    """Raises ValueError for a tensor that is empty, of a wrong dtype, or holds NaN, infinity or more than fp16 does.

    With such weights pictures would be lost on some or all devices.
    """
    name, is_alpha = printable(key), key.endswith(".alpha")
    if not tensor.numel() or (is_alpha and tensor.numel() > 1):
        raise ValueError(f"`{name}` has {tensor.numel()} numbers{', and must be one' if is_alpha else ''}.")
    if tensor.dtype not in (*FLOAT_DTYPES, *(INTEGER_DTYPES if key.endswith(INTEGER_SUFFIXES) else ())):
        raise ValueError(f"`{name}` is of type {tensor.dtype}: a LoRA has floating-point numbers.")
    if not max_abs(tensor) <= FP16_MAX:
        raise ValueError(
            f"`{name}` has weights that are NaN, infinite, or beyond {FP16_MAX:g}: the file is damaged, or its "
            f"training went wrong. Get or train it again."
        )


def left_out_phrase(left_out: LeftOut) -> str:
    """What is left out and why, in a phrase: "12 tensors for text encoders (`lora_te1_...`, ...)"."""
    return "; ".join(f"{len(names)} {'tensors' if len(names) > 1 else 'tensor'} {reason} ({_examples(names)})"
                     for reason, names in left_out.items())  # fmt: skip


def _examples(names: list[str]) -> str:
    ellipsis = ", ..." if len(names) > 3 else ""
    return ", ".join(f"`{printable(it)}`" for it in names[:3]) + ellipsis


def left_out_report(left_out: LeftOut) -> dict:
    """What is left out, as JSON data: by reason, the number of names and the first of them."""
    return {
        reason: {"number": len(names), "names": [printable(it) for it in names[:MOST_REPORTED_NAMES]]}
        for reason, names in left_out.items()
    }
