"""How trainers lay out LoRA files: which tensor belongs to which layer, what it does there, and which act nowhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from .lora import LowRankPair, StoredPair
from .numbers import LARGEST_NUMBER, largest
from .strangers import brief

LONGEST_NAME = 500  # characters
DIMENSIONS = {2, 3, 4, 5}  # of a Linear's weight, and of convolutions'
NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
WHOLE_NUMBERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
WHOLE = (".alpha", ".reshape_weight")  # what some tools write as whole numbers
PAIRS = (
    ("lora_down.weight", "lora_up.weight"), ("lora_A.weight", "lora_B.weight"), ("lora.down.weight", "lora.up.weight"),
    ("lora_A.default.weight", "lora_B.default.weight"), ("lora_A", "lora_B"),
    ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
)  # fmt: skip
"""Suffixes of lower and upper halves: kohya's, peft's, and those of diffusers through the years."""
WHOLE_KINDS = ("hada_w1_a", "lokr_w1", "lokr_w1_a", "lokr_w2", "lokr_w2_a", "a1.weight", "oft_blocks", "w_norm", "diff",
               "diff_b", "set_weight")  # fmt: skip
"""By which the host tells LoHa, LoKr, GLoRA, (B)OFT, and whole weights: no other tensor of a layer acts without one."""
PARTS = ("hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1_b", "lokr_w2_b", "lokr_t2", "a2.weight",
         "b1.weight", "b2.weight", "rescale", "b_norm", "lora_mid.weight", "dora_scale", "reshape_weight",
         "alpha")  # fmt: skip
"""What acts beside one of those, or beside a pair."""
SUFFIXES = {*(half for pair in PAIRS for half in pair), *WHOLE_KINDS, *PARTS}
MOST_DOTS = 1 + max(it.count(".") for it in SUFFIXES)
LEAST_OF_ALL = 1024
"""A rank that any layer may have. Beyond that, one above its inputs and outputs takes more than the whole weight."""
PROCESSOR = re.compile(r"_lora\.(down|up)\.weight$")  # of diffusers' attention processors, once
TEXT_ENCODERS = "for text encoders"
EMBEDDINGS = "of embeddings of words"
UNKNOWN = "of no kind that the host loads"
NO_LAYER = "for layers that this model does not have"
TWICE = "for layers that the file has under another name too"
ASIDE = {
    TEXT_ENCODERS: re.compile(
        r"(lora|lycoris)_(prior_)?(te|text_encoder|text_model|clip|t5)|text_encoder|(te[1-4]?|clip_[lgh]|t5xxl)\.|"
        r"(base_model\.model\.)?text_model\.|cond_stage_model\.|conditioner\."
    ),
    EMBEDDINGS: re.compile(r"bundle_emb\.|emb_params$|string_to_(param|token)|clip_[lg]$|<.+>$"),
}
"""What never acts in a diffusion model, by how its names begin: trainers put it into LoRA files."""
TOLD = 20  # names of each kind, in a report

LeftOut = dict[str, list[str]]
"""Names of a file's tensors or layers that cannot act, by the reason why."""


class UnknownLayoutError(ValueError):
    """A file holds nothing that is of a known kind of LoRA."""

    def __init__(self, key: str):
        self.key = brief(key)
        super().__init__(f"it holds `{self.key}`, which is of no kind of LoRA that the host can load.")


@dataclass
class Layers:
    """What a file holds for a diffusion model, by the names that it gives the layers: low-rank pairs of Linears, all
    other kinds by their suffixes; and what is left out.
    """

    pairs: dict[str, LowRankPair] = field(default_factory=dict)
    others: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=dict)


def layers_of(tensors: Mapping[str, torch.Tensor]) -> Layers:
    """A file's tensors, sorted. Raises ValueError where nothing acts, or what acts cannot be calculated with."""
    found = Layers()
    grouped: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        why = next((why for why, names in ASIDE.items() if names.match(key)), None)
        layer, suffix = _split(key)
        if why or not suffix:
            found.left_out.setdefault(why or UNKNOWN, []).append(key)
        else:
            grouped.setdefault(layer, {})[suffix] = tensor
    for name, its in grouped.items():
        if its.keys() <= set(PARTS):
            found.left_out.setdefault(UNKNOWN, []).extend(f"{name}.{suffix}" for suffix in its)
            continue
        _sort(name, its, found)
    if not found.pairs and not found.others:
        if unknown := found.left_out.get(UNKNOWN):
            raise UnknownLayoutError(unknown[0])
        raise ValueError(f"it holds nothing for the diffusion model{': only ' if found.left_out else ''}"
                         f"{in_words(found.left_out)}.")  # fmt: skip
    return found


