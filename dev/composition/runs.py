"""Runs of other kinds: noise levels that rise, that are split, or none; parts of the network replaced; ControlNet."""

from __future__ import annotations

import copy
from functools import partial

import comfy.sample
import comfy.samplers
import torch
from comfy.patcher_extension import PatcherInjection

from dev.composition import attention, caches
from dev.composition.parts import Expected, Part
from dev.composition.stage import SEED, Scene, Stage

RUNS = "runs of other kinds"
SAME = "compiled, it computes the same"
NETWORK = "parts of the network replaced"
CONTROL = "ControlNet, with other packs"


def no_steps(scene: Scene) -> None:
    """One noise level, no step."""
    scene.sigmas = scene.sigmas_of(scene.stage.model)[:1]


def restarting(scene: Scene) -> None:
    """Noise levels that rise again."""
    sigmas = scene.sigmas_of(scene.stage.model)
    scene.sigmas = torch.cat([sigmas[:-1], sigmas[1:]])


def restarting_by_itself(scene: Scene) -> None:
    """A sampler that raises the noise between steps of the list that it was given."""

    def restart(model, x, sigmas, extra_args=None, callback=None, disable=None):
        generator = torch.Generator().manual_seed(SEED)
        ones = x.new_ones(len(x))
        for now, then in zip(sigmas, sigmas[1:], strict=False):
            for _ in range(2):
                x0 = model(x, now * ones, **(extra_args or {}))
                lower = x0 + (x - x0) * then / now
                x = lower + torch.randn(x.shape, generator=generator) * (now**2 - then**2).clamp(min=0) ** 0.5
            x = lower
        return x

    scene.sampler = comfy.samplers.KSAMPLER(restart)


def split(scene: Scene) -> None:
    """Two runs, one after the other: high and low noise levels."""

    def run(model):
        sigmas = scene.sigmas_of(model)
        noise = comfy.sample.prepare_noise(scene.latent, SEED)
        half = scene.sample_from(model, noise, scene.latent, sigmas[:3])
        return scene.sample_from(model, torch.zeros_like(noise), half, sigmas[2:])

    scene.run = run


def unsampled(scene: Scene) -> None:
    """From the model's own picture up to noise, by the flipped noise levels, and down again."""
    picture = Scene(scene.stage, scene.prompts, steps=6).sample(scene.stage.model)

    def run(model):
        sigmas = scene.sigmas_of(model)[:-1]
        noise = scene.sample_from(model, torch.zeros_like(picture), picture, sigmas.flip(0))
        return scene.sample_from(model, torch.zeros_like(noise), noise, sigmas)

    scene.run = run


def compiled_blocks(stage: Stage, model):
    """A block compiled, in the place of its own, as packs' nodes for torch.compile do."""
    model, name = model.clone(), "diffusion_model.middle_block.1.transformer_blocks.0"
    model.add_object_patch(name, torch.compile(model.get_model_object(name), backend="eager"))
    return model


def injected(stage: Stage, model):
    """Forwards of layers changed through the host's injections, which it takes out while it moves weights."""
    model = model.clone()
    layers = [it for name, it in model.model.diffusion_model.named_modules() if name.endswith(("to_k", "to_out.0"))]
    kept: dict = {}

    def inject(patcher) -> None:
        for layer in layers:
            kept[layer] = layer.forward
            layer.forward = partial(_bent, layer.forward)

    def eject(patcher) -> None:
        for layer in layers:
            layer.forward = kept.pop(layer)

    model.set_injections("bent", [PatcherInjection(inject, eject)])
    return model


def _bent(forward, x, *args, **kwargs):
    return forward(x, *args, **kwargs) + 0.1 * torch.roll(forward(x), 1, -1)


class Wrapped(torch.nn.Module):
    """A block in another module, which keeps what it made before."""

    def __init__(self, block: torch.nn.Module):
        super().__init__()
        self.block, self.before = block, None

    def forward(self, *args, **kwargs):
        """A mix of both."""
        out = self.block(*args, **kwargs)
        mixed = out if self.before is None else 0.8 * out + 0.2 * self.before
        self.before = out
        return mixed


def wrapped_blocks(stage: Stage, model):
    """Blocks with attention put into other modules, so that their layers have other names."""
    return _with_object(model, "diffusion_model.middle_block.1.transformer_blocks.0")


def wrapped_without_layers(stage: Stage, model):
    """The same with a block that the LoRA does not touch."""
    return _with_object(model, "diffusion_model.out")


def replaced_network(stage: Stage, model):
    """Another network of the same weights in the place of the MODEL's own, as packs for TensorRT put one."""
    from unguide.unguide_ops import host

    model = model.clone()
    with host.as_in_its_file(model) as network:  # without what another part has put into it before
        model.add_object_patch("diffusion_model", copy.deepcopy(network))
    return model


def _with_object(model, name: str):
    model = model.clone()
    model.add_object_patch(name, Wrapped(model.get_model_object(name)))
    return model


def with_control(scene: Scene) -> None:
    """A ControlNet on both prompts."""
    import nodes

    apply = nodes.ControlNetApplyAdvanced().apply_controlnet
    net = scene.stage.control_net()
    scene.positive, scene.negative = apply(
        scene.positive, scene.negative, net, scene.stage.image, 1.0, 0.0, 1.0, vae=None
    )


def controlled(part: Part) -> Part:
    """A part together with a ControlNet."""

    def both(scene: Scene) -> None:
        with_control(scene)
        part.scene(scene)

    return Part(f"ControlNet and {part.name}", CONTROL, part.model, both, part.expected, part.steps)


CONTROLLED = {"NAG on the text", "image prompts for the cond alone", "attention shared in a batch",
              "counts steps in a closure", "first-block cache",
              "state on the network, forward replaced in each call"}  # fmt: skip
PARTS = [
    Part("no steps", RUNS, scene=no_steps, in_haste=True),
    Part("noise levels that rise again", RUNS, scene=restarting, in_haste=True),
    Part("a sampler that raises the noise", RUNS, scene=restarting_by_itself, steps=2, in_haste=True),
    Part("SplitSigmas", RUNS, scene=split, steps=4, expected=Expected(silent="in two runs the same steps"),
         in_haste=True),
    Part("unsampling", RUNS, scene=unsampled, in_haste=True),
    Part("blocks compiled", NETWORK, compiled_blocks, expected=Expected(silent=SAME)),
    Part("blocks in other modules", NETWORK, wrapped_blocks, in_haste=True),
    Part("blocks without its layers in other modules", NETWORK, wrapped_without_layers),
    Part("forwards injected", NETWORK, injected, in_haste=True),
    Part("another network in its place", NETWORK, replaced_network,
         expected=Expected(refusal="changes nothing|had no effect|has no layer", silent=SAME), in_haste=True),
    *(controlled(it) for it in [*attention.PARTS, *caches.PARTS] if it.name in CONTROLLED),
]  # fmt: skip
