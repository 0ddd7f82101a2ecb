"""Good files of every kind that strangers share, as the pack and other tools write them: what is made hostile."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
PATH = "input_blocks.1.1.transformer_blocks.0.attn2.to_k"
INPUTS, OUTPUTS = 192, 64  # of that layer of the embedded model
CONCEPT = {"target": "a photo of the cat", "reference": "a photo of the forest", "synonyms": ["a photo of the feline"],
           "other": ["a photo of the dog", ""], "preserve": ["a photo of the dog"]}  # fmt: skip
CSV = 'number,prompt,evaluation_seed,evaluation_guidance,categories\n0,"a photo, of the cat",5,7.5,x\n1,the dog,,,\n'
LEVEL = {"sigma": 10.0, "neutral": [0.0, 0.1, 0.05, 0.02], "preserved": [0.1], "target": [1.0], "synonyms": [0.9]}
CALIBRATION = {"base": "x", "width": 64, "height": 64, "cfg": 7.5, "steps": 10, "levels": [LEVEL]}


def pair(rank: int = 2) -> dict:
    """Tensors by suffix, in kohya's names."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return {"lora_down.weight": torch.randn(rank, INPUTS, generator=generator),
            "lora_up.weight": torch.randn(OUTPUTS, rank, generator=generator) / 10,
            "alpha": torch.tensor(float(rank))}  # fmt: skip


def kohya(**changed) -> dict:
    """The same by name, with some changed; None leaves out."""
    its = {**pair(), **{name.replace("__", "."): it for name, it in changed.items()}}
    return {f"{LAYER}.{name}": it for name, it in its.items() if it is not None}


def safetensors(tensors: dict, metadata: dict | None = None) -> bytes:
    """A file of these."""
    from safetensors.torch import save

    return save(tensors, metadata)


def ours(**changed) -> bytes:
    """A LoRA as UnGuide Save LoRA writes it, with parts of its metadata changed."""
    import torch

    from unguide_ops.calibration import Calibration
    from unguide_ops.files import KEY, save_lora
    from unguide_ops.lora import ConceptLoRA, LowRankPair

    down, up, _ = pair().values()
    said = {"cross_attn": torch.zeros(1, 77, INPUTS).half(), "pooled_output": torch.zeros(1, INPUTS).half()}
    it = ConceptLoRA({LAYER: LowRankPair(down, up, 1.0)}, CONCEPT, {"rank": 2, "iterations_done": 60}, said,
                     Calibration.model_validate(CALIBRATION))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "it.safetensors")
        save_lora(path, it)
        content = path.read_bytes()
    if not changed:
        return content
    header, data = unpacked(content)
    about = json.loads(header["__metadata__"][KEY])
    header["__metadata__"][KEY] = json.dumps(about | changed)
    return packed(header, data)


def unpacked(content: bytes) -> tuple[dict, bytes]:
    """A safetensors file's header and its data."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def packed(header: dict | str | bytes, data: bytes = b"") -> bytes:
    """The inverse; the header may be anything."""
    text = json.dumps(header) if isinstance(header, dict) else header
    text = text.encode() if isinstance(text, str) else text
    return len(text).to_bytes(8, "little") + text + data


def pth(content: object = None, **options) -> bytes:
    """What torch.save makes of a LoRA in the authors' layout, or of anything else."""
    import torch

    down, up, _ = pair().values()
    file = io.BytesIO()
    torch.save({f"{PATH}.lora.A": down.T.clone(), f"{PATH}.lora.B": up.T.clone()} if content is None else content, file,
               **options)  # fmt: skip
    return file.getvalue()


SEEDS = {
    "lora": {"ours.safetensors": ours, "kohya.safetensors": lambda: safetensors(kohya(), {"ss_network_dim": "2"})},
    "imported": {"lora.pth": pth, "kohya.safetensors": lambda: safetensors(kohya())},
    "drawn": {"drawn.safetensors": lambda: safetensors(kohya())},
    "concept": {"concept.json": lambda: json.dumps(CONCEPT).encode()},
    "prompt_list": {"list.csv": CSV.encode, "concept.json": lambda: json.dumps(CONCEPT).encode(),
                    "list.jsonl": lambda: b'"a"\n{"prompt": "b", "sd_seed": 3, "x": "y"}\n',
                    "list.json": lambda: json.dumps(["a", {"prompt": "b", "evaluation_seed": 3, "x": "y"}]).encode()},
}  # fmt: skip
"""By the parser that opens them, and a file's name."""
