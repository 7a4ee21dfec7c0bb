"""One picture of samples, whatever their kind: a sheet of images, or a scatter of points in the plane."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from torch import Tensor

from sdekit.errors import ShapeError
from sdekit.experiments.images import sheet

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["can_show", "picture", "scatter"]


def can_show(shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape have a picture: (C, H, W) with C = 1 or 3, or (2,)."""
    return shape == (2,) or (len(shape) == 3 and shape[0] in (1, 3))


def picture(samples: Tensor, columns: int | None = None) -> Image.Image:
    """Images (n, C, H, W) in [-1, 1] as a sheet, points (n, 2) as a scatter.

    Raises:
        ShapeError: for samples of another shape.
    """
    if samples.ndim == 2 and samples.shape[1] == 2:
        return scatter(samples)
    if can_show(tuple(samples.shape[1:])):
        return sheet(samples, columns)
    raise ShapeError(
        f"there is no picture of samples of shape {tuple(samples.shape[1:])}; images (C, H, W) with C = 1 or 3 and "
        "points (2,) have one. Save the others as .npz or .safetensors."
    )


def scatter(points: Tensor) -> Image.Image:
    """Points (n, 2) in the plane, on equal axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    if points.ndim != 2 or points.shape[1] != 2:
        raise ShapeError(f"a scatter shows points of shape (n, 2), got {tuple(points.shape)}.")
    figure = Figure(figsize=(4, 4), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    x, y = points.detach().cpu().double().unbind(1)
    size = min(12.0, 4000 / max(1, len(points)) + 1)
    axes.scatter(x.numpy(), y.numpy(), s=size, color="#0072B2", alpha=0.5, linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(True, color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")
