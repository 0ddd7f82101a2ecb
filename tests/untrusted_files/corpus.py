"""Good files of each kind that people share, as UnGuide and other tools write them: the base of untrusted ones."""

import io
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save
from unguide.unguide_ops.concept_lora import ConceptLoRA
from unguide.unguide_ops.files.lora_file import KEY, save_lora
from unguide.unguide_ops.gate.calibration import Calibration
from unguide.unguide_ops.lora.low_rank import LowRankPair
from untrusted_files.builders import pack, unpack

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
PATH = "input_blocks.1.1.transformer_blocks.0.attn2.to_k"
INPUTS, OUTPUTS = 192, 64  # of that layer of the embedded model
CONCEPT = {"target": "a photo of the cat", "reference": "a photo of the forest", "synonyms": ["a photo of the feline"],
           "other": ["a photo of the dog", ""], "preserve": ["a photo of the dog"]}  # fmt: skip
CSV = 'number,prompt,evaluation_seed,evaluation_guidance,categories\n0,"a photo, of the cat",5,7.5,x\n1,the dog,,,\n'
LEVEL = {"sigma": 10.0, "neutral": [0.0, 0.1, 0.05, 0.02], "preserved": [0.1], "target": [1.0], "synonyms": [0.9]}
CALIBRATION = {"base": "x", "width": 64, "height": 64, "cfg": 7.5, "steps": 10, "levels": [LEVEL]}


def pair(rank: int = 2) -> dict[str, torch.Tensor]:
    """The tensors of a layer by suffix, in kohya's names."""
    generator = torch.Generator().manual_seed(0)
    return {"lora_down.weight": torch.randn(rank, INPUTS, generator=generator),
            "lora_up.weight": torch.randn(OUTPUTS, rank, generator=generator) / 10,
            "alpha": torch.tensor(float(rank))}  # fmt: skip


def lower_half(value: float, index: int = 0) -> torch.Tensor:
    """The lower half of a pair with one number replaced."""
    down = pair()["lora_down.weight"]
    down.view(-1)[index] = value
    return down


def kohya(**changes) -> dict[str, torch.Tensor]:
    """The tensors of `pair` by name, with changes by suffix (`__` is a dot); None leaves a tensor out."""
    tensors = pair() | {suffix.replace("__", "."): tensor for suffix, tensor in changes.items()}
    return {f"{LAYER}.{suffix}": tensor for suffix, tensor in tensors.items() if tensor is not None}


def unguide_lora(**changes) -> bytes:
    """A LoRA as UnGuide Save LoRA writes it, with changes in its entry of the metadata."""
    down, up, _ = pair().values()
    prompt = {"cross_attn": torch.zeros(1, 77, INPUTS).half(), "pooled_output": torch.zeros(1, INPUTS).half()}
    lora = ConceptLoRA({LAYER: LowRankPair(down, up, 1.0)}, CONCEPT, {"rank": 2, "iterations_done": 60}, prompt,
                       Calibration.model_validate(CALIBRATION))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lora.safetensors")
        save_lora(path, lora)
        content = path.read_bytes()
    if not changes:
        return content
    header, data = unpack(content)
    header["__metadata__"][KEY] = json.dumps(json.loads(header["__metadata__"][KEY]) | changes)
    return pack(header, data)


def pth(content: object = None, **options) -> bytes:
    """What torch.save makes of a LoRA in the paper's authors' layout, or of any content."""
    down, up, _ = pair().values()
    file = io.BytesIO()
    torch.save({f"{PATH}.lora.A": down.T.clone(), f"{PATH}.lora.B": up.T.clone()} if content is None else content, file,
               **options)  # fmt: skip
    return file.getvalue()


CORPUS = {
    "lora": {"unguide.safetensors": unguide_lora, "kohya.safetensors": lambda: save(kohya(), {"ss_network_dim": "2"})},
    "imported": {"lora.pth": pth, "kohya.safetensors": lambda: save(kohya())},
    "drawn": {"drawn.safetensors": lambda: save(kohya())},
    "concept": {"concept.json": lambda: json.dumps(CONCEPT).encode()},
    "prompt_list": {"list.csv": CSV.encode, "concept.json": lambda: json.dumps(CONCEPT).encode(),
                    "list.jsonl": lambda: b'"a"\n{"prompt": "b", "sd_seed": 3, "x": "y"}\n',
                    "list.json": lambda: json.dumps(["a", {"prompt": "b", "evaluation_seed": 3, "x": "y"}]).encode()},
}  # fmt: skip
"""Functions that make them, by the parser that opens each and the file's name."""
