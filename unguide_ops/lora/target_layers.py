"""Which Linears of a model a concept LoRA is trained on, by model family (paper section 3). Pure torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import cast

import torch

from ..patterns import Pattern
from ..safe_text import printable

CROSS_ATTENTION = "cross-attention k/v"
ALL_BUT_CROSS_ATTENTION = "all but cross-attention"
AUTOMATIC, CUSTOM = "automatic", "custom"
TARGET_CHOICES = (AUTOMATIC, CROSS_ATTENTION, ALL_BUT_CROSS_ATTENTION, CUSTOM)

Part = tuple[int, int]
"""The index of the first part and the number of parts: (1, 2) of 3 are k and v of a Linear that makes q, k and v."""


@dataclass(frozen=True)
class ModelFamily:
    """A model family, and which of its layers to train. All patterns are regular expressions for module paths.

    signature: a model is of this family if each of these patterns matches one of its layers.
    text: the layers through which the picture reads the prompt: k and v of cross-attention, or of the text stream of a
        joint attention.
    picture: the layers through which the picture passes; the prompt never passes through one of them alone.
    part, of: the outputs of the `text` layers that are trained: `part` of their `of` equal parts.
    embedder: the text's own embedder, in families where text and picture later go through the same layers, which the
        `text` layers do not include, or where one of these reads what another has changed.
    pooled: the embedder of the prompt's pooled vector, the second way in of families that have one.
    naming: how loaders expect the names in LoRA files for this family (`host.names_in_files`).
    distilled: its predictions include guidance, so it must be sampled without classifier-free guidance.
    """

    name: str
    signature: tuple[str, ...]
    text: str
    picture: str
    part: Part = (0, 1)
    of: int = 1
    embedder: str = ""
    pooled: str = ""
    naming: str = "diffusion_model"
    distilled: bool = False

    @property
    def every_way_in(self) -> str:
        """The layers that are every way the prompt enters: whatever they give, no other layer tells prompts apart."""
        return "|".join(filter(None, (self.embedder or self.text, self.pooled)))


FAMILIES = (
    ModelFamily("Stable Diffusion UNet (1.x, 2.x, XL)",
        (r"input_blocks\.\d+\.1\.transformer_blocks\.\d+\.attn2\.to_k$",),
        text=r"\.attn2\.to_[kv]$", picture=r"^(?!out\.)(?!.*(attn2|time_embed))",
        pooled=r"^label_emb\.0\.0$", naming="kohya"),
    ModelFamily("Stable Diffusion 3", (r"^joint_blocks\.0\.context_block\.attn\.qkv$",),
        text=r"\.context_block\.attn\.qkv$", part=(1, 2), of=3,
        pooled=r"^y_embedder\.mlp\.0$",
        picture=r"^joint_blocks\.\d+\.x_block\.(attn2?|mlp)\.", naming="transformer"),
    ModelFamily("Chroma", (r"^distilled_guidance_layer\.",),
        text=r"^double_blocks\.\d+\.txt_attn\.qkv$", part=(1, 2), of=3,
        embedder=r"^txt_in$",
        picture=r"^(double_blocks\.\d+\.img_(attn|mlp)|single_blocks\.\d+\.linear)", naming="transformer"),
    ModelFamily("Flux 2", (r"^txt_in$", r"^double_stream_modulation_txt\."),
        text=r"^double_blocks\.\d+\.txt_attn\.qkv$", part=(1, 2), of=3,
        embedder=r"^txt_in$",
        picture=r"^(double_blocks\.\d+\.img_(attn|mlp)|single_blocks\.\d+\.linear)", distilled=True),
    ModelFamily("Flux", (r"^txt_in$", r"^double_blocks\.0\.txt_attn\.qkv$"),
        text=r"^double_blocks\.\d+\.txt_attn\.qkv$", part=(1, 2), of=3,
        embedder=r"^txt_in$", pooled=r"^vector_in\.in_layer$",
        picture=r"^(double_blocks\.\d+\.img_(attn|mlp)|single_blocks\.\d+\.linear)", naming="transformer",
        distilled=True),
    ModelFamily("AuraFlow", (r"^double_layers\.0\.attn\.w1k$",),
        text=r"^double_layers\.\d+\.attn\.w1[kv]$", embedder=r"^cond_seq_linear$",
        picture=r"^(double_layers\.\d+\.(attn\.w2|mlpX)|single_layers\.\d+\.(attn|mlp))", naming="transformer"),
    ModelFamily("PixArt", (r"^blocks\.0\.cross_attn\.kv_linear$",),
        text=r"^blocks\.\d+\.cross_attn\.kv_linear$", picture=r"^blocks\.\d+\.(attn|mlp)\.", naming="transformer"),
    ModelFamily("Hunyuan-DiT", (r"^blocks\.0\.attn2\.kv_proj$",),
        text=r"^blocks\.\d+\.attn2\.kv_proj$", pooled=r"^extra_embedder\.0$", picture=r"^blocks\.\d+\.(attn1|mlp)\."),
    ModelFamily("Z-Image", (r"^layers\.0\.adaLN_modulation\.0$",),
        text=r"^(cap_embedder\.1|context_refiner\.\d+\.attention\.qkv)$",  # text and picture share the later layers
        embedder=r"^cap_embedder\.1$",
        picture=r"^(layers|noise_refiner)\.\d+\.(attention|feed_forward)\.", naming="parts"),
    ModelFamily("Lumina 2", (r"^context_refiner\.0\.attention\.qkv$",),
        text=r"^(cap_embedder\.1|context_refiner\.\d+\.attention\.qkv)$",
        embedder=r"^cap_embedder\.1$", pooled=r"^clip_text_pooled_proj\.1$",
        picture=r"^(layers|noise_refiner)\.\d+\.(attention|feed_forward)\."),
    ModelFamily("Qwen-Image", (r"^transformer_blocks\.0\.attn\.add_k_proj$",),
        text=r"^transformer_blocks\.\d+\.attn\.add_[kv]_proj$",
        picture=r"^transformer_blocks\.\d+\.(attn\.to_|img_mlp)"),
    ModelFamily("HiDream", (r"^double_stream_blocks\.0\.block\.attn1\.to_k_t$",),
        text=r"^double_stream_blocks\.\d+\.block\.attn1\.to_[kv]_t$",
        embedder=r"^caption_projection\.\d+\.linear$", pooled=r"^p_embedder\.pooled_embedder\.linear_1$",
        picture=r"^(double_stream_blocks\.\d+\.block\.(attn1\.to_[a-z]+$|ff_i)|single_stream_blocks\.\d+\.block\.(attn1|ff_i))"),
    ModelFamily("Wan", (r"^blocks\.0\.cross_attn\.k$",),
        text=r"^blocks\.\d+\.cross_attn\.[kv]$", picture=r"^blocks\.\d+\.(self_attn|ffn)\."),
    ModelFamily("Cosmos-Predict2", (r"^blocks\.0\.cross_attn\.k_proj$",),
        text=r"^blocks\.\d+\.cross_attn\.[kv]_proj$", picture=r"^blocks\.\d+\.(self_attn|mlp)\."),
)  # fmt: skip
"""A model is of the first family whose signature it has."""


@dataclass(frozen=True)
class TargetLayers:
    """The Linears that a concept LoRA is trained on, by module path, in the model's own order.

    family: the model's family, None for an unknown one.
    read_text: whether the Linears are those that read the text; of the family's `text` layers, only its `part` is
        trained.
    warning: what to tell the user about a model of an unknown family.
    """

    linears: dict[str, torch.nn.Linear]
    family: ModelFamily | None = None
    read_text: bool = False
    warning: str = ""

    @property
    def naming(self) -> str:
        """How loaders expect the names in LoRA files for this model (`host.names_in_files`)."""
        return self.family.naming if self.family else ModelFamily.naming

    def trained_outputs(self, path: str) -> tuple[int, int]:
        """The outputs of a Linear that a LoRA may change, as the first one and their number."""
        outputs = self.linears[path].out_features
        if self.family is None or not self.read_text or not re.search(self.family.text, path):
            return 0, outputs
        first, number = self.family.part
        return outputs * first // self.family.of, outputs * number // self.family.of


def reads_text(family: ModelFamily | None, path: str) -> bool:
    """Whether a layer is known to read the text. Deep in some families, the text that it reads has seen the picture."""
    return family is not None and re.search(f"{family.text}|{family.every_way_in}", path) is not None


def select_target_layers(model: torch.nn.Module, choice: str, pattern: str = "") -> TargetLayers:
    """The Linears of a diffusion model to train for one of TARGET_CHOICES.

    With CUSTOM, they are those whose module path contains a match of `pattern` (`patterns.Pattern`), for models of any
    family. Raises ValueError for another choice on a model of an unknown family, and if no Linear is selected.
    """
    linears = _linears(model)
    family = _family(linears)
    if choice == CUSTOM:
        chosen = {path: linears[path] for path in _matching(pattern, linears)} if pattern else {}
        if not chosen:
            raise ValueError(
                f"`pattern` is {printable(pattern)!r}, and none of the model's {len(linears)} Linears matches it: "
                f"their names are such as {', '.join(map(repr, _examples(linears)))}."
            )
        warning = (
            f"UnGuide does not know models such as {type(model).__name__}: see in the preview grid whether training "
            f"these layers erases anything."
        )
        return TargetLayers(chosen, family, warning="" if family else warning)
    if choice not in TARGET_CHOICES:
        raise ValueError(f"`targets` is {choice!r}: use one of {', '.join(map(repr, TARGET_CHOICES))}.")
    if family is None:
        raise ValueError(
            f"This model ({type(model).__name__}) is of a family that UnGuide does not know: use one of "
            f"{', '.join(known.name for known in FAMILIES)}, or set `targets` to {CUSTOM!r} and `pattern` to a regular "
            f"expression for the layers that read the prompt, such as {_examples(linears)[0]!r}."
        )
    read_text = choice != ALL_BUT_CROSS_ATTENTION
    patterns = {AUTOMATIC: family.every_way_in, CROSS_ATTENTION: family.text, ALL_BUT_CROSS_ATTENTION: family.picture}
    layers = re.compile(patterns[choice])
    return TargetLayers({path: linear for path, linear in linears.items() if layers.search(path)}, family, read_text)


def family_of(model: torch.nn.Module) -> ModelFamily | None:
    """The family of a diffusion model, None for an unknown one."""
    return _family(_linears(model))


def _family(paths: Collection[str]) -> ModelFamily | None:
    def is_of(family: ModelFamily) -> bool:
        return all(any(map(re.compile(pattern).search, paths)) for pattern in family.signature)

    return next(filter(is_of, FAMILIES), None)


def effective_cfg(model: torch.nn.Module, cfg: float) -> float:
    """The classifier-free guidance to sample a diffusion model with: `cfg`, but 1 if its family is distilled."""
    family = family_of(model)
    return 1.0 if family and family.distilled else cfg


def _linears(model: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """A model's Linears by module path, as if nothing was compiled.

    They are recognised by their attributes: hosts have Linear classes of their own.
    """
    return {
        name.replace("_orig_mod.", ""): cast(torch.nn.Linear, module)
        for name, module in model.named_modules()
        if isinstance(getattr(module, "in_features", None), int) and hasattr(module, "out_features")
    }


def _matching(pattern: str, paths: Iterable[str]) -> list[str]:
    try:
        compiled = Pattern(pattern)
        return [path for path in paths if compiled.is_in(path)]
    except ValueError as error:
        raise ValueError(
            f"`pattern` is {printable(pattern)!r}, which is not a regular expression for layers: {error}."
        ) from None


def _examples(linears: dict) -> list[str]:
    """A few module paths for error messages, of attention layers if there are any."""
    attention = [path for path in linears if "attn" in path or "attention" in path]
    return [*attention, *linears, "(none)"][:3]
