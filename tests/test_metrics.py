"""Metrics against closed forms, their definitions written out, and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sdekit.errors import ArgumentError, ShapeError, UnsupportedError
from sdekit.experiments.metrics import (
    BUILT_IN,
    MMD,
    EnergyDistance,
    FlowError,
    MeanLogDensity,
    MixtureMMD,
    SlicedWasserstein,
    floor,
    median_bandwidth,
)
from sdekit.experiments.statistics import paired_difference


@pytest.fixture(autouse=True)
def one_thread():
    """Thousands of tiny evaluations: handing each to several threads takes longer than doing it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def mean_distance(shift: float, std: float) -> float:
    """E|Z| for Z ~ N(shift, std^2), the folded normal's mean."""
    tail = 0.5 * math.erfc(shift / std / math.sqrt(2))
    return std * math.sqrt(2 / math.pi) * math.exp(-(shift**2) / (2 * std**2)) + shift * (1 - 2 * tail)


def two_sample_by_definition(kernel, x, y):
    """T with explicit loops over pairs."""
    xx = [kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    yy = [kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    xy = [kernel(a, b) for a in x for b in y]
    return float(np.mean(xx) + np.mean(yy) - 2 * np.mean(xy))


KERNELS = [
    (EnergyDistance(), lambda a, b: -float(torch.linalg.vector_norm(a - b))),
    (
        MMD((0.7, 2.0)),
        lambda a, b: 0.5 * sum(math.exp(-float(((a - b) ** 2).sum()) / (2 * h * h)) for h in (0.7, 2.0)),
    ),
]


# Kernel statistics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("metric", "kernel"), KERNELS, ids=lambda v: getattr(v, "name", ""))
def test_value_equals_its_definition(metric, kernel):
    x, y = normal(7, 1, 2, 2, seed=1), 1.3 * normal(5, 1, 2, 2, seed=2) + 0.4
    found = metric.evaluate(x, y)
    # Float64 sums of a few dozen terms.
    assert found.value == pytest.approx(two_sample_by_definition(kernel, x, y), abs=1e-12)
    assert found.contributions.shape == (7,)
    assert found.contributions.mean() == pytest.approx(found.value, abs=1e-12)


@pytest.mark.parametrize(("metric", "kernel"), KERNELS, ids=lambda v: getattr(v, "name", ""))
def test_standard_error_is_the_jackknifes(metric, kernel):
    x, y = normal(7, 2, seed=1), 1.3 * normal(5, 2, seed=2) + 0.4
    without_x = [two_sample_by_definition(kernel, x[[j for j in range(7) if j != i]], y) for i in range(7)]
    without_y = [two_sample_by_definition(kernel, x, y[[j for j in range(5) if j != i]]) for i in range(5)]
    variance = 6 / 7 * 7 * np.var(without_x) + 4 / 5 * 5 * np.var(without_y)
    assert metric.evaluate(x, y).standard_error == pytest.approx(math.sqrt(variance), rel=1e-9)


@pytest.mark.parametrize(("shift", "std"), [(0.0, 1.0), (0.5, 1.0), (1.0, 0.3), (0.0, 2.0)])
def test_energy_distance_of_gaussians_is_the_closed_form(shift, std):
    x, y = shift + std * normal(4000, 1, seed=3), normal(4000, 1, seed=4)
    truth = (
        2 * mean_distance(shift, math.hypot(1, std))
        - mean_distance(0.0, math.sqrt(2) * std)
        - mean_distance(0.0, math.sqrt(2))
    )
    found = EnergyDistance().evaluate(x, y)
    # Four of its own standard errors, which at these sizes are below 0.03.
    assert abs(found.value - truth) < 4 * found.standard_error
    assert found.standard_error < 0.03


def test_unbiased_between_equal_distributions():
    metrics = [EnergyDistance(), MMD(1.0), MixtureMMD(1.0, torch.ones(1), torch.zeros(1, 2), 1.0)]
    values = np.empty((400, len(metrics)))
    for k in range(400):
        x, y = normal(15, 2, seed=2 * k), normal(20, 2, seed=2 * k + 1)
        values[k] = [m.evaluate(x, None if m.needs == "mixture" else y).value for m in metrics]
    # The mean over 400 repeats is 0 to within four of its deviations; a V-statistic (i = j kept) would be off by 20.
    assert (np.abs(values.mean(0)) < 4 * values.std(0) / 20).all()
    assert (values.min(0) < 0).all()


@pytest.mark.parametrize("metric", [EnergyDistance(), MMD(1.5)], ids=lambda m: m.name)
def test_interval_is_calibrated(metric):
    def simulate(shift, repeats=300):
        found = []
        for k in range(repeats):
            x, y = normal(60, 2, seed=2 * k) + shift, normal(60, 2, seed=2 * k + 1)
            found.append(metric.evaluate(x, y))
        values = np.array([f.value for f in found])
        return values, np.array([f.standard_error for f in found]), np.array([f.interval for f in found])

    values, errors, intervals = simulate(1.0)
    # Away from p = q the jackknife is consistent: its variance is that seen, known to 8 % from 300 repeats.
    assert 0.75 < np.mean(errors**2) / values.var(ddof=1) < 1.3
    # Binomial deviation 0.0126 about 0.95; a little below is the skewness of T at n = 60.
    truth = values.mean()
    assert 0.9 < np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])) < 0.985

    values, errors, intervals = simulate(0.0)
    # At p = q the first-order part vanishes and the squared error is twice the variance (known to 15 %: T is skewed).
    assert 1.4 < np.mean(errors**2) / values.var(ddof=1) < 2.8
    assert np.mean((intervals[:, 0] <= 0) & (intervals[:, 1] >= 0)) > 0.91


