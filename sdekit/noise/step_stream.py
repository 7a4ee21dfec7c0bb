"""The increments of a path as standard normal draws, for solvers that ask for draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

from torch import Tensor

from sdekit.errors import ArgumentError, UnsupportedError
from sdekit.noise.base import NoiseStream

__all__ = ["StepStream"]


@final
class StepStream(NoiseStream):
    """A path's increments as draws: (W_s - W_t)/sqrt|s - t| for steps that do not overlap.

    Args:
        increment: (t, s) -> W_s - W_t.
        quantum: times nearer than that may be one.
        scales: as in `NoiseSource.open`.
    """

    seekable = True

    def __init__(self, increment: Callable[[float, float], Tensor], quantum: float, scales: Tensor | None) -> None:
        self._increment, self._quantum = increment, quantum
        self._scales = None if scales is None else scales.tolist()
        self._before: tuple[float, float] | None = None

    def next(self, t: float, s: float) -> Tensor:
        low, high = min(t, s), max(t, s)
        if not high > low:
            raise ArgumentError(f"a draw from a Brownian path is over a step from t to s != t, got t = s = {t!r}.")
        if self._before is not None:
            overlap = min(high, self._before[1]) - max(low, self._before[0])
            if overlap > self._quantum:
                raise UnsupportedError(
                    f"two draws were asked for over the same time: [{low:g}, {high:g}] after [{self._before[0]:g}, "
                    f"{self._before[1]:g}]. On a Brownian path they are one number; a solver that needs several "
                    "independent draws a step takes seed=, seeds= or a generator."
                )
        self._before = low, high
        scale = (1.0 if self._scales is None else self._scales[self.position]) / math.sqrt(high - low)
        self.position += 1
        return self._increment(t, s) * scale

    def seek(self, position: int) -> None:
        self.position, self._before = position, None
