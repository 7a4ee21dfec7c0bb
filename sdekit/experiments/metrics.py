r"""Metrics: how far a sampler's samples are from the target, with the error of that figure.

Two sets are compared through a kernel k by the unbiased statistic

    T = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j)

with k = -|x - y| (the energy distance) or a Gaussian kernel (squared MMD). Being unbiased, T is 0 on average for a
perfect sampler, and so falls below 0 half of the time. All arithmetic is float64, in blocks.

Source: Szekely and Rizzo (2013), Energy statistics; Gretton et al. (2012), A kernel two-sample test;
Sejdinovic et al. (2013, arXiv:1207.6076) for the two being one.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdekit._tensors import check_positive, check_positive_integer, check_state, per_sample_rms
from sdekit.errors import ArgumentError, ShapeError, UnsupportedError
from sdekit.experiments.statistics import bootstrap_interval

__all__ = [
    "BUILT_IN",
    "MMD",
    "EnergyDistance",
    "Floor",
    "FlowError",
    "MeanLogDensity",
    "Metric",
    "MetricValue",
    "MixtureMMD",
    "Needs",
    "SlicedWasserstein",
    "floor",
    "median_bandwidth",
]

Needs = Literal["samples", "log_prob", "mixture", "reference_flow"]

CONFIDENCE = 0.95
_BLOCK_ENTRIES = 2**22


@dataclass(frozen=True)
class MetricValue:
    """A metric measured on one set of samples.

    `standard_error` and `interval` (95 %) cover the noise of the samples and of the reference set; both are None
    where the metric has no trustworthy one from a single set. `contributions`, (n,), average to `value`, one number
    per sample: two samplers that started from the same draws are compared by
    `statistics.paired_difference(a.contributions, b.contributions)`, with the common reference cancelling.
    """

    value: float
    standard_error: float | None
    interval: tuple[float, float] | None
    contributions: NDArray[np.float64] | None


@dataclass(frozen=True)
class Floor:
    """What a perfect sampler scores: the metric between exact sets, over `repeats` draws (`values`).

    `low` and `high` are its 2.5 % and 97.5 % quantiles. An error whose interval reaches down to `high` cannot be told
    from no error at this number of samples.
    """

    mean: float
    low: float
    high: float
    values: NDArray[np.float64]


class Metric(abc.ABC):
    """A figure for how far samples (n, *) are from a target; 0 is the ideal.

    Attributes:
        name: the word in tables; `title`: the words on an axis; `unit`: of the value; `what`: one sentence.
        lower_is_better: whether a smaller value (a smaller magnitude, if `signed`) is better.
        signed: whether a value below 0 is an error too, and not just noise around 0.
        needs: what stands for the target. "samples": exact draws, as `reference`. "log_prob": the target's log
            density, given when the metric is built, and exact draws as `reference`. "mixture": the target's closed
            form, given when the metric is built; no reference. "reference_flow": as `reference`, the images of the
            same starts under the exact flow.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str]
    what: ClassVar[str]
    lower_is_better: ClassVar[bool] = True
    signed: ClassVar[bool] = False
    needs: ClassVar[Needs]

    @abc.abstractmethod
    def against(self, reference: Tensor | None) -> Callable[[Tensor], MetricValue]:
        """The metric as a function of the samples alone: what depends on the reference only is computed once."""

    def evaluate(self, samples: Tensor, reference: Tensor | None = None) -> MetricValue:
        """The metric of samples (n, *) against a reference of the kind that `needs` names, (m, *).

        Raises:
            ArgumentError: if the reference is missing or superfluous, or a value is not finite.
            ShapeError: if one sample has another shape than one reference sample, or there are too few.
        """
        return self.against(reference)(samples)