def test_blocks_do_not_change_the_result():
    x, y = normal(50, 3, seed=5), normal(41, 3, seed=6) + 0.2
    weights, variances = torch.rand(41, dtype=torch.float64) + 0.1, torch.rand(41, dtype=torch.float64)
    makers = [
        lambda b: EnergyDistance(block_entries=b).evaluate(x, y),
        lambda b: MMD((0.5, 1.0), block_entries=b).evaluate(x, y),
        lambda b: MixtureMMD(1.0, weights / weights.sum(), y, variances, block_entries=b).evaluate(x),
        lambda b: SlicedWasserstein(30, block_entries=b).evaluate(x, y),
    ]
    for make in makers:
        whole = make(10**9)
        for block in (1, 97, 1000):
            part = make(block)
            # Only the order of float64 additions differs.
            assert part.value == pytest.approx(whole.value, rel=1e-11)
            if whole.standard_error is not None:
                assert part.standard_error == pytest.approx(whole.standard_error, rel=1e-11)


def test_samples_far_from_the_origin_lose_nothing():
    x, y = normal(40, 3, seed=7), normal(40, 3, seed=8)
    for metric in (EnergyDistance(), MMD(1.0)):
        near, far = metric.evaluate(x, y), metric.evaluate(x + 1e6, y + 1e6)
        # The shifted points themselves are rounded at 1e6 * 2^-53, about 1e-10; |x|^2 = 3e12 uncentred would cost 1e-4.
        assert far.value == pytest.approx(near.value, abs=1e-9)


def test_repeated_samples_are_at_distance_zero():
    collapsed = torch.ones(6, 2)
    found = EnergyDistance().evaluate(collapsed, collapsed[:5] + torch.tensor([3.0, 4.0]))
    assert found.value == pytest.approx(10.0, abs=1e-12)
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)


def test_paired_contributions_beat_unpaired_errors():
    start, y = normal(400, 2, seed=9), normal(400, 2, seed=10)
    a, b = (EnergyDistance().evaluate(scale * start + 0.5, y) for scale in (1.0, 1.05))
    found = paired_difference(a.contributions, b.contributions)
    assert found.value == pytest.approx(a.value - b.value, abs=1e-12)
    # The two sets are nearly the same points, so the pairing removes nearly all of the noise.
    assert found.standard_error < 0.3 * math.hypot(a.standard_error, b.standard_error)


