"""Paints a sprite in another colour: its body changes, its windows, wheels and outlines stay."""

import numpy as np

HUE_WIDTH = 50.0  # degrees around the main hue within which a pixel belongs to the body


def recolour(sprite: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """uint8 [S, S, 4] -> the same with its body in `colour` (RGB); shades keep their relative brightness."""
    rgb = sprite[..., :3].astype(np.float32)
    body = _body(rgb, sprite[..., 3] / 255.0)[..., None]
    light = rgb @ np.float32((0.3, 0.59, 0.11))
    usual = np.average(light, weights=body[..., 0] + 1e-6)
    shade = (light / max(usual, 1.0))[..., None]
    target = np.float32(colour)
    painted = np.where(shade < 1, target * shade, target + (255 - target) * np.minimum(0.5 * (shade - 1), 0.6))
    mixed = np.clip(body * painted + (1 - body) * rgb, 0, 255)
    return np.concatenate([mixed.astype(np.uint8), sprite[..., 3:]], axis=-1)


def body_share(sprite: np.ndarray) -> float:
    """The share of a sprite's area, 0 to 1, that `recolour` would paint."""
    alpha = sprite[..., 3] / 255.0
    return float(_body(sprite[..., :3].astype(np.float32), alpha).sum() / alpha.sum())


def _body(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """How much each pixel belongs to the body, 0 to 1: the main hue, or the bright parts of a colourless sprite."""
    high, low = rgb.max(-1), rgb.min(-1)
    saturation = (high - low) / np.maximum(high, 1)
    vivid = alpha * saturation * (high > 40)
    if vivid.sum() < 0.15 * alpha.sum():
        return alpha * np.clip((high - 90) / 60, 0, 1)
    hue = _hue(rgb, high, low) % 360
    votes, edges = np.histogram(hue, bins=36, range=(0, 360), weights=vivid)
    votes = votes + np.roll(votes, 1) + np.roll(votes, -1)
    distance = np.abs((hue - edges[votes.argmax()] - 5 + 180) % 360 - 180)
    return alpha * np.clip((HUE_WIDTH - distance) / 15, 0, 1) * np.clip(saturation / 0.25, 0, 1)


def _hue(rgb: np.ndarray, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """The hue of HSV, in degrees."""
    r, g, b = np.moveaxis(rgb, -1, 0)
    span = np.maximum(high - low, 1)
    return 60 * np.where(high == r, (g - b) / span, np.where(high == g, 2 + (b - r) / span, 4 + (r - g) / span))
