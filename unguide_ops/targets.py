"""Which Linears a concept LoRA hangs on, per model family (paper section 3): where the text enters. Pure torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import cast

import torch

from .patterns import Pattern
from .strangers import brief

CROSS_ATTENTION = "cross-attention k/v"
ALL_BUT_CROSS_ATTENTION = "all but cross-attention"
AUTOMATIC, CUSTOM = "automatic", "custom"
CHOICES = (AUTOMATIC, CROSS_ATTENTION, ALL_BUT_CROSS_ATTENTION, CUSTOM)

Part = tuple[int, int]
"""The first and the number of parts, as (1, 2) of 3: k and v of a Linear that makes q, k and v at once."""


@dataclass(frozen=True)
class Family:
    """A model family, known by names that one or another of its layers has: all the patterns are found.

    `text` are the layers through which the picture reads the prompt: k and v of cross-attention, or of the text's side
    of a joint attention. `part` of `of` parts of their outputs are k and v, where others are made by the same Linear.
    `picture` are those that never see the prompt alone. Layers that match `reads_prompt` are given the encoded prompt
    itself. `naming` is how loaders expect its LoRA files (`host.file_names`). `distilled`: it makes guided predictions
    by itself, and is not to be guided.
    """

    name: str
    known_by: tuple[str, ...]
    text: str
    picture: str
    part: Part = (0, 1)
    of: int = 1
    reads_prompt: str = r"(?!)"
    naming: str = "diffusion_model"
    distilled: bool = False


FAMILIES = (
    Family("Stable Diffusion UNet (1.x, 2.x, XL)", (r"input_blocks\.\d+\.1\.transformer_blocks\.\d+\.attn2\.to_k$",),
           text=r"\.attn2\.to_[kv]$", picture=r"^(?!out\.)(?!.*(attn2|time_embed))",
           reads_prompt=r"\.attn2\.to_[kv]$", naming="kohya"),
    Family("Stable Diffusion 3", (r"^joint_blocks\.0\.context_block\.attn\.qkv$",),
           text=r"\.context_block\.attn\.qkv$", part=(1, 2), of=3,
           picture=r"^joint_blocks\.\d+\.x_block\.(attn2?|mlp)\.", naming="transformer"),
    Family("Chroma", (r"^distilled_guidance_layer\.",),
           text=r"^double_blocks\.\d+\.txt_attn\.qkv$", part=(1, 2), of=3,
           picture=r"^(double_blocks\.\d+\.img_(attn|mlp)|single_blocks\.\d+\.linear)", naming="kohya"),
    Family("Flux 2", (r"^txt_in$", r"^double_stream_modulation_txt\."),
           text=r"^double_blocks\.\d+\.txt_attn\.qkv$", part=(1, 2), of=3,
           picture=r"^(double_blocks\.\d+\.img_(attn|mlp)|single_blocks\.\d+\.linear)", distilled=True),
    Family("Flux", (r"^txt_in$", r"^double_blocks\.0\.txt_attn\.qkv$"),
           text=r"^double_blocks\.\d+\.txt_attn\.qkv$", part=(1, 2), of=3,
           picture=r"^(double_blocks\.\d+\.img_(attn|mlp)|single_blocks\.\d+\.linear)", naming="kohya", distilled=True),
    Family("AuraFlow", (r"^double_layers\.0\.attn\.w1k$",),
           text=r"^double_layers\.\d+\.attn\.w1[kv]$",
           picture=r"^(double_layers\.\d+\.(attn\.w2|mlpX)|single_layers\.\d+\.(attn|mlp))", naming="transformer"),
    Family("PixArt", (r"^blocks\.0\.cross_attn\.kv_linear$",),
           text=r"^blocks\.\d+\.cross_attn\.kv_linear$", picture=r"^blocks\.\d+\.(attn|mlp)\.", naming="transformer"),
    Family("Hunyuan-DiT", (r"^blocks\.0\.attn2\.kv_proj$",),
           text=r"^blocks\.\d+\.attn2\.kv_proj$", picture=r"^blocks\.\d+\.(attn1|mlp)\."),
    Family("Z-Image", (r"^layers\.0\.adaLN_modulation\.0$",),  # one stream: only these see text alone
           text=r"^(cap_embedder\.1|context_refiner\.\d+\.attention\.qkv)$",
           picture=r"^(layers|noise_refiner)\.\d+\.(attention|feed_forward)\.", naming="parts"),
    Family("Lumina 2", (r"^context_refiner\.0\.attention\.qkv$",),
           text=r"^(cap_embedder\.1|context_refiner\.\d+\.attention\.qkv)$",
           picture=r"^(layers|noise_refiner)\.\d+\.(attention|feed_forward)\."),
    Family("Qwen-Image", (r"^transformer_blocks\.0\.attn\.add_k_proj$",),
           text=r"^transformer_blocks\.\d+\.attn\.add_[kv]_proj$",
           picture=r"^transformer_blocks\.\d+\.(attn\.to_|img_mlp)"),
    Family("HiDream", (r"^double_stream_blocks\.0\.block\.attn1\.to_k_t$",),
           text=r"^double_stream_blocks\.\d+\.block\.attn1\.to_[kv]_t$",
           picture=r"^(double_stream_blocks\.\d+\.block\.(attn1\.to_[a-z]+$|ff_i)|single_stream_blocks\.\d+\.block\.(attn1|ff_i))"),
    Family("Wan", (r"^blocks\.0\.cross_attn\.k$",),
           text=r"^blocks\.\d+\.cross_attn\.[kv]$", picture=r"^blocks\.\d+\.(self_attn|ffn)\."),
    Family("Cosmos-Predict2", (r"^blocks\.0\.cross_attn\.k_proj$",),
           text=r"^blocks\.\d+\.cross_attn\.[kv]_proj$", picture=r"^blocks\.\d+\.(self_attn|mlp)\.",
           reads_prompt=r"\.cross_attn\.[kv]_proj$"),
)  # fmt: skip
"""The first that fits is it."""


@dataclass(frozen=True)
class Selection:
    """Target Linears by module path, in the model's own order; `part` of each `of` parts of their outputs."""

    linears: dict[str, torch.nn.Linear]
    part: Part = (0, 1)
    of: int = 1
    reads_prompt: str = r"(?!)"
    naming: str = "diffusion_model"
    warning: str = ""

    def rows(self, path: str) -> tuple[int, int]:
        """The outputs (first, number) of a Linear that a LoRA may change."""
        outputs = self.linears[path].out_features
        first, number = self.part
        return outputs * first // self.of, outputs * number // self.of

    def reads_the_prompt(self, path: str) -> bool:
        """Whether the Linear is given the encoded prompt itself."""
        return re.search(self.reads_prompt, path) is not None