@final
class EnergyDistance(Metric):
    r"""2 E|X - Y| - E|X - X'| - E|Y - Y'|, unbiased: 0 if and only if the two distributions are equal.

    The standard error is the jackknife's over both sets: consistent for p != q, and never too small on average
    (Efron and Stein 1981). At p = q, where the first-order part of T vanishes, its square is twice the variance; the
    interval covers at about its level there and where p and q are well apart, and somewhat below it (near 0.9 for a
    hundred samples) in between. A naive bootstrap of T would be wrong at p = q (Arcones and Gine 1992).

    Args:
        block_entries: how many pairs are held in memory at once; the result does not depend on it.

    Source: Szekely and Rizzo (2013), Energy statistics: a class of statistics based on distances.
    """

    name = "energy_distance"
    title = "energy distance"
    unit = "that of the data"
    what = "2 E|X - Y| - E|X - X'| - E|Y - Y'| between samples X and exact draws Y; 0 only if they agree in law."
    needs = "samples"

    def __init__(self, block_entries: int = _BLOCK_ENTRIES) -> None:
        self.block_entries = check_positive_integer("block_entries", block_entries)

    def against(self, reference: Tensor | None) -> Callable[[Tensor], MetricValue]:
        return _two_sample(self.name, lambda squared: squared.sqrt_().neg_(), reference, self.block_entries)


@final
class MMD(Metric):
    r"""Squared maximum mean discrepancy E k(X, X') + E k(Y, Y') - 2 E k(X, Y), unbiased.

    k(x, y) = mean_b exp(-|x - y|^2 / (2 b^2)). The standard error is that of `EnergyDistance`.

    Args:
        bandwidths: the lengths b. Choose them before looking at any sampler: `median_bandwidth(reference)` and its
            multiples are usual.
        block_entries: how many pairs are held in memory at once; the result does not depend on it.

    Source: Gretton, Borgwardt, Rasch, Scholkopf and Smola (2012), A kernel two-sample test.
    """

    name = "mmd"
    title = "squared MMD"
    unit = "none"
    what = "E k(X, X') + E k(Y, Y') - 2 E k(X, Y) with a Gaussian kernel, between samples X and exact draws Y."
    needs = "samples"

    def __init__(self, bandwidths: float | Sequence[float], block_entries: int = _BLOCK_ENTRIES) -> None:
        self.bandwidths = _check_bandwidths(bandwidths)
        self.block_entries = check_positive_integer("block_entries", block_entries)

    def against(self, reference: Tensor | None) -> Callable[[Tensor], MetricValue]:
        return _two_sample(self.name, _gaussian_kernel(self.bandwidths), reference, self.block_entries)


@final
class MixtureMMD(Metric):
    r"""Squared MMD against a mixture sum_k w_k N(m_k, c_k I), whose kernel means are exact: no reference noise.

        E k(x, Y) = mean_b sum_k w_k (b^2 / (b^2 + c_k))^{d/2} exp(-|x - m_k|^2 / (2 (b^2 + c_k)))

    and E k(Y, Y') likewise, with c_k + c_l and m_k - m_l. Only the samples are random.

    Args:
        bandwidths: the lengths b of the Gaussian kernels, as for `MMD`.
        weights: (K,), positive, summing to 1.
        means: (K, *), of the shape of a sample.
        variances: (K,), or one number for all: c_k, per coordinate, 0 or more.
        block_entries: how many pairs are held in memory at once; the result does not depend on it.
    """

    name = "mmd_mixture"
    title = "squared MMD"
    unit = "none"
    what = "E k(X, X') + E k(Y, Y') - 2 E k(X, Y) with a Gaussian kernel, the target's terms in closed form."
    needs = "mixture"

    def __init__(
        self,
        bandwidths: float | Sequence[float],
        weights: Tensor,
        means: Tensor,
        variances: Tensor | float,
        block_entries: int = _BLOCK_ENTRIES,
    ) -> None:
        self.bandwidths = _check_bandwidths(bandwidths)
        self.means = check_state("means", means)
        self.weights = check_state("weights", weights).to(_wide_device(means), torch.float64)
        wide = torch.as_tensor(variances, dtype=torch.float64, device=_wide_device(means))
        if self.weights.shape != means.shape[:1] or wide.shape not in ((), means.shape[:1]):
            raise ShapeError(
                f"weights {tuple(weights.shape)} and variances {tuple(wide.shape)} must each have one entry for each "
                f"of the {means.shape[0]} means (or variances be one number)."
            )
        self.variances = wide.expand(means.shape[0])
        total = float(self.weights.sum())
        if not bool((self.weights > 0).all()) or abs(total - 1) > 1e-6:
            raise ArgumentError(f"weights must be positive and sum to 1; they sum to {total:.8g}.")
        if not bool((self.variances >= 0).all()):
            raise ArgumentError("variances must be 0 or more: they are per coordinate, of each component.")
        self.block_entries = check_positive_integer("block_entries", block_entries)

    def against(self, reference: Tensor | None) -> Callable[[Tensor], MetricValue]:
        if reference is not None:
            raise ArgumentError(f"{self.name} knows its target in closed form; leave the reference out.")
        means = _flat(self.means)
        centre = self.weights @ means
        means = means - centre
        target_mean = float(self._kernel_mean(means, means, self.variances) @ self.weights)
        kernel = _gaussian_kernel(self.bandwidths)

        def measure(samples: Tensor) -> MetricValue:
            x = _flat(_check_samples(self.name, samples, self.means, fewest=3)).to(means.device) - centre
            cross = self._kernel_mean(x, means, torch.zeros_like(x[:, 0]))
            by_sample = _pseudo_values(_row_sums(kernel, x, self.block_entries)) + target_mean - 2 * cross
            return _with_normal_interval(by_sample, float(by_sample.var()) / len(x))

        return measure

    def _kernel_mean(self, x: Tensor, means: Tensor, variances: Tensor) -> Tensor:
        """E k(X, Y) for X ~ N(x_i, variances_i I) and Y the mixture: (n,)."""
        out = []
        for rows in _row_blocks(len(x), len(means), self.block_entries):
            squared = _squared_distances(x[rows], means)
            spread = variances[rows, None] + self.variances
            total = torch.zeros_like(squared)
            for b in self.bandwidths:
                width = b * b + spread
                total += torch.exp(-squared / (2 * width) + 0.5 * x.shape[1] * torch.log(b * b / width))
            out.append(total @ self.weights / len(self.bandwidths))
        return torch.cat(out)


