"""What our entry of a LoRA's metadata may hold."""

from __future__ import annotations

import base64
from collections.abc import Callable

from dev.reliability.hostile.making import Make, Table, nested, written
from dev.reliability.seeds import CALIBRATION, CONCEPT, INPUTS, LAYER, LEVEL, kohya, ours, packed, safetensors


def prompt(**tensors) -> str:
    """A packed target prompt."""
    return base64.b64encode(safetensors(tensors)).decode()


def table() -> Table:
    """All of them."""

    def file(content) -> Make:
        return written("lora.safetensors", content)

    def text(about: str) -> Make:
        return file(lambda: safetensors(kohya(), {"unguide": about}))

    def changed(**its) -> Make:
        return file(lambda: ours(**its))

    def levels(**its) -> Make:
        return changed(calibration={**CALIBRATION, "levels": [{**LEVEL, **its}]})

    def said(make: Callable[[], dict]) -> Make:
        return file(lambda: ours(target_prompt=prompt(**make())))

    def full(*shape: int, value: float = 0.0):
        import torch

        return torch.full(shape, value)

    return {name: ("lora", make, expected) for name, (make, expected) in {
        "another's entry of 50 MB": (file(lambda: safetensors(kohya(), {"x": "y" * 50_000_000})), ""),
        "50 MB of text": (file(lambda: ours(concept={**CONCEPT, "target": "x" * 50_000_000})), "concept.target: "),
        "nested": (text(nested()), "its metadata is malformed: "),
        "a nested training": (text('{"training":' + nested() + "}"), "its metadata is malformed: "),
        "20 million parts": (file(lambda: safetensors(kohya(), {"unguide": "[" + "0," * 20_000_000 + "0]"})), "parts"),
        "no JSON": (text("{"), "Invalid JSON"),
        "a list": (text("[1]"), "unguide: "),
        "a number of 5,000 digits": (text('{"version":' + "9" * 5000 + "}"), "its metadata is malformed: "),
        "a later version": (changed(version=99), "version: "),
        "a concept that is a list": (changed(concept=[1]), "concept: "),
        "a concept of 100,000 prompts": (changed(concept={**CONCEPT, "preserve": ["x"] * 100_000}), "concept.preserve"),
        "a lone surrogate": (text('{"concept":{"target":"\\ud800"}}'), "its metadata is malformed: "),
        "endless iterations": (text('{"training":{"iterations_done":1e400}}'), "training.iterations_done"),
        "an alpha of nothing": (changed(training={"alphas": {LAYER: 0}}), "training.alphas"),
        "a calibration that is no number": (levels(neutral=[float("nan")] * 4), "calibration.levels.0.neutral.0: "),
        "a calibration that is infinite": (levels(target=[1e400]), "calibration.levels.0.target.0: "),
        "a negative noise level": (levels(sigma=-1), "calibration.levels.0.sigma: "),
        "a thousand and one scores": (levels(neutral=[0.0] * 1001), "calibration.levels.0.neutral: "),
        "a thousand levels": (changed(calibration={**CALIBRATION, "levels": [LEVEL] * 1000}), "calibration.levels: "),
        "a target prompt that is no base64": (changed(target_prompt="*"), "target prompt cannot be read"),
        "a target prompt that is no file": (changed(target_prompt="AAAA"), "target prompt cannot be read"),
        "a target prompt with a deep header": (
            changed(target_prompt=base64.b64encode(packed(nested())).decode()), "target prompt cannot be read"),
        "a target prompt that claims gigabytes": (
            changed(target_prompt=base64.b64encode(b"\xff" * 7 + b"\0{}").decode()), "target prompt cannot be read"),
        "a target prompt of 20 MB": (
            file(lambda: ours(target_prompt=base64.b64encode(bytes(15_000_000)).decode())), "cannot be read"),
        "a target prompt of 200,000 tokens": (said(lambda: {"cross_attn": full(1, 200_000, 16)}), "200000 tokens"),
        "a target prompt of 40 million numbers": (
            said(lambda: {"cross_attn": full(1, 2, 2), "x": full(40_000_000).char()}), "cannot be read|claims"),
        "a target prompt of a thousand dimensions": (
            said(lambda: {"cross_attn": full(*[1] * 1000)}), "target prompt cannot be read"),
        "a target prompt of another name": (said(lambda: {"x": full(1, 77, INPUTS)}), "no `cross_attn`"),
        "a target prompt of another shape": (said(lambda: {"cross_attn": full(77, INPUTS)}), "no `cross_attn`"),
        "a target prompt that is no number": (
            said(lambda: {"cross_attn": full(1, 77, INPUTS, value=float("nan"))}), "no number"),
        "a target prompt that is empty": (said(lambda: {"cross_attn": full(1, 0, INPUTS)}), "is empty"),
    }.items()}  # fmt: skip
