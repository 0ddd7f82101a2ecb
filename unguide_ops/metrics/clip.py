"""CLIP from a file of the user's, through open_clip: zero-shot classification, CLIP score, and features."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError

from .optional_import import require
from .pictures import as_images

TEMPLATE = "a photo of the {}"  # of MACE's and UnGuide's prompts for zero-shot classes


class Clip:
    """An open_clip model. It runs on the device of its weights (`network.to(device)`)."""

    def __init__(self, weights: Path):
        """Load the model from `<architecture>.safetensors`.

        A file `<architecture>.json` beside it is the open_clip config of an architecture that open_clip does not know.
        Raises ValueError if there is no such file or architecture, if they do not fit, or if the architecture needs a
        download.
        """
        name = weights.stem
        if not weights.is_file():
            raise ValueError(f"There is no CLIP model {weights}: put the weights of open_clip's {name} there.")
        open_clip = require("open_clip")
        if (config := weights.with_suffix(".json")).is_file():
            check_config(config)
            open_clip.add_model_config(config)
        check_architecture(name, open_clip.get_model_config(name), open_clip.list_models())
        try:
            network, _, self._prepare = open_clip.create_model_and_transforms(name, pretrained=str(weights))
        except (RuntimeError, AssertionError, SafetensorError) as error:
            raise ValueError(
                f"{weights} does not hold the weights of open_clip's {name}: the file must be named after its "
                f"architecture. ({str(error)[:300]})"
            ) from error
        self.network = network.eval().requires_grad_(False)
        self._tokenize = open_clip.get_tokenizer(name)

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return self.network.logit_scale.device

    @torch.no_grad()
    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """The image encoder's output for pictures [B, 3, H, W], uint8 or in [0, 1]: fp32 [B, width], on the CPU."""
        prepared = torch.stack([self._prepare(image) for image in as_images(pictures)])
        return self.network.encode_image(prepared.to(self.device)).float().cpu()

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> torch.Tensor:
        """The text encoder's output for texts: fp32 [texts, width], on the CPU."""
        return self.network.encode_text(self._tokenize(list(texts)).to(self.device)).float().cpu()


def check_config(path: Path) -> None:
    """Raises ValueError for a file that is not an open_clip config: it would break open_clip for the whole process."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): put an open_clip model config there, or nothing.") from error
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        raise ValueError(f"{path} is not an open_clip model config: it needs embed_dim, vision_cfg and text_cfg.")


def check_architecture(name: str, config: dict | None, architectures: Sequence[str]) -> None:
    """Raises ValueError for an architecture that open_clip does not know, or whose tokenizer it would download.

    `config` is open_clip's for this name, if it has one; `architectures` are the names that it knows.
    """
    if config is None:
        similar = ", ".join(it for it in architectures if it.startswith(name[:5])) or "ViT-L-14, ViT-B-32"
        raise ValueError(
            f"open_clip knows no architecture {name!r}: name the file after one ({similar} ...), or put its open_clip "
            f"config beside it as {name}.json."
        )
    if "siglip" in name.lower() or {"hf_tokenizer_name", "hf_model_name"} & config["text_cfg"].keys():
        raise ValueError(f"open_clip would download a tokenizer for {name}: take a model with its own, as ViT-L-14.")


class ZeroShot:
    """A `Classifier` for any names: the text "a photo of the (name)" that is most similar to the picture wins."""

    def __init__(self, clip: Clip, names: Sequence[str], template: str = TEMPLATE):
        """The template is filled with each name; for names that are whole prompts give "{}"."""
        self.names, self._clip = list(names), clip
        self._texts = _unit(clip.text_features([template.format(name) for name in names]))

    def logits(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures [B, 3, H, W] -> [B, names]: cosines times the model's own scale, which is 100 for OpenAI's."""
        return self._clip.network.logit_scale.exp().cpu() * _unit(self._clip.features(pictures)) @ self._texts.T


def clip_score(clip: Clip, pictures: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    """The CLIP score (torchmetrics') of each of the pictures [N, 3, H, W] with its own prompt: 100 max(cos, 0), [N].

    Raises ValueError unless there is one prompt, a string, for each picture.
    """
    if isinstance(prompts, str) or len(prompts) != len(pictures):
        raise ValueError(f"{len(pictures)} `pictures` need as many `prompts`, each its own: give a list of them.")
    if not_strings := [it for it in prompts if not isinstance(it, str)]:
        raise ValueError(f"`prompts` holds {not_strings[0]!r}: give each picture's prompt as a string.")
    distinct = list(dict.fromkeys(prompts))
    texts = _unit(clip.text_features(distinct))[[distinct.index(prompt) for prompt in prompts]]
    return 100 * (_unit(clip.features(pictures)) * texts).sum(1).clamp_min(0)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True)