@final
class SlicedWasserstein(Metric):
    r"""( mean over directions u of W_2^2(u.X, u.Y) )^{1/2}, with W_2 on the line by the quantile coupling.

    Two sets of different sizes are coupled exactly, quantile against quantile. The figure is biased upwards by the
    finite number of samples (two exact sets are not at distance 0), more than it fluctuates: it has no standard error
    here, and means something only beside its `floor` at the same sizes.

    Args:
        directions: how many directions, uniform on the sphere.
        seed: fixes the directions, so that all samplers are seen from the same sides.
        block_entries: how many projected values are held in memory at once; the result does not depend on it.

    Source: Rabin, Peyre, Delon and Bernot (2011), Wasserstein barycenter and its application to texture mixing.
    """

    name = "sliced_wasserstein"
    title = "sliced W2"
    unit = "that of the data"
    what = "root mean square, over fixed random directions, of the 2-Wasserstein distance of the projections."
    needs = "samples"

    def __init__(self, directions: int = 256, seed: int = 0, block_entries: int = _BLOCK_ENTRIES) -> None:
        self.directions = check_positive_integer("directions", directions)
        self.seed = seed
        self.block_entries = check_positive_integer("block_entries", block_entries)

    def against(self, reference: Tensor | None) -> Callable[[Tensor], MetricValue]:
        given = _check_reference(self.name, reference, fewest=1)
        y = _flat(given)
        centre = y.mean(0)
        generator = torch.Generator().manual_seed(self.seed)
        towards = torch.randn(self.directions, y.shape[1], generator=generator, dtype=torch.float64)
        towards = (towards / torch.linalg.vector_norm(towards, dim=1, keepdim=True)).to(y.device)
        at_once = max(1, self.block_entries // len(y))
        sorted_y = [torch.sort(part @ (y - centre).T).values for part in towards.split(at_once)]

        def measure(samples: Tensor) -> MetricValue:
            x = _flat(_check_samples(self.name, samples, given, fewest=1)).to(y.device) - centre
            of_x, of_y, weights = _quantile_coupling(len(x), len(y), y.device)
            total = 0.0
            for part, projected_y in zip(towards.split(at_once), sorted_y, strict=True):
                projected_x = torch.sort(part @ x.T).values
                total += float(((projected_x[:, of_x] - projected_y[:, of_y]) ** 2 @ weights).sum())
            return MetricValue(math.sqrt(total / self.directions), None, None, None)

        return measure


@final
class MeanLogDensity(Metric):
    r"""E_q log p - E_p log p: how typical the samples are under the target, compared with its own draws.

    Not a KL divergence: it lacks the samples' entropy. It is 0 for a perfect sampler but may be 0 for others; above 0
    the samples crowd the modes, below 0 they lie too far out. se^2 = var_q(log p)/n + var_p(log p)/m.

    Args:
        log_prob: the target's log density: (n, *) -> (n,), in nats.
    """

    name = "log_density_gap"
    title = "log-density gap"
    unit = "nats"
    what = "mean log p of the samples less that of exact draws. Not a KL divergence; above 0 samples crowd the modes."
    signed = True
    needs = "log_prob"

    def __init__(self, log_prob: Callable[[Tensor], Tensor]) -> None:
        if not callable(log_prob):
            raise ArgumentError(f"log_prob must be a function of samples (n, *), got {type(log_prob).__name__}.")
        self.log_prob = log_prob

    def against(self, reference: Tensor | None) -> Callable[[Tensor], MetricValue]:
        given = _check_reference(self.name, reference, fewest=2)
        of_reference = self._log_prob("reference", given)
        typical, reference_variance = of_reference.mean(), float(of_reference.var()) / len(of_reference)

        def measure(samples: Tensor) -> MetricValue:
            of_samples = self._log_prob("samples", _check_samples(self.name, samples, given, fewest=2))
            return _with_normal_interval(
                of_samples - typical.to(of_samples.device),
                float(of_samples.var()) / len(of_samples) + reference_variance,
            )

        return measure

    def _log_prob(self, name: str, x: Tensor) -> Tensor:
        out = self.log_prob(x).detach()
        if out.shape != x.shape[:1]:
            raise ShapeError(f"log_prob returned shape {tuple(out.shape)} for {len(x)} samples; expected ({len(x)},).")
        wide = out.to(_wide_device(out), torch.float64)
        if not bool(torch.isfinite(wide).all()):
            count = int((~torch.isfinite(wide)).sum())
            raise ArgumentError(f"log_prob is not finite for {count} of the {len(x)} {name}; the target must be.")
        return wide


@final
class FlowError(Metric):
    r"""The median over samples of |x_i - y_i| / sqrt(d), y_i the exact flow's image of the same start.

    For deterministic solvers: it sees the integration error alone, with no sampling noise, and says nothing about the
    network. The interval is a percentile bootstrap over samples; the contributions are the per-sample errors, whose
    median is the value.

    Args:
        resamples: how many resampled sets.
        seed: fixes the resampling.
    """

    name = "flow_error"
    title = "flow error (median RMS)"
    unit = "that of the data, per coordinate"
    what = "median over samples of the RMS distance per coordinate to the exact flow's image of the same start."
    needs = "reference_flow"

    def __init__(self, resamples: int = 2000, seed: int = 0) -> None:
        self.resamples = check_positive_integer("resamples", resamples)
        self.seed = seed

    def against(self, reference: Tensor | None) -> Callable[[Tensor], MetricValue]:
        given = _check_reference(self.name, reference, fewest=1)

        def measure(samples: Tensor) -> MetricValue:
            x = _check_samples(self.name, samples, given, fewest=1)
            if x.shape[0] != given.shape[0]:
                raise ShapeError(f"{self.name} pairs samples with references: got {len(x)} and {len(given)} of them.")
            difference = _flat(x) - _flat(given).to(_wide_device(x))
            errors = per_sample_rms(difference).cpu().numpy()
            found = bootstrap_interval(
                errors, "median", confidence=CONFIDENCE, resamples=self.resamples, seed=self.seed
            )
            return MetricValue(found.value, found.standard_error, (found.low, found.high), errors)

        return measure


BUILT_IN: tuple[type[Metric], ...] = (EnergyDistance, MMD, MixtureMMD, SlicedWasserstein, MeanLogDensity, FlowError)
"""Every metric of this module: how reports and plots know a metric's title and direction from its name."""


def floor(
    metric: Metric,
    draw_exact: Callable[[int, int], Tensor],
    n: int,
    repeats: int = 40,
    seed: int = 0,
    *,
    reference: Tensor | None = None,
) -> Floor:
    """The metric between exact sets: the noise floor of a comparison with n samples.

    Args:
        metric: any but a paired one.
        draw_exact: (n, seed) -> n exact draws, (n, *).
        n: the number of samples of each sampler.
        repeats: how many exact sets are scored; at least 2, and 40 or more for the quantiles to mean much.
        seed: fixes the draws; each set gets a seed of its own.
        reference: the reference that the samplers are measured against, (m, *): the floor is then what exact draws
            score against this very set. Without it every repeat draws a fresh reference of n.

    Raises:
        UnsupportedError: for a metric against a reference flow, which has no sampling floor.
        ArgumentError: if repeats or n is not a positive integer, or a reference is given to a metric that takes none.
    """
    if metric.needs == "reference_flow":
        raise UnsupportedError(f"{metric.name} is paired with a reference flow and has no sampling floor.")
    check_positive_integer("n", n)
    if check_positive_integer("repeats", repeats) < 2:
        raise ArgumentError("repeats must be at least 2: a floor is a spread, got 1.")
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(2 * repeats)]
    fixed = metric.against(reference) if reference is not None or metric.needs == "mixture" else None
    values = np.empty(repeats)
    for k in range(repeats):
        measure = fixed if fixed is not None else metric.against(draw_exact(n, seeds[repeats + k]))
        values[k] = measure(draw_exact(n, seeds[k])).value
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Floor(float(values.mean()), float(low), float(high), values)


