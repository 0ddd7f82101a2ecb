"""A ControlNet for the embedded model."""

import comfy.cldm.cldm
import comfy.ops
import torch


def control_net_of(model):
    """A tiny one with random weights, as a network."""
    config = {key: it for key, it in model.model.model_config.unet_config.items() if key != "out_channels"}
    made = comfy.cldm.cldm.ControlNet(hint_channels=3, operations=comfy.ops.disable_weight_init, **config)
    generator = torch.Generator().manual_seed(2)
    made.load_state_dict(
        {name: 0.05 * torch.randn(it.shape, generator=generator) for name, it in made.state_dict().items()}
    )
    return made.eval()
