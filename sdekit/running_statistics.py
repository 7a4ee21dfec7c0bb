"""Statistics over an ensemble too large to keep: fed in chunks, merged across workers, saved and resumed.

Means and variances follow Welford (1962) and Chan, Golub & LeVeque (1979). Quantiles come from a sketch that knows a
bound on its own error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, final

import torch
from torch import Tensor

from sdekit._tensors import check_positive_integer
from sdekit.errors import ArgumentError, ShapeError

__all__ = ["QuantileSketch", "RunningStatistics", "Welford"]

_SHOWN = 5  # places of non-finite values that an error names


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
        self.shape = _check_entry_shape(shape)
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
        _check_count("mean", self._count, 1)
        return self._mean.clone()

    @property
    def variance(self) -> Tensor:
        """The unbiased variance, S/(n - 1), of shape `shape`."""
        _check_count("variance", self._count, 2)
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
        self._add(_chunk(x, self.shape))

    def merge(self, other: Welford) -> None:
        """Take in what another has seen; the other is left as it is."""
        _check_mergeable(self, other)
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
        _check_keys(cls.__name__, values, ("shape", "count", "mean", "squares"))
        made = cls(values["shape"])
        made._count = _check_natural("count", values["count"])
        made._mean = _entries("mean", values["mean"], made.shape)
        made._squares = _entries("squares", values["squares"], made.shape)
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


@final
class QuantileSketch:
    r"""Quantiles of a stream of arrays, entry by entry, from a few thousand values of each, without chance.

    Values wait in levels, one at level l standing for 2^l. A level that has `size` values is sorted, and every other
    value goes one level up (Munro & Paterson 1980; Manku, Rajagopalan & Lindsay 1998; the compactor of Karnin, Lang &
    Liberty 2016, without its coins). That moves a rank by 0 or 2^l: upwards where the odd places are kept, downwards
    where the even ones are. The two are taken in turn, so that half of it cancels for sure, and the sketch counts both:

        |rank error| <= sum_l 2^l max(ups_l, downs_l)

    `rank_error` is this bound over n: at most (log2(n/size) + 3)/(2 size), which for size = 2048 is 0.29 % of the rank
    for a million values and 0.54 % for a billion; real errors are about half of it or less. Merging sketches can double
    the bound. Until the first level is full all values are there, and quantiles are exact.

    Memory: at most 8 size (log2(n/size) + 2) bytes an entry (about 180 kB for a million values), and the chunk.

    Args:
        shape: the shape of one array, () for plain numbers.
        size: values a level holds, even, at least 2.
    """

    def __init__(self, shape: Sequence[int] = (), size: int = 2048) -> None:
        self.shape = _check_entry_shape(shape)
        self.size = check_positive_integer("size", size)
        if self.size % 2:
            raise ArgumentError(f"size must be even, got {size!r}.")
        self._count = 0
        self._entries = math.prod(self.shape)
        # Of each level the waiting pieces, each (entries, values), and how many values they have together.
        self._levels: list[list[Tensor]] = [[]]
        self._held: list[int] = [0]
        self._ups: list[int] = [0]
        self._downs: list[int] = [0]

    @property
    def count(self) -> int:
        """The number of arrays seen."""
        return self._count

    @property
    def rank_error(self) -> float:
        """A bound on the error of any quantile's rank, as a fraction of the count; 0 while all values are kept."""
        if self._count == 0:
            return 0.0
        worst = sum(max(up, down) << level for level, (up, down) in enumerate(zip(self._ups, self._downs, strict=True)))
        return worst / self._count

    def update(self, x: Tensor) -> None:
        """Take a chunk of arrays in, of shape (B, *shape).

        Raises:
            ArgumentError: if x is no real tensor, or holds NaN or infinite values.
            ShapeError: if its shape is not (B, *shape).
        """
        self._add(_chunk(x, self.shape))

    def merge(self, other: QuantileSketch) -> None:
        """Take in what another of the same size has seen; the other is left as it is. The error bounds add up."""
        _check_mergeable(self, other)
        if self.size != other.size:
            raise ArgumentError(f"sketches of one size can be merged; these have {self.size} and {other.size}.")
        while len(self._levels) < len(other._levels):
            self._grow()
        for level in range(len(other._levels)):
            # Pieces are never written to, so that two sketches may hold one.
            self._levels[level] = self._levels[level] + other._levels[level]
            self._held[level] += other._held[level]
            self._ups[level] += other._ups[level]
            self._downs[level] += other._downs[level]
        self._count += other._count
        self._compact()

    def quantile(self, q: float) -> Tensor:
        """The value whose rank is q n, of shape `shape`: the least with rank q n or more (numpy's "inverted_cdf").

        Its rank is off by at most `rank_error` times n.
        """
        (value,) = self._read([q])
        return value

    def _read(self, fractions: Sequence[float]) -> list[Tensor]:
        """Some quantiles, from one sort."""
        _check_count("quantile", self._count, 1)
        # As integers, exactly: beside a Python float, torch would round 64-bit ranks to float32.
        targets = [math.ceil(_check_fraction(q) * self._count) for q in fractions]
        values = torch.cat([piece for level in self._levels for piece in level], dim=1)
        held = torch.tensor(self._held, dtype=torch.int64, device="cpu")
        weights = (2 ** torch.arange(len(held), dtype=torch.int64, device="cpu")).repeat_interleave(held)
        ordered, places = values.sort(dim=1)
        ranks = weights[places].cumsum(1)
        # The weights add up to the count: a level gives up an even number of values, for half of them at double weight.
        at = [(ranks < target).sum(1, keepdim=True) for target in targets]
        return [ordered.gather(1, i)[:, 0].reshape(self.shape) for i in at]

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of JSON values that `from_dict` turns back into the same sketch, to the last bit."""
        empty = torch.empty(self._entries, 0, dtype=torch.float64, device="cpu")
        return {
            "shape": list(self.shape),
            "size": self.size,
            "count": self._count,
            "levels": [torch.cat([empty, *pieces], dim=1).tolist() for pieces in self._levels],
            "ups": list(self._ups),
            "downs": list(self._downs),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QuantileSketch:
        """The sketch that `to_dict` wrote.

        Raises:
            ArgumentError: if it is no such dict.
        """
        _check_keys(cls.__name__, values, ("shape", "size", "count", "levels", "ups", "downs"))
        made = cls(values["shape"], values["size"])
        made._count = _check_natural("count", values["count"])
        made._levels, made._held = [], []
        for level in values["levels"]:
            piece = _level(level, made._entries)
            made._levels.append([piece] if piece.shape[1] else [])
            made._held.append(piece.shape[1])
        made._ups = [_check_natural("ups", n) for n in values["ups"]]
        made._downs = [_check_natural("downs", n) for n in values["downs"]]
        weight = sum(2**level * n for level, n in enumerate(made._held))
        if weight != made._count or not len(made._held) == len(made._ups) == len(made._downs):
            raise ArgumentError(
                f"the dict's levels stand for {weight} values and its count is {made._count}: it is damaged, or not "
                "from to_dict()."
            )
        return made

    def _add(self, x: Tensor) -> None:
        # Entries first, as sorting goes along the last dimension; a copy, since the caller may write to x afterwards.
        self._levels[0].append(x.reshape(x.shape[0], self._entries).T.clone(memory_format=torch.contiguous_format))
        self._held[0] += x.shape[0]
        self._count += x.shape[0]
        self._compact()

    def _compact(self) -> None:
        level = 0
        while level < len(self._levels):
            if self._held[level] >= self.size:
                self._raise(level)
            level += 1

    def _raise(self, level: int) -> None:
        """Every other value of a level to the next; of an odd number the largest stays behind."""
        if level + 1 == len(self._levels):
            self._grow()
        ordered = torch.cat(self._levels[level], dim=1).sort(dim=1).values
        even = ordered.shape[1] // 2 * 2
        if self._ups[level] <= self._downs[level]:
            kept = ordered[:, 0:even:2]
            self._ups[level] += 1
        else:
            kept = ordered[:, 1:even:2]
            self._downs[level] += 1
        self._levels[level] = [ordered[:, even:].clone()] if even < ordered.shape[1] else []
        self._held[level] = ordered.shape[1] - even
        self._levels[level + 1].append(kept.clone(memory_format=torch.contiguous_format))
        self._held[level + 1] += kept.shape[1]

    def _grow(self) -> None:
        self._levels.append([])
        for counts in (self._held, self._ups, self._downs):
            counts.append(0)

    def __repr__(self) -> str:
        return f"QuantileSketch(shape={self.shape}, size={self.size}, count={self._count})"


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
        self.quantiles = _check_fractions(quantiles)
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
        _check_count("minimum", self.count, 1)
        return self._minimum.clone()

    @property
    def maximum(self) -> Tensor:
        """The greatest value, of shape `shape`."""
        _check_count("maximum", self.count, 1)
        return self._maximum.clone()

    @property
    def rank_error(self) -> float:
        """A bound on the error of any quantile's rank, as a fraction of the count."""
        return self._sketched().rank_error

    def quantile(self, q: float) -> Tensor:
        """The q-quantile, of shape `shape`: its rank is q n within `rank_error` times n; at 0 and 1 the extremes."""
        (value,) = self._read([_check_fraction(q)])
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
        chunk = _chunk(x, self.shape)
        self._moments._add(chunk)
        self._minimum = torch.minimum(self._minimum, chunk.amin(0))
        self._maximum = torch.maximum(self._maximum, chunk.amax(0))
        if self._sketch is not None:
            self._sketch._add(chunk)

    def merge(self, other: RunningStatistics) -> None:
        """Take in what another of the same shape, quantiles and sketch size has seen; the other is left as it is."""
        _check_mergeable(self, other)
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
        _check_keys(cls.__name__, values, ("moments", "quantiles", "sketch", "minimum", "maximum"))
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
            made._minimum = _entries("minimum", values["minimum"], made.shape)
            made._maximum = _entries("maximum", values["maximum"], made.shape)
        return made

    def _sketched(self) -> QuantileSketch:
        if self._sketch is None:
            raise ArgumentError("these statistics keep no quantiles; make them with quantiles=(0.5,), for example.")
        return self._sketch

    def __repr__(self) -> str:
        return f"RunningStatistics(shape={self.shape}, quantiles={self.quantiles}, count={self.count})"


