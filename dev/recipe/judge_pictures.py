"""Training pictures for the judges: sprites bent, recoloured, hidden and blurred so that only the shape is left to see.

Everything is batched: one thread draws more than a thousand pictures a second.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate, max_pool2d

SIDE = 64
LUMA = torch.tensor([0.299, 0.587, 0.114])


def compose(sprites: torch.Tensor, backgrounds: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """Straight-alpha sprites [B, 4, 64, 64] on backgrounds [B, 3, 64, 64], all in [0, 1] -> augmented pictures.

    Sprites without any transparency are landscapes: they fill the picture.
    """
    colour, alpha = sprites[:, :3], sprites[:, 3:]
    opaque = alpha.flatten(1).amin(1) == 1
    colour = recoloured(colour, strength)
    warped = grid_sample(torch.cat([colour * alpha, alpha], 1), warp(opaque, strength), align_corners=False)
    colour, alpha = warped[:, :3], warped[:, 3:]
    colour, alpha = outlined(colour, alpha, 0.2 * strength)
    return degraded(erased(colour + backgrounds * (1 - alpha), 0.35 * strength), strength)


def warp(opaque: torch.Tensor, strength: float) -> torch.Tensor:
    """Sampling grids: flip, rotation, scale, stretch, shear, shift, bend; `opaque` pictures stay nearly upright."""
    number = len(opaque)
    angle = uniform(number, -0.35, 0.35) * torch.where(opaque, 0.2, strength)
    landscape, sprite = uniform(number, 0.98, 1.25), uniform(number, 0.8 - 0.2 * strength, 0.95 + 0.07 * strength)
    scale = 1 / torch.where(opaque, landscape, sprite)
    stretch = torch.exp(uniform(number, -0.22, 0.22) * strength)
    shear = uniform(number, -0.2, 0.2) * strength
    flip = torch.where(torch.rand(number) < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    room = (scale - 0.9).clamp(0) * 0.7 * strength + 0.03
    x, y = uniform(number, -1, 1) * room, uniform(number, -1, 1) * room
    rows = [cos * stretch * flip, (shear * cos - sin) * flip, x, sin * stretch, (cos + shear * sin) / stretch, y]
    grid = affine_grid(torch.stack(rows, 1).view(number, 2, 3), [number, 1, SIDE, SIDE], align_corners=False)
    bend = torch.randn(number, 2, 5, 5) * 0.09 * strength * (torch.rand(number, 1, 1, 1) < 0.6)
    return grid + interpolate(bend, (SIDE, SIDE), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)


def recoloured(colour: torch.Tensor, strength: float) -> torch.Tensor:
    """Change hue, saturation, contrast and brightness; sometimes to grey, inverted, posterised or two flat colours."""
    number = len(colour)
    reach = torch.where(torch.rand(number) < 0.5, 1.0, 0.15)
    hue = uniform(number, -math.pi, math.pi) * reach * strength
    saturation = (torch.rand(number) > 0.15 * strength) * (1 + uniform(number, -0.6, 0.5) * strength)
    matrix = saturation.view(-1, 1, 1) * (hue_rotation(hue) - LUMA) + LUMA
    gain = (1 + uniform(number, -0.4, 0.3) * strength) * torch.where(torch.rand(number) < 0.06 * strength, -1.0, 1.0)
    matrix = matrix * gain.view(-1, 1, 1)
    shift = uniform(number, -0.15, 0.15).view(-1, 1, 1, 1) * strength + 0.5
    colour = (torch.einsum("bij,bjhw->bihw", matrix, colour - 0.5) + shift).clamp(0, 1)
    chance = torch.rand(number, 1, 1, 1) / max(strength, 0.01)
    levels = torch.randint(2, 6, (number, 1, 1, 1))
    colour = torch.where(chance < 0.12, (colour * levels).round() / levels, colour)
    light = torch.einsum("c,bchw->bhw", LUMA, colour)[:, None]
    dark, bright = torch.rand(2, number, 3, 1, 1)
    return torch.where((chance > 0.12) & (chance < 0.22), dark + (bright - dark) * light, colour)


def hue_rotation(angle: torch.Tensor) -> torch.Tensor:
    """Rotations about the grey axis, [B, 3, 3]."""
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return cos * torch.eye(3) + (1 - cos) / 3 + sin * across


def outlined(colour: torch.Tensor, alpha: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a line of one colour around some of the (premultiplied) sprites."""
    wide = max_pool2d(alpha, 3, 1, 1) * (torch.rand(len(alpha), 1, 1, 1) < share)
    line = torch.rand(len(alpha), 3, 1, 1) * (torch.rand(len(alpha), 1, 1, 1) < 0.5)
    return colour + line * (wide - alpha).clamp(0), torch.maximum(wide, alpha)


def erased(pictures: torch.Tensor, share: float) -> torch.Tensor:
    """Draw a rectangle of one colour over some of the pictures."""
    number = len(pictures)
    place = torch.rand(4, number, 1, 1) * torch.tensor([SIDE, SIDE, 16, 16]).view(4, 1, 1, 1)
    line = torch.arange(SIDE)
    inside = ((line - place[0]).abs() < place[2]) & ((line[:, None] - place[1]).abs() < place[3])
    inside &= torch.rand(number, 1, 1) < share
    return torch.where(inside[:, None], torch.rand(number, 3, 1, 1), pictures)


