"""Moments, extremes and quantiles of an ensemble, in one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError
from sdekit.running_statistics.checks import (
    check_chunk,
    check_count,
    check_entries,
    check_fraction,
    check_fractions,
    check_keys,
    check_mergeable,
)
from sdekit.running_statistics.moments import Welford
from sdekit.running_statistics.quantile_sketch import QuantileSketch

__all__ = ["RunningStatistics"]


@final
class RunningStatistics:
    """Mean, variance, extremes and quantiles of an ensemble, entry by entry, without keeping it.

        statistics = RunningStatistics((times, *entries))
        for chunk in …:                          # (B, times, *entries)
            statistics.update(chunk)
        statistics.merge(those_of_another_worker)

    Everything is float64 on the CPU. Count and extremes depend on neither the chunks nor the order of merging; mean and
    variance only by rounding; quantiles within `rank_error` (see QuantileSketch).

    Args:
        shape: the shape of one sample: times by entries, as you like; () for plain numbers.
        quantiles: the fractions that `summary()` gives. Any other may be asked of `quantile`. Empty: no sketch is kept,
            which saves most of the time and the memory.
        sketch_size: see QuantileSketch; the error of ranks goes like its inverse.
    """

    def __init__(
        self, shape: Sequence[int] = (), quantiles: Sequence[float] = (0.05, 0.5, 0.95), sketch_size: int = 2048
    ) -> None:
        self._moments = Welford(shape)
        self.shape = self._moments.shape
        self.quantiles = check_fractions(quantiles)
        self._sketch = QuantileSketch(shape, sketch_size) if self.quantiles else None
        self._minimum = torch.full(self.shape, math.inf, dtype=torch.float64, device="cpu")
        self._maximum = torch.full(self.shape, -math.inf, dtype=torch.float64, device="cpu")

    @property
    def count(self) -> int:
        """The number of samples seen."""
        return self._moments.count

    @property
    def mean(self) -> Tensor:
        """The mean, of shape `shape`."""
        return self._moments.mean

    @property
    def variance(self) -> Tensor:
        """The unbiased variance, of shape `shape`."""
        return self._moments.variance

    @property
    def std(self) -> Tensor:
        """The square root of the unbiased variance, of shape `shape`."""
        return self._moments.std

    @property
    def std_error(self) -> Tensor:
        """The mean's standard error, sqrt(variance/n), of shape `shape`."""
        return self._moments.std_error

    @property
    def minimum(self) -> Tensor:
        """The least value, of shape `shape`."""
        check_count("minimum", self.count, 1)
        return self._minimum.clone()

    @property
    def maximum(self) -> Tensor:
        """The greatest value, of shape `shape`."""
        check_count("maximum", self.count, 1)
        return self._maximum.clone()

    @property
    def rank_error(self) -> float:
        """A bound on the error of any quantile's rank, as a fraction of the count."""
        return self._sketched().rank_error

    def quantile(self, q: float) -> Tensor:
        """The q-quantile, of shape `shape`: its rank is q n within `rank_error` times n; at 0 and 1 the extremes."""
        (value,) = self._read([check_fraction(q)])
        return value

    def _read(self, fractions: Sequence[float]) -> list[Tensor]:
        values = self._sketched()._read(fractions)
        ends = {0.0: self._minimum, 1.0: self._maximum}
        return [ends[q].clone() if q in ends else value for q, value in zip(fractions, values, strict=True)]

    def update(self, x: Tensor) -> None:
        """Take a chunk of samples in, of shape (B, *shape), of any real dtype, on any device.

        Raises:
            ArgumentError: if x is no real tensor, or holds NaN or infinite values: how many, and where.
            ShapeError: if its shape is not (B, *shape).
        """
        chunk = check_chunk(x, self.shape)
        self._moments._add(chunk)
        self._minimum = torch.minimum(self._minimum, chunk.amin(0))
        self._maximum = torch.maximum(self._maximum, chunk.amax(0))
        if self._sketch is not None:
            self._sketch._add(chunk)

    def merge(self, other: RunningStatistics) -> None:
        """Take in what another of the same shape, quantiles and sketch size has seen; the other is left as it is."""
        check_mergeable(self, other)
        if self.quantiles != other.quantiles:
            raise ArgumentError(
                f"statistics of the same quantiles can be merged; these have {self.quantiles} and {other.quantiles}."
            )
        if self._sketch is not None and other._sketch is not None:
            self._sketch.merge(other._sketch)
        self._moments.merge(other._moments)
        self._minimum = torch.minimum(self._minimum, other._minimum)
        self._maximum = torch.maximum(self._maximum, other._maximum)

    def summary(self) -> dict[str, Any]:
        """All of it by name: count, mean, variance, std_error, minimum, maximum and "quantiles", a dict by fraction."""
        names = ("mean", "variance", "std_error", "minimum", "maximum")
        values = self._read(self.quantiles) if self.quantiles else []
        quantiles = dict(zip(self.quantiles, values, strict=True))
        return {"count": self.count, **{name: getattr(self, name) for name in names}, "quantiles": quantiles}

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of JSON values that `from_dict` turns back into the same statistics, to the last bit."""
        empty = self.count == 0  # JSON has no infinity
        return {
            "moments": self._moments.to_dict(),
            "quantiles": list(self.quantiles),
            "sketch": None if self._sketch is None else self._sketch.to_dict(),
            "minimum": None if empty else self._minimum.flatten().tolist(),
            "maximum": None if empty else self._maximum.flatten().tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunningStatistics:
        """The statistics that `to_dict` wrote.

        Raises:
            ArgumentError: if it is no such dict.
        """
        check_keys(cls.__name__, values, ("moments", "quantiles", "sketch", "minimum", "maximum"))
        moments = Welford.from_dict(values["moments"])
        made = cls(moments.shape, values["quantiles"])
        made._moments = moments
        if (values["sketch"] is None) != (made._sketch is None):
            raise ArgumentError("the dict has quantiles without a sketch, or a sketch without quantiles.")
        if values["sketch"] is not None:
            made._sketch = QuantileSketch.from_dict(values["sketch"])
            if made._sketch.shape != made.shape or made._sketch.count != moments.count:
                raise ArgumentError("the dict's moments and sketch are of different shapes or counts: it is damaged.")
        if moments.count:
            made._minimum = check_entries("minimum", values["minimum"], made.shape)
            made._maximum = check_entries("maximum", values["maximum"], made.shape)
        return made

    def _sketched(self) -> QuantileSketch:
        if self._sketch is None:
            raise ArgumentError("these statistics keep no quantiles; make them with quantiles=(0.5,), for example.")
        return self._sketch

    def __repr__(self) -> str:
        return f"RunningStatistics(shape={self.shape}, quantiles={self.quantiles}, count={self.count})"
