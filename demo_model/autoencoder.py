"""The embedded model's autoencoder: a linear patch encoder, and a linear decoder with a small residual network."""

import torch
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle, silu


class ResidualBlock(torch.nn.Module):
    """Two 3x3 convolutions with a skip connection, activation first."""

    def __init__(self, width: int):
        super().__init__()
        self.a = torch.nn.Conv2d(width, width, 3, padding=1)
        self.b = torch.nn.Conv2d(width, width, 3, padding=1)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """[B, width, H, W] -> the same shape."""
        return h + self.b(silu(self.a(silu(h))))


class PatchAutoencoder(torch.nn.Module):
    """From pixels [B, 3, H, W] in [-1, 1] to latents [B, channels, H/patch, W/patch], and back.

    The encoder is a PCA of square patches; the decoder's residual network works at half the picture's resolution and
    adds what the PCA has lost.
    """

    def __init__(self, channels: int, patch: int, width: int, blocks: int):
        super().__init__()
        self.patch = patch
        self.enc = torch.nn.Conv2d(3, channels, patch, stride=patch)
        self.dec = torch.nn.ConvTranspose2d(channels, 3, patch, stride=patch)
        self.inp = torch.nn.Conv2d(12 + channels, width, 3, padding=1)
        self.blocks = torch.nn.ModuleList(ResidualBlock(width) for _ in range(blocks))
        self.out = torch.nn.Conv2d(width, 12, 3, padding=1)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """The latents of pixels; nothing is random."""
        return self.enc(pixels)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """The pixels of latents."""
        coarse = self.dec(latent)
        h = self.inp(torch.cat([pixel_unshuffle(coarse, 2), interpolate(latent, scale_factor=self.patch / 2)], 1))
        for block in self.blocks:
            h = block(h)
        return coarse + pixel_shuffle(self.out(silu(h)), 2)
