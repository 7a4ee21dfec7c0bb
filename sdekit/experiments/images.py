"""Sheets of sample images: a tensor in [-1, 1] as one picture that can be looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from sdekit._tensors import check_positive_integer, check_state
from sdekit.errors import ShapeError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["save_png", "sheet"]

TILE_PIXELS = 48
"""The shorter side that tiny images are enlarged to, at least."""

_PADDING = 2
_PADDING_GREY = 128


def sheet(images: Tensor, columns: int | None = None) -> Image.Image:
    """The images in rows, left to right and top to bottom, as one picture.

    -1 is black and 1 is full; values outside are clipped. Tiny images are enlarged by a whole factor, each value a
    square of pixels, so that nothing is smoothed; tiles are 2 pixels apart, on grey.

    Args:
        images: (n, C, H, W) with C = 1 (grey) or 3 (red, green, blue).
        columns: tiles a row; near the square root of n unless given.

    Raises:
        ShapeError: if the shape is not that.
        ArgumentError: if a value is not finite, or columns is not a positive integer.
    """
    import numpy as np
    from PIL import Image

    x = check_state("images", images)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ShapeError(f"images must have shape (n, C, H, W) with C = 1 or 3, got {tuple(x.shape)}.")
    n, channels, height, width = x.shape
    across = check_positive_integer("columns", math.ceil(math.sqrt(n)) if columns is None else columns)
    down = math.ceil(n / across)
    factor = math.ceil(TILE_PIXELS / min(height, width))
    pixels = ((x.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    pixels = pixels.repeat(factor, axis=1).repeat(factor, axis=2)

    row, column = factor * height + _PADDING, factor * width + _PADDING
    canvas = np.full((down * row + _PADDING, across * column + _PADDING, channels), _PADDING_GREY, dtype=np.uint8)
    for k, tile in enumerate(pixels):
        top, left = _PADDING + (k // across) * row, _PADDING + (k % across) * column
        canvas[top : top + factor * height, left : left + factor * width] = tile
    return Image.fromarray(canvas[:, :, 0] if channels == 1 else canvas)


def save_png(image: Image.Image, path: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write a picture as PNG and return its path; `metadata` (solver, seed, version, …) goes into its text chunks."""
    from PIL.PngImagePlugin import PngInfo

    path = Path(path)
    text = PngInfo()
    for name, value in (metadata or {}).items():
        text.add_text(name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG", pnginfo=text)
    return path