def test_mixture_mmd_equals_quadrature():
    weights, means, variances = torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [0.8]]), torch.tensor([0.09, 0.5])
    x, bandwidths = normal(9, 1, seed=11), (0.4, 1.5)
    grid = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    density = sum(
        float(w) * torch.exp(-((grid - float(m)) ** 2) / (2 * float(c))) / math.sqrt(2 * math.pi * float(c))
        for w, m, c in zip(weights, means, variances, strict=True)
    ) * (grid[1] - grid[0])

    def k(a, b):
        return sum(torch.exp(-((a[:, None] - b) ** 2) / (2 * h * h)) for h in bandwidths) / len(bandwidths)

    points = x[:, 0]
    own = (k(points, points).sum() - len(x)) / (len(x) * (len(x) - 1))
    truth = own + density @ k(grid, grid) @ density - 2 * (k(points, grid) @ density).mean()
    found = MixtureMMD(bandwidths, weights, means, variances).evaluate(x)
    # The trapezium rule on Gaussians is exact to rounding; the weights are float32.
    assert found.value == pytest.approx(float(truth), abs=1e-7)


def test_mixture_mmd_agrees_with_samples_in_many_dimensions():
    means = 2 * normal(5, 4, seed=12)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15], dtype=torch.float64)
    variances = torch.tensor([0.1, 0.4, 0.9, 0.2, 0.6], dtype=torch.float64)
    generator = torch.Generator().manual_seed(13)
    picks = torch.multinomial(weights, 4000, replacement=True, generator=generator)
    y = means[picks] + variances[picks, None].sqrt() * normal(4000, 4, seed=14)
    x = normal(300, 4, seed=15)
    exact, sampled = MixtureMMD(2.0, weights, means, variances).evaluate(x), MMD(2.0).evaluate(x, y)
    # They share x, so they differ by the reference's noise only: 2 std(k-mean) / sqrt(4000), below 0.01; and the
    # sampled one, which knows of that noise too, is the less certain.
    assert exact.value == pytest.approx(sampled.value, abs=0.01)
    assert exact.value > 0.05
    assert exact.standard_error < sampled.standard_error
    assert exact.contributions.mean() == pytest.approx(exact.value, abs=1e-12)


def test_mixture_of_points_is_the_mean_over_points():
    atoms, x = normal(6, 2, seed=16), normal(8, 2, seed=17)
    found = MixtureMMD(1.0, torch.full((6,), 1 / 6, dtype=torch.float64), atoms, 0.0).evaluate(x).value

    def k(a, b):
        return torch.exp(-(torch.cdist(a, b) ** 2) / 2)

    truth = (k(x, x).sum() - 8) / 56 + k(atoms, atoms).mean() - 2 * k(x, atoms).mean()
    assert found == pytest.approx(float(truth), abs=1e-12)


