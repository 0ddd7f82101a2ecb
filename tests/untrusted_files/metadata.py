"""LoRAs whose entry of ours in the metadata lies."""

import base64
from collections.abc import Callable

import torch
from safetensors.torch import save
from untrusted_files.builders import Builder, Table, nested, pack
from untrusted_files.builders import lora_file as file
from untrusted_files.corpus import CALIBRATION, CONCEPT, INPUTS, LAYER, LEVEL, kohya, unguide_lora

full = torch.full


def packed_prompt(**tensors: torch.Tensor) -> str:
    """A target prompt's conditioning as the metadata has it."""
    return base64.b64encode(save(tensors)).decode()


def entry(text: str) -> Builder:
    """A LoRA with this text as our entry."""
    return file(lambda: save(kohya(), {"unguide": text}))


def changed(**changes) -> Builder:
    return file(lambda: unguide_lora(**changes))


def level(**changes) -> Builder:
    """A LoRA with changes in its calibration's only noise level."""
    return changed(calibration={**CALIBRATION, "levels": [{**LEVEL, **changes}]})


def prompt(make: Callable[[], dict[str, torch.Tensor]]) -> Builder:
    """A LoRA with these tensors as its target prompt."""
    return file(lambda: unguide_lora(target_prompt=packed_prompt(**make())))


unreadable = "target prompt cannot be read"
malformed = "its metadata is malformed: "
CASES: Table = {name: ("lora", *case) for name, case in {
    "another's entry of 50 MB": (file(lambda: save(kohya(), {"x": "y" * 50_000_000})), ""),
    "50 MB of text": (file(lambda: unguide_lora(concept={**CONCEPT, "target": "x" * 50_000_000})), "concept.target: "),
    "nested": (entry(nested()), malformed),
    "a nested training": (entry('{"training":' + nested() + "}"), malformed),
    "20 million parts": (file(lambda: save(kohya(), {"unguide": "[" + "0," * 20_000_000 + "0]"})), "parts"),
    "no JSON": (entry("{"), "Invalid JSON"),
    "a list": (entry("[1]"), "unguide: "),
    "a number of 5,000 digits": (entry('{"version":' + "9" * 5000 + "}"), malformed),
    "a later version": (changed(version=99), "version: "),
    "a concept that is a list": (changed(concept=[1]), "concept: "),
    "a concept of 100,000 prompts": (changed(concept={**CONCEPT, "preserve": ["x"] * 100_000}), "concept.preserve"),
    "a lone surrogate": (entry('{"concept":{"target":"\\ud800"}}'), malformed),
    "endless iterations": (entry('{"training":{"iterations_done":1e400}}'), "training.iterations_done"),
    "an alpha of nothing": (changed(training={"alphas": {LAYER: 0}}), "training.alphas"),
    "a calibration that is NaN": (level(neutral=[float("nan")] * 4), "calibration.levels.0.neutral.0: "),
    "a calibration that is infinite": (level(target=[1e400]), "calibration.levels.0.target.0: "),
    "a negative noise level": (level(sigma=-1), "calibration.levels.0.sigma: "),
    "a thousand and one scores": (level(neutral=[0.0] * 1001), "calibration.levels.0.neutral: "),
    "a thousand levels": (changed(calibration={**CALIBRATION, "levels": [LEVEL] * 1000}), "calibration.levels: "),
    "a target prompt that is no base64": (changed(target_prompt="*"), unreadable),
    "a target prompt that is no file": (changed(target_prompt="AAAA"), unreadable),
    "a target prompt with a deep header": (
        changed(target_prompt=base64.b64encode(pack(nested())).decode()), unreadable),
    "a target prompt that claims gigabytes": (
        changed(target_prompt=base64.b64encode(b"\xff" * 7 + b"\0{}").decode()), unreadable),
    "a target prompt of 20 MB": (
        file(lambda: unguide_lora(target_prompt=base64.b64encode(bytes(15_000_000)).decode())), "cannot be read"),
    "a target prompt of 200,000 tokens": (prompt(lambda: {"cross_attn": full((1, 200_000, 16), 0.0)}), "200000 tokens"),
    "a target prompt of 40 million numbers": (
        prompt(lambda: {"cross_attn": full((1, 2, 2), 0.0), "x": full((40_000_000,), 0.0).char()}),
        "cannot be read|claims"),
    "a target prompt of a thousand dimensions": (prompt(lambda: {"cross_attn": full([1] * 1000, 0.0)}), unreadable),
    "a target prompt of another name": (prompt(lambda: {"x": full((1, 77, INPUTS), 0.0)}), "no `cross_attn`"),
    "a target prompt of another shape": (prompt(lambda: {"cross_attn": full((77, INPUTS), 0.0)}), "no `cross_attn`"),
    "a target prompt that is NaN": (prompt(lambda: {"cross_attn": full((1, 77, INPUTS), float("nan"))}), "type, NaN"),
    "a target prompt that is empty": (prompt(lambda: {"cross_attn": full((1, 0, INPUTS), 0.0)}), "is empty"),
}.items()}  # fmt: skip