def median_bandwidth(reference: Tensor, most: int = 1000) -> float:
    """The median distance between pairs of the first `most` reference samples: the usual kernel length for `MMD`."""
    y = _flat(_check_reference("median_bandwidth", reference, fewest=2)[:most])
    squared = _squared_distances(y - y.mean(0), y - y.mean(0))
    above = torch.ones_like(squared, dtype=torch.bool).triu_(1)
    return float(squared[above].median().sqrt())


# Kernel sums ---------------------------------------------------------------------------------------------------------

_Kernel = Callable[[Tensor], Tensor]
"""Squared distances, which it may overwrite, to kernel values."""


def _two_sample(
    name: str, kernel: _Kernel, reference: Tensor | None, block_entries: int
) -> Callable[[Tensor], MetricValue]:
    """T against a reference set, as a function of the samples."""
    given = _check_reference(name, reference, fewest=3)
    y = _flat(given)
    # Distances do not see a shift; centred coordinates keep |x|^2 - 2 x.y + |y|^2 free of cancellation.
    centre = y.mean(0)
    y = y - centre
    of_reference = _pseudo_values(_row_sums(kernel, y, block_entries))
    reference_mean = of_reference.mean()

    def measure(samples: Tensor) -> MetricValue:
        x = _flat(_check_samples(name, samples, given, fewest=3)).to(y.device) - centre
        rows, columns = _cross_sums(kernel, x, y, block_entries)
        by_sample = _pseudo_values(_row_sums(kernel, x, block_entries)) + reference_mean - 2 * rows / len(y)
        by_reference = of_reference - 2 * columns / len(x)
        # The jackknife of a two-sample statistic: each set's pseudo-values, T up to a constant on average.
        variance = float(by_sample.var()) / len(x) + float(by_reference.var()) / len(y)
        return _with_normal_interval(by_sample, variance)

    return measure


