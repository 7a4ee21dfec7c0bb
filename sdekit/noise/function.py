"""Noise from a function of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError, ShapeError, UnsupportedError
from sdekit.noise.base import NoiseSource, NoiseStream, Purpose

__all__ = ["FunctionNoise"]


@final
class FunctionNoise(NoiseSource):
    """noise(t, s, shape) -> tensor of `shape` of independent N(0, 1) entries, for the step from time t to time s.

    A prior draw asks with t = s = T. Raises ShapeError if the function returns another shape.
    """

    def __init__(self, function: Callable[[float, float, tuple[int, ...]], Tensor]) -> None:
        if not callable(function):
            raise ArgumentError(f"noise must be a function of (t, s, shape) or a NoiseSource, got {function!r}.")
        self._function = function

    def open(
        self,
        shape: tuple[int, ...],
        *,
        purpose: Purpose,
        dtype: torch.dtype,
        device: torch.device,
        draws: int | None = None,
        scales: Tensor | None = None,
    ) -> NoiseStream:
        return _FunctionStream(shape, dtype, device, self._function, scales)

    def part(self, start: int, stop: int, total: int) -> NoiseSource:
        if (start, stop) != (0, total):
            raise ArgumentError(
                "a noise function knows no sample indices, so a chunked run would draw other numbers; "
                "use seed= or seeds= with chunk=."
            )
        return self


@final
class _FunctionStream(NoiseStream):
    seekable = False

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        function: Callable[[float, float, tuple[int, ...]], Tensor],
        scales: Tensor | None,
    ) -> None:
        self._scales = None if scales is None else scales.tolist()
        self._shape, self._dtype, self._device, self._function = tuple(shape), dtype, device, function

    def next(self, t: float, s: float) -> Tensor:
        z = self._function(t, s, self._shape)
        if not isinstance(z, Tensor) or tuple(z.shape) != self._shape:
            given = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise ShapeError(f"the noise function must return a tensor of shape {self._shape}, got {given}.")
        z = z.to(device=self._device, dtype=self._dtype)
        scaled = z.clone() if self._scales is None else z * self._scales[self.position]
        self.position += 1
        return scaled

    def seek(self, position: int) -> None:
        if position != self.position:
            raise UnsupportedError("a noise function cannot be asked for an earlier draw; use seed= instead.")