def test_median_bandwidth_is_the_median_distance():
    # Distances 1, 3, 2 between 0, 1 and 3.
    assert median_bandwidth(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(2.0)


# Sliced Wasserstein --------------------------------------------------------------------------------------------------


def test_sliced_wasserstein_of_a_shift():
    # W2 of u.X and u.(X + m) is |u.m|; the mean of (u.m)^2 over the sphere is |m|^2 / d.
    x, shift = normal(50, 1, 2, 3, seed=18), torch.linspace(-1, 2, 6).reshape(1, 2, 3)
    directions = 4000
    found = SlicedWasserstein(directions).evaluate(x, x + shift).value ** 2
    square, d = float((shift**2).sum()), 6
    # Var (u.m)^2 = |m|^4 2 (d - 1) / (d^2 (d + 2)); four deviations of the mean over directions.
    deviation = square * math.sqrt(2 * (d - 1) / (d * d * (d + 2)) / directions)
    assert abs(found - square / d) < 4 * deviation


def test_sliced_wasserstein_of_gaussians_on_the_line():
    x, y = 0.7 + 1.5 * normal(20000, 1, seed=19), normal(15000, 1, seed=20)
    # W2^2 = shift^2 + (std difference)^2 = 0.74; W2's own noise is about 1.5 / sqrt(15000) = 0.012.
    assert SlicedWasserstein(3).evaluate(x, y).value == pytest.approx(math.sqrt(0.49 + 0.25), abs=0.05)


def test_sizes_that_differ_are_coupled_exactly():
    x, y = normal(4, 3, seed=21), normal(6, 3, seed=22)
    uneven = SlicedWasserstein(20).evaluate(x, y).value
    even = SlicedWasserstein(20).evaluate(x.repeat_interleave(3, 0), y.repeat_interleave(2, 0)).value
    assert uneven == pytest.approx(even, rel=1e-12)


def test_directions_are_fixed_by_the_seed_alone():
    x, y = normal(30, 5, seed=23), normal(30, 5, seed=24)
    torch.manual_seed(1)
    first = SlicedWasserstein(8, seed=4).evaluate(x, y).value
    torch.manual_seed(2)
    assert SlicedWasserstein(8, seed=4).evaluate(x, y).value == first
    assert SlicedWasserstein(8, seed=5).evaluate(x, y).value != first


# Density and flow ----------------------------------------------------------------------------------------------------


def test_mean_log_density_of_gaussians_is_the_closed_form():
    def log_prob(x):
        return -0.5 * (x**2).sum(1) - math.log(2 * math.pi)

    metric = MeanLogDensity(log_prob)
    x, y = 0.5 + 1.2 * normal(5000, 2, seed=25), normal(4000, 2, seed=26)
    found = metric.evaluate(x, y)
    # E_q log p - E_p log p = -(mu^2 + s^2 - 1) / 2 per coordinate.
    truth = -(0.25 + 1.44 - 1)
    # Var log p = (s^4 + 2 mu^2 s^2) / 2 per coordinate: 1.3968 a coordinate for the samples, 0.5 for the reference.
    error = math.sqrt(2 * (0.5 * 1.2**4 + 0.25 * 1.44) / 5000 + 2 * 0.5 / 4000)
    assert found.standard_error == pytest.approx(error, rel=0.08)
    assert abs(found.value - truth) < 4 * error
    assert found.contributions.mean() == pytest.approx(found.value, abs=1e-12)


def test_flow_error_is_the_median_of_per_sample_rms():
    y = normal(101, 2, 4, seed=27, dtype=torch.float32)
    sizes = torch.arange(101.0)[torch.randperm(101, generator=torch.Generator().manual_seed(0))]
    found = FlowError().evaluate(y + sizes[:, None, None], y)
    # Every coordinate of sample i is off by sizes[i]; float32 rounds x at 1e-5.
    assert found.contributions == pytest.approx(sizes.numpy(), abs=1e-4)
    assert found.value == pytest.approx(50.0, abs=1e-4)
    low, high = found.interval
    # The order statistics 0.5 n +- 0.98 sqrt(n) are 40.6 and 60.4 of 101.
    assert low == pytest.approx(40.4, abs=2.5)
    assert high == pytest.approx(59.6, abs=2.5)


# Floors --------------------------------------------------------------------------------------------------------------


def draw(n, seed):
    return normal(n, 2, seed=seed)


def test_floor_is_the_metric_between_exact_sets():
    metric = SlicedWasserstein(16)
    few, many = floor(metric, draw, 50, 20, seed=1), floor(metric, draw, 800, 20, seed=1)
    assert few.low <= few.mean <= few.high
    assert few.values.shape == (20,)
    # W2 of two sets of n on the line falls as n^-1/2 (up to a logarithm): 16 times the samples, a quarter or so.
    assert 0.15 < many.mean / few.mean < 0.45
    assert len(np.unique(few.values)) == 20
    assert (floor(metric, draw, 50, 20, seed=1).values == few.values).all()
    assert (floor(metric, draw, 50, 20, seed=2).values != few.values).all()


def test_exact_samples_score_within_the_floor_of_their_reference():
    reference = draw(150, 10**6)
    found = floor(EnergyDistance(), draw, 100, 200, seed=3, reference=reference)
    fresh = [EnergyDistance().evaluate(draw(100, 10**7 + k), reference).value for k in range(200)]
    share = np.mean([found.low <= v <= found.high for v in fresh])
    # 95 % by construction; both the quantiles and the share come from 200 draws: deviation about 0.02.
    assert share > 0.88


def test_floor_of_an_unbiased_metric_holds_zero():
    found = floor(MixtureMMD(1.0, torch.ones(1), torch.zeros(1, 2), 1.0), draw, 80, 60)
    assert found.low < 0 < found.high


def test_floor_refuses_what_has_none():
    with pytest.raises(UnsupportedError, match="no sampling floor"):
        floor(FlowError(), draw, 10, 5)
    with pytest.raises(ArgumentError, match="at least 2"):
        floor(EnergyDistance(), draw, 10, 1)


# Declarations and errors ---------------------------------------------------------------------------------------------


def test_every_metric_declares_itself():
    assert len({m.name for m in BUILT_IN}) == len(BUILT_IN)
    for metric in BUILT_IN:
        assert metric.title
        assert metric.unit
        assert metric.what.endswith(".")
        assert metric.needs in ("samples", "log_prob", "mixture", "reference_flow")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: EnergyDistance().evaluate(draw(5, 0)), ArgumentError, "needs a reference"),
        (lambda: EnergyDistance().evaluate(draw(2, 0), draw(5, 0)), ShapeError, "at least 3 samples"),
        (lambda: EnergyDistance().evaluate(draw(5, 0), draw(2, 0)), ShapeError, "at least 3 reference"),
        (lambda: EnergyDistance().evaluate(draw(5, 0), normal(5, 3)), ShapeError, r"\(2,\).*\(3,\)"),
        (lambda: EnergyDistance().evaluate(draw(5, 0) / 0, draw(5, 0)), ArgumentError, "NaN or infinite"),
        (lambda: EnergyDistance(0), ArgumentError, "block_entries"),
        (lambda: MMD(()), ArgumentError, "median_bandwidth"),
        (lambda: MMD((1.0, -1.0)), ArgumentError, "bandwidth"),
        (lambda: MixtureMMD(1.0, torch.ones(2), draw(2, 0), 1.0), ArgumentError, "sum to 2"),
        (lambda: MixtureMMD(1.0, torch.ones(1), draw(2, 0), 1.0), ShapeError, "2 means"),
        (lambda: MixtureMMD(1.0, torch.ones(1), draw(1, 0), -1.0), ArgumentError, "0 or more"),
        (lambda: MixtureMMD(1.0, torch.ones(1), draw(1, 0), 1.0).evaluate(*[draw(5, 0)] * 2), ArgumentError, "out"),
        (lambda: MeanLogDensity(3), ArgumentError, "function of samples"),
        (lambda: MeanLogDensity(lambda x: x).evaluate(draw(5, 0), draw(5, 0)), ShapeError, r"expected \(5,\)"),
        (
            lambda: MeanLogDensity(lambda x: x[:, 0].log()).evaluate(draw(9, 0), draw(9, 0).abs()),
            ArgumentError,
            "not finite for",
        ),
        (lambda: FlowError().evaluate(draw(9, 0), draw(10, 0)), ShapeError, "9 and 10"),
        (lambda: FlowError().evaluate(draw(3, 0), draw(3, 1)), ArgumentError, "at least 8"),
    ],
)
def test_errors_say_what_was_expected(call, error, words):
    with pytest.raises(error, match=words):
        call()
