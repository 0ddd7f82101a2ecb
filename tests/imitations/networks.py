"""Packs that replace parts of the network: torch.compile nodes, ComfyUI_TensorRT, packs that inject forwards."""

from __future__ import annotations

import copy
from functools import partial

import torch
from comfy.patcher_extension import PatcherInjection
from imitations.parts import Expected, Part
from imitations.sampling import Assets
from unguide.unguide_ops import host

GROUP = "parts of the network replaced"
SAME = "compiled, it computes the same"
WITH_ATTENTION = "diffusion_model.middle_block.1.transformer_blocks.0"


def compiled_block(assets: Assets, model):
    """A compiled block in the place of the original one."""
    model = model.clone()
    model.add_object_patch(WITH_ATTENTION, torch.compile(model.get_model_object(WITH_ATTENTION), backend="eager"))
    return model


def injected_forwards(assets: Assets, model):
    """Forwards of layers changed through ComfyUI's injections, which it takes out while it moves weights."""
    model = model.clone()
    modules = model.model.diffusion_model.named_modules()
    layers = [layer for path, layer in modules if path.endswith(("to_k", "to_out.0"))]
    originals: dict = {}

    def inject(patcher) -> None:
        for layer in layers:
            originals[layer] = layer.forward
            layer.forward = partial(_shifted, layer.forward)

    def eject(patcher) -> None:
        for layer in layers:
            layer.forward = originals.pop(layer)

    model.set_injections("shifted", [PatcherInjection(inject, eject)])
    return model


def _shifted(forward, x, *args, **kwargs):
    return forward(x, *args, **kwargs) + 0.1 * torch.roll(forward(x), 1, -1)


class MixingBlock(torch.nn.Module):
    """A block within another module, which adds a share of the block's previous output."""

    def __init__(self, block: torch.nn.Module):
        super().__init__()
        self.block, self.previous = block, None

    def forward(self, *args, **kwargs):
        """The mix of this output and the previous one."""
        out = self.block(*args, **kwargs)
        mixed = out if self.previous is None else 0.8 * out + 0.2 * self.previous
        self.previous = out
        return mixed


def wrapped(name: str):
    """The patch that puts the module of this name into a `MixingBlock`, so that its layers have other names."""

    def patch(assets: Assets, model):
        model = model.clone()
        model.add_object_patch(name, MixingBlock(model.get_model_object(name)))
        return model

    return patch


def replaced_network(assets: Assets, model):
    """Another network with the same weights in the place of the MODEL's own."""
    model = model.clone()
    with host.original_modules(model) as network:  # without what another part has put into it before
        model.add_object_patch("diffusion_model", copy.deepcopy(network))
    return model


PARTS = [
    Part("blocks compiled", GROUP, compiled_block, expected=Expected(no_effect=SAME)),
    Part("blocks in other modules", GROUP, wrapped(WITH_ATTENTION), fast=True),
    Part("blocks without its layers in other modules", GROUP, wrapped("diffusion_model.out")),
    Part("forwards injected", GROUP, injected_forwards, fast=True),
    Part("another network in its place", GROUP, replaced_network,
         expected=Expected(refusal="changes nothing|had no effect|has no layer", no_effect=SAME), fast=True),
]  # fmt: skip
