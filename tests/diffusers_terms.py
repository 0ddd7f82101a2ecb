"""DDIM as the authors' scripts run it: variance-preserving latents, integer timesteps, the UNet called directly."""

import comfy.model_management
import torch


def network_of(model):
    """The diffusion model of a MODEL, on the device that it is sampled on."""
    comfy.model_management.load_models_gpu([model])
    return model.model.diffusion_model


def ddim_in_diffusers_terms(unet, noise, cond, uncond, cfg, steps, stop):
    """The latent [1, C, H, W] and the timestep [1] after `stop` of `steps` steps (eta 0) from pure noise.

    On the UNet's device, wherever the rest comes from.
    """
    device = next(unet.parameters()).device
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).float()
    times = list(range(1, 1000, 1000 // steps))[::-1]
    x, cond, uncond = noise.to(device), cond.to(device), uncond.to(device)
    for now, later in zip(times[:stop], times[1:], strict=False):
        t = torch.tensor([now], device=device)
        e_uncond, e_cond = unet(x, t, context=uncond), unet(x, t, context=cond)
        e = e_uncond + cfg * (e_cond - e_uncond)
        x0 = (x - (1 - alphas[now]).sqrt() * e) / alphas[now].sqrt()
        x = alphas[later].sqrt() * x0 + (1 - alphas[later]).sqrt() * e
    return x, torch.tensor([times[stop]], device=device)