def degraded(pictures: torch.Tensor, strength: float) -> torch.Tensor:
    """Blur or sharpen, soften 8x8 patches, and add noise."""
    number = len(pictures)
    soft = avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    amount = uniform(number, -0.8, 1.0) * (torch.rand(number) < 0.5 * strength)
    pictures = pictures + amount.view(-1, 1, 1, 1) * (soft - pictures)
    softer = interpolate(avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear", align_corners=False)
    pictures = torch.where(torch.rand(number, 1, 1, 1) < 0.15 * strength, softer, pictures)
    pictures = torch.where(torch.rand(number, 1, 1, 1) < 0.3 * strength, patch_softened(pictures), pictures)
    noise = uniform(number, 0, 0.09).view(-1, 1, 1, 1) * (torch.rand(number, 1, 1, 1) < 0.4 * strength)
    return (pictures + noise * torch.randn_like(pictures)).clamp(0, 1)


def patch_softened(pictures: torch.Tensor) -> torch.Tensor:
    """Keep only the low cosine components of each 8x8 patch, as JPEG files and the picture model's autoencoder do."""
    k = torch.arange(8)
    basis = torch.cos(math.pi / 8 * (k[None] + 0.5) * k[:, None]) * torch.where(k == 0, 0.125, 0.25).sqrt()[:, None]
    patches = pictures.unflatten(2, (8, 8)).unflatten(4, (8, 8)).transpose(3, 4)
    low = (k[:, None] + k) < torch.randint(2, 6, (len(pictures), 1, 1, 1, 1, 1))
    patches = basis.T @ ((basis @ patches @ basis.T) * low) @ basis
    return patches.transpose(3, 4).flatten(4).flatten(2, 3)


def backgrounds(number: int, strength: float = 1.0) -> torch.Tensor:
    """White, plain, graded and blotched backgrounds, [B, 3, 64, 64]."""
    white = torch.rand(number, 1, 1, 1) < 0.8 - 0.55 * strength
    plain = torch.where(white, 1.0, torch.rand(number, 3, 1, 1))
    kind = torch.rand(number, 1, 1, 1) * strength
    angle = uniform(number, -math.pi, math.pi).view(-1, 1, 1)
    line = torch.linspace(-1, 1, SIDE)
    ramp = (angle.cos() * line + angle.sin() * line[:, None])[:, None]
    graded = plain + ramp * uniform(number, -0.4, 0.4).view(-1, 1, 1, 1) * torch.randn(number, 3, 1, 1)
    return torch.where(kind < 0.5, plain, torch.where(kind < 0.75, graded, plain + blotches(number))).clamp(0, 1)


def blotches(number: int) -> torch.Tensor:
    """Smooth coloured noise around zero."""
    coarse = torch.randn(number, 3, 4, 4) * 0.3
    fine = torch.randn(number, 3, 11, 11) * uniform(number, 0, 0.2).view(-1, 1, 1, 1)
    return sum(interpolate(noise, (SIDE, SIDE), mode="bilinear", align_corners=True) for noise in (coarse, fine))


NOTHINGS = ("halves", "mixture", "tiles", "mud", "blobs", "plain", "noise")


def all_nothings(pictures: torch.Tensor, shuffled: torch.Tensor) -> torch.Tensor:
    """[7, B, 3, 64, 64]: pictures of nothing, in the order of `NOTHINGS`; the first four are made of `pictures`."""
    number = len(pictures)
    half = (torch.arange(SIDE) < SIDE // 2).view(1, 1, 1, -1)
    half = torch.where(torch.rand(number, 1, 1, 1) < 0.5, half, half.transpose(2, 3))
    tiles = pictures.unflatten(2, (4, 16)).unflatten(4, (4, 16)).transpose(3, 4).flatten(2, 3)
    tiles = tiles[:, :, torch.randperm(16)].unflatten(2, (4, 4)).transpose(3, 4).flatten(4).flatten(2, 3)
    kinds = [
        torch.where(half, pictures, shuffled),
        (pictures + shuffled) / 2,
        tiles,
        interpolate(avg_pool2d(pictures, 16), (SIDE, SIDE), mode="bicubic", align_corners=False),
        0.5 + 1.5 * blotches(number),
        backgrounds(number),
        backgrounds(number) + 0.3 * torch.randn_like(pictures),
    ]
    return torch.stack(kinds).clamp(0, 1)


def nothings(pictures: torch.Tensor, shuffled: torch.Tensor) -> torch.Tensor:
    """One picture of nothing for each of `pictures`: mostly mixtures with `shuffled`, the hardest to tell."""
    kinds = all_nothings(pictures, shuffled)
    odds = torch.tensor([4.0, 4, 1, 1, 1, 1, 1])
    return kinds[torch.multinomial(odds, len(pictures), replacement=True), torch.arange(len(pictures))]


def uniform(number: int, low: float, high: float) -> torch.Tensor:
    """Random numbers, evenly between `low` and `high`."""
    return torch.rand(number) * (high - low) + low