def _split(key: str) -> tuple[str, str]:
    """A tensor's layer, and what it is there; "" where it is of no known kind."""
    if len(key) <= LONGEST_NAME:
        layer, *parts = PROCESSOR.sub(r".lora.\1.weight", key).rsplit(".", MOST_DOTS)
        for number in range(len(parts)):
            if ".".join(parts[number:]) in SUFFIXES:
                return ".".join((layer, *parts[:number])), ".".join(parts[number:])
    return key, ""


def _sort(name: str, tensors: dict[str, torch.Tensor], into: Layers) -> None:
    if {"lokr_w1", "lokr_w2"} <= tensors.keys():  # no rank to be scaled by: trainers write any number, or infinity
        tensors.pop("alpha", None)
    for suffix, tensor in tensors.items():
        check_numbers(f"{name}.{suffix}", tensor)
    bias = {"diff_b": tensors.pop("diff_b")} if "diff_b" in tensors and len(tensors) > 1 else {}
    pair = _pair(name, tensors)
    if pair is not None:
        into.pairs[name] = pair
    others = bias | (tensors if pair is None else {})
    if others:
        into.others[name] = others


def _pair(name: str, tensors: Mapping[str, torch.Tensor]) -> LowRankPair | None:
    """The low-rank pair of a layer; None for what is more or other than the pair of a Linear."""
    for low, high in PAIRS:
        if low not in tensors and high not in tensors:
            continue
        if low not in tensors or high not in tensors:
            its, other = ("a lower", "upper") if low in tensors else ("an upper", "lower")
            raise ValueError(f"`{brief(name)}` has {its} half and no {other} one.")
        if not tensors.keys() <= {low, high, "alpha"}:
            continue
        down, up, alpha = tensors[low], tensors[high], tensors.get("alpha")
        if not {down.ndim, up.ndim} <= DIMENSIONS or down.shape[0] != up.shape[1:].numel():
            raise ValueError(
                f"`{brief(name)}` has shapes {brief(list(down.shape))} and {brief(list(up.shape))}, not [rank, in] and "
                f"[out, rank]."
            )
        if max(down.ndim, up.ndim) > 2:  # a convolution's
            return None
        check_rank(name, down.shape[0], down.shape[1], up.shape[0])
        return StoredPair(down, up, alpha.item() / down.shape[0] if alpha is not None else 1.0)
    return None


def check_rank(name: str, rank: int, inputs: int, outputs: int) -> None:
    """Raises ValueError for a rank at which a pair takes far more memory than all that it could change."""
    if rank > max(inputs, outputs, LEAST_OF_ALL):
        raise ValueError(f"`{brief(name)}` has rank {rank} for {inputs} inputs and {outputs} outputs, and may have "
                         f"{max(inputs, outputs, LEAST_OF_ALL)}: it is damaged, or no LoRA.")  # fmt: skip


def check_numbers(key: str, tensor: torch.Tensor) -> None:
    """Raises ValueError for a tensor that a LoRA cannot be calculated with, on any device: pictures would be lost."""
    name, one = brief(key), key.endswith(".alpha")
    if not tensor.numel() or (one and tensor.numel() > 1):
        raise ValueError(f"`{name}` has {tensor.numel()} numbers{', and must be one' if one else ''}.")
    if tensor.dtype not in (*NUMBERS, *(WHOLE_NUMBERS if key.endswith(WHOLE) else ())):
        raise ValueError(f"`{name}` is of type {tensor.dtype}: a LoRA has floating-point numbers.")
    if not largest(tensor) <= LARGEST_NUMBER:
        raise ValueError(
            f"`{name}` has weights that are no numbers (NaN or infinite), or beyond {LARGEST_NUMBER:g}: the file is "
            f"damaged, or its training went wrong. Get or train it again."
        )


def in_words(left_out: LeftOut) -> str:
    """What is left out and why, in a phrase: "12 tensors for text encoders (`lora_te1_...`, ...)"."""
    return "; ".join(f"{len(names)} {'tensors' if len(names) > 1 else 'tensor'} {why} ({_few(names)})"
                     for why, names in left_out.items())  # fmt: skip


def _few(names: list[str]) -> str:
    more = ", ..." if len(names) > 3 else ""
    return ", ".join(f"`{brief(it)}`" for it in names[:3]) + more


def in_report(left_out: LeftOut) -> dict:
    """The same, JSON-like: how many for each reason, and the first names."""
    return {why: {"number": len(names), "names": [brief(it) for it in names[:TOLD]]} for why, names in left_out.items()}