def _pseudo_values(row_sums: Tensor) -> Tensor:
    """n A - (n - 1) A_{-i}, A = mean_{i != j} k(x_i, x_j) and A_{-i} that without sample i: (n,), averaging to A.

    `row_sums` are sum_{j != i} k(x_i, x_j), (n,).
    """
    n, total = len(row_sums), row_sums.sum()
    return total / (n - 1) - (total - 2 * row_sums) / (n - 2)


def _with_normal_interval(contributions: Tensor, variance: float) -> MetricValue:
    """Their mean, with the Gaussian interval of the given variance."""
    value, error = float(contributions.mean()), math.sqrt(variance)
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * error
    return MetricValue(value, error, (value - half, value + half), contributions.cpu().numpy())


def _row_sums(kernel: _Kernel, x: Tensor, block_entries: int) -> Tensor:
    """sum_{j != i} k(x_i, x_j): (n,)."""
    rows = []
    for block in _row_blocks(len(x), len(x), block_entries):
        values = kernel(_squared_distances(x[block], x))
        values[:, block].fill_diagonal_(0.0)
        rows.append(values.sum(1))
    return torch.cat(rows)


def _cross_sums(kernel: _Kernel, x: Tensor, y: Tensor, block_entries: int) -> tuple[Tensor, Tensor]:
    """sum_j k(x_i, y_j), (n,), and sum_i k(x_i, y_j), (m,)."""
    rows, columns = [], torch.zeros_like(y[:, 0])
    for block in _row_blocks(len(x), len(y), block_entries):
        values = kernel(_squared_distances(x[block], y))
        rows.append(values.sum(1))
        columns += values.sum(0)
    return torch.cat(rows), columns


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 for x (n, d) and y (m, d), in float64: (n, m)."""
    squared = torch.addmm((y**2).sum(1), x, y.T, alpha=-2)
    return squared.add_((x**2).sum(1, keepdim=True)).clamp_min_(0.0)


def _gaussian_kernel(bandwidths: Sequence[float]) -> _Kernel:
    """k = mean_b exp(-|x - y|^2 / (2 b^2))."""

    def kernel(squared: Tensor) -> Tensor:
        total = torch.exp(squared * (-0.5 / bandwidths[0] ** 2))
        for b in bandwidths[1:]:
            total += torch.exp(squared * (-0.5 / b**2))
        return total / len(bandwidths)

    return kernel


def _quantile_coupling(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Which order statistics of n and of m values meet, and with what weight (summing to 1).

    The two quantile functions jump at i/n and j/m; in whole numbers, at i m and j n out of n m.
    """
    jumps = torch.unique(torch.cat([torch.arange(n + 1) * m, torch.arange(m + 1) * n]))
    left = jumps[:-1]
    weights = (jumps[1:] - left).to(torch.float64) / (n * m)
    return (left // m).to(device), (left // n).to(device), weights.to(device)


def _row_blocks(n: int, m: int, block_entries: int) -> list[slice]:
    """Slices of n rows, each with at most `block_entries` pairs (one row at least)."""
    at_once = max(1, block_entries // m)
    return [slice(k, min(k + at_once, n)) for k in range(0, n, at_once)]


# Arguments -----------------------------------------------------------------------------------------------------------


def _wide_device(x: Tensor) -> torch.device:
    """Where float64 arithmetic on x can happen: its own device, or the CPU where the device has no float64."""
    return torch.device("cpu") if x.device.type == "mps" else x.device


def _flat(x: Tensor) -> Tensor:
    """x, of shape (n, *), as (n, d) in float64."""
    return x.detach().to(_wide_device(x), torch.float64).reshape(x.shape[0], -1)


def _check_reference(name: str, reference: Tensor | None, fewest: int) -> Tensor:
    if reference is None:
        raise ArgumentError(f"{name} needs a reference of shape (m, *); got none.")
    y = check_state("reference", reference)
    if len(y) < fewest:
        raise ShapeError(f"{name} needs at least {fewest} reference samples, got {len(y)}.")
    return y


def _check_samples(name: str, samples: Tensor, reference: Tensor, fewest: int) -> Tensor:
    x = check_state("samples", samples)
    if x.shape[1:] != reference.shape[1:]:
        raise ShapeError(
            f"a sample has shape {tuple(x.shape[1:])} but one of the reference has {tuple(reference.shape[1:])}."
        )
    if len(x) < fewest:
        raise ShapeError(f"{name} needs at least {fewest} samples, got {len(x)}.")
    return x


def _check_bandwidths(bandwidths: float | Sequence[float]) -> tuple[float, ...]:
    given = tuple(bandwidths) if isinstance(bandwidths, Sequence) else (bandwidths,)
    if not given:
        raise ArgumentError("bandwidths is empty; give at least one length, such as median_bandwidth(reference).")
    return tuple(check_positive("a bandwidth", b) for b in given)