def _chunk(x: object, shape: tuple[int, ...]) -> Tensor:
    """A chunk of samples as float64 on the CPU, or an error."""
    if not isinstance(x, Tensor):
        raise ArgumentError(f"a chunk must be a torch.Tensor of shape (B, *{shape}), got {type(x).__name__}.")
    if x.is_complex():
        raise ArgumentError(f"a chunk must be real, got {x.dtype}; give .real and .imag, or .abs().")
    if x.ndim != len(shape) + 1 or x.shape[0] == 0 or x.shape[1:] != shape:
        expected = ", ".join(["B", *map(str, shape)])
        raise ShapeError(f"a chunk must have shape ({expected}) with at least one sample, got {tuple(x.shape)}.")
    wide = x.detach().to("cpu", torch.float64)
    finite = torch.isfinite(wide)
    if not bool(finite.all()):
        bad = torch.nonzero(~finite)
        places = ", ".join(str(tuple(place)) for place in bad[:_SHOWN].tolist())
        more = ", …" if bad.shape[0] > _SHOWN else ""
        samples = int((~finite).reshape(x.shape[0], -1).any(1).sum())
        raise ArgumentError(
            f"{bad.shape[0]} of {x.numel()} values are NaN or infinite, in {samples} of {x.shape[0]} samples, at "
            f"{places}{more} (sample first). Nothing of the chunk was taken in; leave those samples out."
        )
    return wide


