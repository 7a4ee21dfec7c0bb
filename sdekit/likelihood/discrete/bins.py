"""Bins of equal width over a range of data, and which bin a value is the centre of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import check_positive_integer, check_state
from sdekit.errors import ArgumentError, ShapeError
from sdekit.likelihood.result import bin_width

__all__ = ["Bins"]

_OFF = 0.01  # of a bin: how far from its centre a value may be


@final
@dataclass(frozen=True)
class Bins:
    """`levels` bins that cover `data_range` = (low, high): bin k is low + w [k, k + 1], w = (high - low)/levels.

    Raises:
        ArgumentError: if levels is no positive integer or the range not two finite numbers, the lower first.
    """

    levels: int
    data_range: tuple[float, float]

    def __post_init__(self) -> None:
        check_positive_integer("levels", self.levels)
        bin_width(self.data_range, self.levels)

    @property
    def width(self) -> float:
        """w."""
        return bin_width(self.data_range, self.levels)

    def centres(self, levels: Tensor) -> Tensor:
        """The centres low + (k + 1/2) w of bins k: float64, of the shape of `levels`."""
        return float(self.data_range[0]) + (levels.double() + 0.5) * self.width

    def levels_of(self, x: object) -> Tensor:
        """The bins of x, (B, *): integers as they are, or values at bin centres: int64 (B, *).

        Raises:
            ArgumentError: for a value that is not at a centre, or a level that there is none of.
            ShapeError: for an empty tensor.
        """
        if not isinstance(x, Tensor) or x.is_complex() or x.dtype == torch.bool:
            given = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise ArgumentError(
                f"x must be a tensor of values at bin centres or of integer levels, (B, *), got {given}."
            )
        if x.is_floating_point():
            return self._levels_at(check_state("x", x).double())
        if x.ndim == 0 or x.numel() == 0:
            raise ShapeError(f"x must have shape (B, *) with at least one element, got {tuple(x.shape)}.")
        least, most = (int(v) for v in x.aminmax())
        if least < 0 or most >= self.levels:
            raise ArgumentError(
                f"x holds levels from {least} to {most}; with levels={self.levels} they are 0 to {self.levels - 1}."
            )
        return x.long()

    def check_dtype(self, dtype: torch.dtype) -> None:
        """Whether numbers of this type are fine enough to lie within a bin.

        Raises:
            ArgumentError: if not.
        """
        spacing = torch.finfo(dtype).eps * max(abs(float(bound)) for bound in self.data_range)
        if spacing > _OFF * self.width:
            raise ArgumentError(
                f"{dtype} rounds the data to {spacing:.2g}, too coarse for bins of width {self.width:.2g}; give x in "
                "float32 or float64."
            )

    def _levels_at(self, x: Tensor) -> Tensor:
        place = (x - float(self.data_range[0])) / self.width - 0.5
        nearest = torch.round(place).clamp(0, self.levels - 1)
        off = (place - nearest).abs() > _OFF
        if bool(off.any()):
            value, centre = float(x[off][0]), float(self.centres(nearest)[off][0])
            raise ArgumentError(
                f"{int(off.sum())} of {x.numel()} values of x are at no bin's centre, for instance {value:.7g}: "
                f"the nearest of the {self.levels} bins over {tuple(self.data_range)} has its centre at {centre:.7g}. "
                f"{self._mending(x)}"
            )
        return nearest.long()

    def _mending(self, x: Tensor) -> str:
        low, high = (float(bound) for bound in self.data_range)
        if self.levels > 1:
            w = (high - low) / (self.levels - 1)
            place = (x - low) / w
            if bool(((place - torch.round(place).clamp(0, self.levels - 1)).abs() <= _OFF).all()):
                # Levels on both ends, such as k/127.5 - 1: the usual way to scale images.
                return (
                    "They lie on both ends of the range and evenly between: the bins then reach half a bin beyond, "
                    f"data_range=({low - w / 2!r}, {high + w / 2!r})."
                )
        return "Give x at the centres, low + (k + 1/2) (high - low)/levels, or the levels k as an integer tensor."