def select(model: torch.nn.Module, choice: str, pattern: str = "") -> Selection:
    """The target Linears of a diffusion model.

    CUSTOM are those in whose module path the `pattern` (`patterns.Pattern`) is found, on models of any family. Raises
    ValueError for another choice on a model whose family is not in the table, and when nothing is left to train.
    """
    linears = _linears(model)
    family = _family(linears)
    if choice == CUSTOM:
        chosen = {path: linears[path] for path in _matching(pattern, linears)} if pattern else {}
        if not chosen:
            raise ValueError(
                f"`pattern` is {brief(pattern)!r}, and none of the model's {len(linears)} Linears matches it: their "
                f"names are such as {', '.join(repr(it) for it in _examples(linears))}."
            )
        if family:
            return Selection(chosen, naming=family.naming)
        unknown = f"UnGuide does not know models such as {type(model).__name__}"
        return Selection(chosen, warning=f"{unknown}: whether these targets forget anything there, the grid shows.")
    if choice not in CHOICES:
        raise ValueError(f"`targets` is {choice!r}: use one of {', '.join(map(repr, CHOICES))}.")
    if family is None:
        raise ValueError(
            f"This model ({type(model).__name__}) is of a family that UnGuide does not know: use one of "
            f"{', '.join(it.name for it in FAMILIES)}, or set `targets` to {CUSTOM!r} and `pattern` to a regular "
            f"expression for the layers that read the prompt, such as {_examples(linears)[0]!r}."
        )
    if choice == ALL_BUT_CROSS_ATTENTION:
        chosen = {path: it for path, it in linears.items() if re.search(family.picture, path)}
        return Selection(chosen, naming=family.naming)
    chosen = {path: it for path, it in linears.items() if re.search(family.text, path)}
    return Selection(chosen, family.part, family.of, family.reads_prompt, family.naming)


def family_of(model: torch.nn.Module) -> Family | None:
    """The family of a diffusion model, None for an unknown one."""
    return _family(_linears(model))


def _family(paths: Collection[str]) -> Family | None:
    return next((it for it in FAMILIES if all(any(map(re.compile(p).search, paths)) for p in it.known_by)), None)


def guidance(model: torch.nn.Module, cfg: float) -> float:
    """The classifier-free guidance that a diffusion model is to be drawn with: `cfg`, but 1 if it is distilled."""
    family = family_of(model)
    return 1.0 if family and family.distilled else cfg


def _linears(model: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """Told by their attributes, since hosts bring classes of their own; named as if nothing was compiled."""
    return {
        name.replace("_orig_mod.", ""): cast(torch.nn.Linear, module)
        for name, module in model.named_modules()
        if isinstance(getattr(module, "in_features", None), int) and hasattr(module, "out_features")
    }


def _matching(pattern: str, paths: Iterable[str]) -> list[str]:
    try:
        found = Pattern(pattern)
        return [path for path in paths if found.is_in(path)]
    except ValueError as error:
        raise ValueError(
            f"`pattern` is {brief(pattern)!r}, which is no regular expression for layers: {error}."
        ) from None


def _examples(linears: dict) -> list[str]:
    attention = [path for path in linears if "attn" in path or "attention" in path]
    return [*attention, *linears, "(none)"][:3]
