"""CLIP's text model in plain torch, under the host's names for its weights, and CLIP's tokenizer.

The host's own layers add in place, which autograd refuses; the outputs are the same.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTokenizer

from dev.hosts import HOST

TOKENIZER = HOST / "comfy" / "sd1_tokenizer"
POSITIONS = 77
START, END = 49406, 49407


class Vocabulary:
    """CLIP's tokens of some words, and which of the 49,408 tokens are in use."""

    def __init__(self, words: set[str]):
        ordered = sorted(words)
        prompts = CLIPTokenizer.from_pretrained(TOKENIZER)(ordered)["input_ids"]
        self._tokens = {word: tokens[1:-1] for word, tokens in zip(ordered, prompts, strict=True)}
        self.token_ids = sorted({token for tokens in self._tokens.values() for token in tokens} | {START, END})
        self.row_of = np.zeros(END + 1, dtype=np.int64)
        self.row_of[self.token_ids] = np.arange(len(self.token_ids))

    def tokens(self, text: str) -> list[int]:
        """The tokens of `text`, whose words must be in the vocabulary, without start and end."""
        return [token for word in text.split() for token in self._tokens[word]]


class TextStudent(nn.Module):
    """The text model of a `config` as the host takes it; `rows` is the size of its token table."""

    def __init__(self, config: dict, rows: int):
        super().__init__()
        width = config["hidden_size"]
        layers = [Layer(width, config["num_attention_heads"], config["intermediate_size"])
                  for _ in range(config["num_hidden_layers"])]  # fmt: skip
        tokens, positions = nn.Embedding(rows, width), nn.Embedding(POSITIONS, width)
        self.text_model = nn.ModuleDict({
            "embeddings": nn.ModuleDict({"token_embedding": tokens, "position_embedding": positions}),
            "encoder": nn.ModuleDict({"layers": nn.ModuleList(layers)}),
            "final_layer_norm": nn.LayerNorm(width),
        })  # fmt: skip
        nn.init.normal_(tokens.weight, std=0.02)
        nn.init.normal_(positions.weight, std=0.01)

    def forward(self, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Outputs [N, length, width] for rows of the token table and positions, both [N, length]."""
        embeddings = self.text_model["embeddings"]
        x = embeddings["token_embedding"](rows) + embeddings["position_embedding"](positions)
        for layer in self.text_model["encoder"]["layers"]:
            x = layer(x)
        return self.text_model["final_layer_norm"](x)


class Layer(nn.Module):
    """One causal transformer layer."""

    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.heads = heads
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attn = nn.ModuleDict(
            {name: nn.Linear(width, width) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
        )
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs [N, length, width]; each position sees those before it."""
        x = x + self._attend(self.layer_norm1(x))
        inner = self.mlp["fc1"](self.layer_norm2(x))
        return x + self.mlp["fc2"](inner * torch.sigmoid(1.702 * inner))

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            self.self_attn[name](x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5  # torch's fused attention is slow at learning
        later = torch.ones(scores.shape[2:], dtype=torch.bool).triu(1)
        out = scores.masked_fill(later, -torch.inf).softmax(-1).to(value.dtype) @ value
        return self.self_attn["out_proj"](out.transpose(1, 2).flatten(2))


class TextEncoder:
    """The finished encoder, out of its two files: prompts in, the input of cross-attention out."""

    def __init__(self, folder: Path):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["text"]
        state = load_file(folder / "text_encoder.safetensors")
        ids, rows = state.pop("token_ids").long(), state.pop("token_rows")
        self.row_of = torch.full((config["vocab_size"],), len(ids))  # tokens not in use share one row of zeros
        self.row_of[ids] = torch.arange(len(ids))
        state["text_model.embeddings.token_embedding.weight"] = torch.cat([rows, torch.zeros_like(rows[:1])])
        self.model = TextStudent(config, len(ids) + 1).eval().requires_grad_(False)
        self.model.load_state_dict({key: value.float() for key, value in state.items()})
        self.tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> torch.Tensor:
        """Outputs, float32 [number of prompts, 77, width]."""
        return self.model(self.row_of[self.tokens(prompts)], torch.arange(POSITIONS).expand(len(prompts), -1))

    def tokens(self, prompts: list[str]) -> torch.Tensor:
        """CLIP's tokens, [number of prompts, 77]."""
        options = {"padding": "max_length", "max_length": POSITIONS, "truncation": True, "return_tensors": "pt"}
        return self.tokenizer(prompts, **options)["input_ids"]

    def ends(self, prompts: list[str]) -> torch.Tensor:
        """The position of each prompt's end token."""
        return (self.tokens(prompts) == END).int().argmax(-1)
