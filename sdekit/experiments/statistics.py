"""Intervals, paired differences, multiple comparisons and the Pareto front: what a comparison may claim.

Everything is NumPy, in float64, and a function of its arguments: the resampling is fixed by `seed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdekit._tensors import check_positive_integer
from sdekit.errors import ArgumentError, ShapeError

__all__ = [
    "FEWEST_FOR_BOOTSTRAP",
    "Interval",
    "Statistic",
    "bootstrap_interval",
    "holm",
    "mean_with_ci",
    "paired_difference",
    "pareto_front",
]

Statistic = Literal["mean", "median"]

FEWEST_FOR_BOOTSTRAP = 8
"""The bootstrap of so few values is a coarse, too narrow distribution: it covers less than it claims, and below this
far less."""

_NORMAL = NormalDist()
_RESAMPLED_AT_ONCE = 2**22


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    `standard_error` is the estimate's; `method` is "t", "bootstrap BCa" or "bootstrap percentile"; `n` counts the
    values (or pairs) behind it; `p_value` is two-sided, for the hypothesis that the truth is 0.
    """

    value: float
    low: float
    high: float
    standard_error: float
    confidence: float
    method: str
    n: int
    p_value: float


def mean_with_ci(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean with Student's interval: mean +- t_{n-1} s / sqrt(n).

    For one value per seed: exact for any n >= 2 if the values are Gaussian, which a metric over many samples nearly is.

    Args:
        values: (n,), one per seed, independent.
        confidence: the coverage wanted, between 0 and 1.

    Raises:
        ArgumentError: with fewer than two values, a non-finite value, or a confidence outside (0, 1).

    Source: Student (1908), The probable error of a mean.
    """
    v = _values("values", values, fewest=2)
    _check_confidence(confidence)
    n = len(v)
    mean, error = float(v.mean()), float(v.std(ddof=1)) / math.sqrt(n)
    half = _t_quantile(confidence, n - 1) * error
    t = 0.0 if mean == 0 else math.inf if error == 0 else abs(mean) / error
    p_value = max(0.0, 1 - _t_central_mass(t, n - 1))
    return Interval(mean, mean - half, mean + half, error, confidence, "t", n, p_value)


def bootstrap_interval(
    values: ArrayLike,
    statistic: Statistic = "mean",
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """A bootstrap interval for the mean (BCa) or the median (percentile) of independent values.

    BCa takes its ends from the resampled distribution at Phi(z0 + (z0 + z)/(1 - a (z0 + z))), with the bias z0 and
    the acceleration a = sum d^3 / (6 (sum d^2)^{3/2}), d = v - mean. The median keeps plain percentiles: its
    jackknife, and so its acceleration, is not consistent.

    Args:
        values: (n,), n >= 8.
        statistic: "mean" or "median".
        confidence: the coverage wanted, between 0 and 1.
        resamples: how many resampled sets.
        seed: fixes the resampling.

    Raises:
        ArgumentError: with fewer than eight values (use `mean_with_ci`), a non-finite one, or an unknown statistic.

    Source: Efron (1987), Better bootstrap confidence intervals, JASA 82.
    """
    v = _values("values", values, fewest=FEWEST_FOR_BOOTSTRAP, hint="use mean_with_ci for fewer")
    return _bootstrap(lambda rows: _apply(statistic, v[rows]), v, statistic, confidence, resamples, seed)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    statistic: Statistic = "mean",
    *,
    method: Literal["bootstrap", "t"] = "bootstrap",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """statistic(a) - statistic(b) with an interval that respects the pairing: a[i] and b[i] are resampled together.

    Values that share their start and their noise (or their seed) are correlated, and their common part cancels here.
    For the median this is the difference of the medians, not the median of the differences.

    Args:
        a, b: (n,) each; a[i] and b[i] belong to the same sample, or the same seed.
        statistic: "mean" or "median".
        method: "bootstrap" (eight pairs or more) or "t" (Student's paired test, the mean only, two pairs or more).
        confidence, resamples, seed: as in `bootstrap_interval`; "t" resamples nothing.

    Raises:
        ShapeError: if a and b differ in length.
        ArgumentError: with too few pairs for the method, a non-finite value, or "t" for a median.
    """
    fewest = 2 if method == "t" else FEWEST_FOR_BOOTSTRAP
    x, y = (_values(name, v, fewest, "use method='t' for fewer") for name, v in (("a", a), ("b", b)))
    if x.shape != y.shape:
        raise ShapeError(f"paired values must be as many on both sides, got {len(x)} and {len(y)}.")
    if method == "t":
        if statistic != "mean":
            raise ArgumentError(f"method='t' is for the mean, got statistic={statistic!r}; use method='bootstrap'.")
        return mean_with_ci(x - y, confidence)
    if method != "bootstrap":
        raise ArgumentError(f"method must be 'bootstrap' or 't', got {method!r}.")

    def difference(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        return _apply(statistic, x[rows]) - _apply(statistic, y[rows])

    return _bootstrap(difference, x - y, statistic, confidence, resamples, seed)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's adjusted p-values: reject where they are at most alpha, and the family's error is at most alpha.

    p~_(i) = max_{j <= i} min(1, (n - j + 1) p_(j)), in the order given: (n,).

    Raises:
        ArgumentError: if a p-value is outside [0, 1].

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not bool(np.all((p >= 0) & (p <= 1))):
        raise ArgumentError(f"p_values must be one-dimensional and between 0 and 1, got {p_values!r}.")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(stepped)
    return adjusted


def pareto_front(points: ArrayLike | Sequence[tuple[float, float]]) -> NDArray[np.intp]:
    """Indices of the (cost, error) points that no other point dominates, by rising cost.

    A point is dominated if another costs no more and errs no more, and is below it in one of the two. Equal points
    stay together. A point with a NaN (a solver that failed) is never on the front.

    Args:
        points: (n, 2), NFE (or seconds) and error.
    """
    p = np.asarray(points, dtype=np.float64)
    if p.size == 0:
        return np.empty(0, dtype=np.intp)
    if p.ndim != 2 or p.shape[1] != 2:
        raise ShapeError(f"points must be pairs (cost, error), of shape (n, 2), got {p.shape}.")
    candidates = np.flatnonzero(~np.isnan(p).any(axis=1))
    order = candidates[np.lexsort((p[candidates, 1], p[candidates, 0]))]
    front: list[int] = []
    for i in order:
        # By rising cost, a point joins if it errs less than all before it, or equals the last that joined.
        if not front or p[i, 1] < p[front[-1], 1] or bool(np.array_equal(p[i], p[front[-1]])):
            front.append(int(i))
    return np.asarray(front, dtype=np.intp)


def _bootstrap(
    estimate: Callable[[NDArray[np.intp]], NDArray[np.float64]],
    influence: NDArray[np.float64],
    statistic: Statistic,
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    """The interval of `estimate`, a function of (resamples, n) row numbers; `influence` gives the acceleration."""
    _check_confidence(confidence)
    count = check_positive_integer("resamples", resamples)
    n = len(influence)
    value = float(estimate(np.arange(n)[None])[0])
    draws = _resampled(estimate, n, count, np.random.default_rng(seed))
    bias, acceleration = 0.0, 0.0
    centred = influence - influence.mean()
    spread = float(np.sum(centred**2))
    if statistic == "mean" and spread > 0:
        bias = _NORMAL.inv_cdf(_share_below(draws, value))
        acceleration = float(np.sum(centred**3)) / (6 * spread**1.5)

    def level(z: float) -> float:
        return _NORMAL.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))

    z = _NORMAL.inv_cdf((1 + confidence) / 2)
    low, high = np.quantile(draws, [level(-z), level(z)])
    # The same formula, solved for the z at which an end of the interval is 0.
    shift = _NORMAL.inv_cdf(_share_below(draws, 0.0)) - bias
    tail = _NORMAL.cdf(shift / (1 + acceleration * shift) - bias)
    name = "bootstrap BCa" if statistic == "mean" else "bootstrap percentile"
    error = float(draws.std(ddof=1)) if count > 1 else 0.0
    # `count` resamples cannot resolve less than one of them.
    p_value = min(1.0, max(1 / count, 2 * min(tail, 1 - tail)))
    return Interval(value, float(low), float(high), error, confidence, name, n, p_value)


def _resampled(
    estimate: Callable[[NDArray[np.intp]], NDArray[np.float64]], n: int, count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """`estimate` of `count` resampled sets, a bounded number of them in memory at once: (count,)."""
    at_once = max(1, _RESAMPLED_AT_ONCE // n)
    parts = [estimate(rng.integers(n, size=(min(at_once, count - k), n))) for k in range(0, count, at_once)]
    return np.concatenate(parts)


def _share_below(draws: NDArray[np.float64], value: float) -> float:
    """The share of draws below `value`, ties by half, kept inside (0, 1) by half a draw at either end."""
    share = (np.count_nonzero(draws < value) + 0.5 * np.count_nonzero(draws == value)) / len(draws)
    return float(np.clip(share, 0.5 / len(draws), 1 - 0.5 / len(draws)))


def _apply(statistic: Statistic, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    if statistic == "mean":
        return np.asarray(rows.mean(axis=1), dtype=np.float64)
    if statistic == "median":
        return np.asarray(np.median(rows, axis=1), dtype=np.float64)
    raise ArgumentError(f"statistic must be 'mean' or 'median', got {statistic!r}.")


def _t_central_mass(t: float, freedom: int) -> float:
    """P(|T| <= t) for Student's T with a whole number of degrees of freedom, as the finite trigonometric sum.

    Source: Abramowitz and Stegun (1964), 26.7.3 and 26.7.4.
    """
    theta = math.atan(t / math.sqrt(freedom))
    # Ratios of neighbouring terms: cos^2 (k / (k + 1)), k = 1, 3, 5, … for even and 2, 4, 6, … for odd freedom.
    k = np.arange(1 if freedom % 2 == 0 else 2, freedom - 2, 2)
    terms = np.cumprod(math.cos(theta) ** 2 * k / (k + 1))
    if freedom % 2 == 0:
        return math.sin(theta) * (1 + float(terms.sum()))
    series = math.cos(theta) * (1 + float(terms.sum())) if freedom > 1 else 0.0
    return (theta + math.sin(theta) * series) * 2 / math.pi


def _t_quantile(confidence: float, freedom: int) -> float:
    """The t with P(|T| <= t) = confidence, by bisection on its angle, to rounding."""
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        if _t_central_mass(math.tan(middle) * math.sqrt(freedom), freedom) < confidence:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(freedom)


def _values(name: str, values: ArrayLike, fewest: int, hint: str = "") -> NDArray[np.float64]:
    v: NDArray[Any] = np.asarray(values, dtype=np.float64)
    if v.ndim != 1:
        raise ShapeError(f"{name} must be one-dimensional, got shape {v.shape}.")
    if len(v) < fewest:
        raise ArgumentError(f"{name} holds {len(v)} value(s); at least {fewest} are needed{hint and '; ' + hint}.")
    if not bool(np.isfinite(v).all()):
        raise ArgumentError(f"{name} holds NaN or infinite values; leave the failed runs out, and say how many.")
    return v


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ArgumentError(f"confidence must be between 0 and 1, got {confidence!r}.")