def _check_entry_shape(shape: object) -> tuple[int, ...]:
    if (
        not isinstance(shape, Sequence)
        or isinstance(shape, str)
        or not all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) > 0 for n in shape)
    ):
        raise ShapeError(
            f"the shape of one sample is a sequence of positive integers, () for plain numbers; got {shape!r}."
        )
    return tuple(int(n) for n in shape)


def _check_fraction(q: object) -> float:
    if isinstance(q, bool) or not isinstance(q, Real) or not 0 <= float(q) <= 1:
        raise ArgumentError(f"a quantile is a number from 0 to 1, got {q!r}.")
    return float(q)


def _check_fractions(quantiles: object) -> tuple[float, ...]:
    if not isinstance(quantiles, Sequence) or isinstance(quantiles, str):
        raise ArgumentError(f"quantiles must be a sequence of numbers from 0 to 1, got {quantiles!r}.")
    return tuple(_check_fraction(q) for q in quantiles)


def _check_count(what: str, count: int, least: int) -> None:
    if count < least:
        needs = "one sample" if least == 1 else "two samples"
        raise ArgumentError(f"{what} needs at least {needs}; there have been {count}.")


def _check_mergeable(mine: Any, other: Any) -> None:
    if type(other) is not type(mine):
        raise ArgumentError(f"expected another {type(mine).__name__} to merge, got {type(other).__name__}.")
    if other.shape != mine.shape:
        raise ShapeError(f"statistics of one shape can be merged; these have {mine.shape} and {other.shape}.")


def _check_keys(kind: str, values: object, keys: tuple[str, ...]) -> None:
    if not isinstance(values, Mapping) or set(values) != set(keys):
        got = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
        raise ArgumentError(f"the dict of a {kind}, as its to_dict() returns it, has {', '.join(keys)}; got {got}.")


def _check_natural(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 0:
        raise ArgumentError(f"{name} must be an integer of at least 0, got {value!r}.")
    return int(value)


def _level(values: object, entries: int) -> Tensor:
    """A sketch's level, (entries, values)."""
    try:
        level = torch.tensor(values, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"levels must hold a list of numbers for each entry: {error}.") from None
    if level.ndim != 2 or level.shape[0] != entries:
        raise ArgumentError(f"a level must hold {entries} lists of one length, got the shape {tuple(level.shape)}.")
    return level


def _entries(name: str, values: object, shape: tuple[int, ...]) -> Tensor:
    try:
        return torch.tensor(values, dtype=torch.float64, device="cpu").reshape(shape)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{name} must be {math.prod(shape)} numbers in a list: {error}.") from None
