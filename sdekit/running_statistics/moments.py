"""Mean and variance of a stream of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from sdekit.errors import ArgumentError
from sdekit.running_statistics.checks import (
    check_chunk,
    check_count,
    check_entries,
    check_entry_shape,
    check_keys,
    check_mergeable,
    check_natural,
)

__all__ = ["Welford"]


@final
class Welford:
    """Count, mean and variance of a stream of arrays, entry by entry, in float64 on the CPU.

    A chunk of n_b values with mean m_b and sum of squared deviations S_b joins n_a, m_a, S_a by

        d = m_b - m_a,    m = m_a + d n_b/n,    S = S_a + S_b + d^2 n_a n_b/n,    n = n_a + n_b

    (Chan, Golub & LeVeque 1979), so that no large numbers are subtracted: a mean of 1e8 with a deviation of 1 keeps
    its variance. Values must be below about 1e150 in size, whose squares float64 still holds.

    Args:
        shape: the shape of one array, () for plain numbers.
    """

    def __init__(self, shape: Sequence[int] = ()) -> None:
        self.shape = check_entry_shape(shape)
        self._count = 0
        self._mean = torch.zeros(self.shape, dtype=torch.float64, device="cpu")
        self._squares = torch.zeros_like(self._mean)

    @property
    def count(self) -> int:
        """The number of arrays seen."""
        return self._count

    @property
    def mean(self) -> Tensor:
        """The mean, of shape `shape`."""
        check_count("mean", self._count, 1)
        return self._mean.clone()

    @property
    def variance(self) -> Tensor:
        """The unbiased variance, S/(n - 1), of shape `shape`."""
        check_count("variance", self._count, 2)
        return self._squares / (self._count - 1)

    @property
    def std(self) -> Tensor:
        """The square root of the unbiased variance, of shape `shape`."""
        return self.variance.sqrt()

    @property
    def std_error(self) -> Tensor:
        """The mean's standard error for independent samples, sqrt(variance/n), of shape `shape`."""
        return (self.variance / self._count).sqrt()

    def update(self, x: Tensor) -> None:
        """Take a chunk of arrays in, of shape (B, *shape).

        Raises:
            ArgumentError: if x is no real tensor, or holds NaN or infinite values.
            ShapeError: if its shape is not (B, *shape).
        """
        self._add(check_chunk(x, self.shape))

    def merge(self, other: Welford) -> None:
        """Take in what another has seen; the other is left as it is."""
        check_mergeable(self, other)
        self._join(other._count, other._mean, other._squares)

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of JSON values that `from_dict` turns back into the same statistics, to the last bit."""
        return {
            "shape": list(self.shape),
            "count": self._count,
            "mean": self._mean.flatten().tolist(),
            "squares": self._squares.flatten().tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Welford:
        """The statistics that `to_dict` wrote.

        Raises:
            ArgumentError: if it is no such dict.
        """
        check_keys(cls.__name__, values, ("shape", "count", "mean", "squares"))
        made = cls(values["shape"])
        made._count = check_natural("count", values["count"])
        made._mean = check_entries("mean", values["mean"], made.shape)
        made._squares = check_entries("squares", values["squares"], made.shape)
        if not bool((~torch.isnan(made._mean) & (made._squares >= 0)).all()):
            raise ArgumentError("the dict's means are NaN, or its sums of squares below 0: it is damaged.")
        return made

    def _add(self, x: Tensor) -> None:
        mean = x.mean(0)
        self._join(x.shape[0], mean, (x - mean).square().sum(0))

    def _join(self, n: int, mean: Tensor, squares: Tensor) -> None:
        if n == 0:
            return
        total = self._count + n
        shift = mean - self._mean
        self._squares = self._squares + squares + shift.square() * (self._count * (n / total))
        self._mean = self._mean + shift * (n / total)
        self._count = total

    def __repr__(self) -> str:
        return f"Welford(shape={self.shape}, count={self._count})"
