"""`targets` = automatic is every way the text enters: proved on a model of every family, by the host's own code."""

import re
from functools import partial

import pytest
import torch
from unguide.unguide_ops import host
from unguide.unguide_ops.lora import target_layers
from unguide.unguide_ops.lora.forward_patch import patched_forwards

from dev.families.tiny import TINY

INCOMPLETE = {"SDXL", "SDXL refiner", "SSD-1B", "SD3", "SD3.5", "Flux dev", "Flux schnell", "Flux 2", "Chroma",
              "AuraFlow", "Hunyuan-DiT", "HiDream"}  # fmt: skip
"""Where keys and values of the text are not every way in."""

PROMPT, OTHER = "the cat", "the dog"  # as many letters, and so as many tokens


class Swap:
    """What some layers give under one prompt, put in their place under another."""

    def __init__(self, selection):
        self.selection, self.recorded = selection, {}

    def record(self, path, forward):
        def recording(x, *args, **kwargs):
            y = forward(x, *args, **kwargs)
            self.recorded.setdefault(path, []).append(y.clone())
            return y

        return recording

    def replace(self, path, forward):
        first, number = self.selection.trained_outputs(path)
        those = iter(self.recorded[path])

        def replaced(x, *args, **kwargs):
            y = forward(x, *args, **kwargs).clone()
            y[..., first : first + number] = next(those)[..., first : first + number]
            return y

        return replaced


def predictions(tiny, model, selection, choices):
    """The prediction under OTHER, and those under PROMPT with some layers giving what they give under OTHER."""

    def body(live):
        x = live.first_latents(0.7, torch.randn(latent.shape, generator=torch.Generator().manual_seed(3)))
        swap = Swap(selection)
        with patched_forwards((linear, partial(swap.record, path)) for path, linear in selection.linears.items()):
            (other,) = live.predictions(x, 0.7, OTHER)
        found = []
        for choice in choices:
            called = [path for path in choice if path in swap.recorded]
            with patched_forwards((selection.linears[path], partial(swap.replace, path)) for path in called):
                found += live.predictions(x, 0.7, PROMPT)
        return other, found

    latent = host.empty_latent(model, tiny.size, tiny.size)
    return host.session(model, {text: tiny.prompt(text) for text in (PROMPT, OTHER)}, latent, body)


def selected(model, choice):
    return target_layers.select_target_layers(host.diffusion_model(model), choice)


@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
def test_nothing_else_tells_one_prompt_from_another(tiny):
    model = tiny.model()
    selection = selected(model, target_layers.AUTOMATIC)
    paths, pooled = list(selection.linears), selection.family.pooled
    text = [path for path in paths if not pooled or not re.search(pooled, path)]
    second = [path for path in paths if path not in text]
    other, (nothing, everything, *all_but_one) = predictions(
        tiny, model, selection, [[], paths, *([text, second] if second else [])]
    )
    assert not torch.allclose(nothing, other, atol=1e-4)
    torch.testing.assert_close(everything, other, atol=1e-6, rtol=1e-5)
    for left_one_out in all_but_one:
        assert not torch.allclose(left_one_out, other, atol=1e-4)


@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
def test_keys_and_values_are_every_way_unless_the_family_says_more(tiny):
    model = tiny.model()
    selection = selected(model, target_layers.CROSS_ATTENTION)
    other, (replaced,) = predictions(tiny, model, selection, [list(selection.linears)])
    same = torch.allclose(replaced, other, atol=1e-6, rtol=1e-5)
    every_way = selected(model, target_layers.AUTOMATIC)
    assert same or list(every_way.linears) != list(selection.linears)
    assert same == (tiny.name not in INCOMPLETE)
