"""Pictures as tensors in the formats that the measures need, and picture files read from folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch.nn.functional import interpolate

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


def as_bytes(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures [N, 3, H, W] as uint8 on the CPU, from uint8 or floats in [0, 1]. Raises ValueError for others."""
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not len(pictures):
        raise ValueError(f"`pictures` are {list(pictures.shape)}: give [pictures, 3, height, width].")
    if pictures.dtype == torch.uint8:
        return pictures.cpu()
    if not pictures.is_floating_point() or not torch.isfinite(pictures).all():
        raise ValueError("`pictures` hold values that are not colours: give uint8, or floats between 0 and 1.")
    return (pictures.clamp(0, 1) * 255).round().byte().cpu()


def resized(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """Pictures as floats in [0, 1], stretched to squares: [N, 3, side, side]. Takes what `as_bytes` takes."""
    pictures = as_bytes(pictures).float() / 255
    if pictures.shape[-2:] == (side, side):
        return pictures
    return interpolate(pictures, (side, side), mode="bilinear", antialias=True)


def as_images(pictures: torch.Tensor) -> list[Image.Image]:
    """Pictures as Pillow images. Takes what `as_bytes` takes."""
    return [Image.fromarray(picture.movedim(0, -1).contiguous().numpy()) for picture in as_bytes(pictures)]


def picture_files(folder: Path) -> list[Path]:
    """The picture files of a folder, by name. Raises ValueError if there is no such folder."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}: name one that holds pictures.")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def read_picture(path: Path) -> torch.Tensor:
    """A picture file as uint8 [3, H, W]. Raises ValueError, naming the file, if it cannot be read."""
    try:
        with Image.open(path) as image:
            return torch.from_numpy(numpy.array(image.convert("RGB"))).movedim(-1, 0)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises for damaged files
        raise ValueError(f"The picture {path} cannot be read ({error}): replace it or take it out.") from error


def batches(files: list[Path], batch_size: int = 32) -> Iterator[torch.Tensor]:
    """Picture files as uint8 [B, 3, H, W], at most `batch_size` in memory; all pictures of a batch have one size."""
    batch: list[torch.Tensor] = []
    for picture in map(read_picture, files):
        if batch and (len(batch) == batch_size or picture.shape != batch[0].shape):
            yield torch.stack(batch)
            batch = []
        batch.append(picture)
    if batch:
        yield torch.stack(batch)
