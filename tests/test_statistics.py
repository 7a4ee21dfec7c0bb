"""Intervals against scipy and against simulation, Holm's and Pareto's definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sdekit.errors import ArgumentError, ShapeError
from sdekit.experiments.statistics import (
    bootstrap_interval,
    holm,
    mean_with_ci,
    paired_difference,
    pareto_front,
)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 31, 500])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_student_interval_and_p_value_equal_scipys(n, confidence):
    values = np.random.default_rng(n).normal(0.4, 1.3, n)
    found = mean_with_ci(values, confidence)
    expected = stats.ttest_1samp(values, 0.0)
    low, high = expected.confidence_interval(confidence)
    # Both are closed forms in float64; the bisection stops at rounding.
    assert found.low == pytest.approx(low, rel=1e-9, abs=1e-9)
    assert found.high == pytest.approx(high, rel=1e-9, abs=1e-9)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-14)
    assert (found.value, found.n, found.method) == (pytest.approx(values.mean()), n, "t")


def test_student_interval_covers_at_its_level_with_three_seeds():
    rng, repeats = np.random.default_rng(0), 1500
    hits = sum((i := mean_with_ci(rng.normal(2.0, 1.0, 3))).low <= 2.0 <= i.high for _ in range(repeats))
    # Exact for Gaussians: 0.95 with a binomial deviation of 0.0056; four of them.
    assert abs(hits / repeats - 0.95) < 0.0225


def test_equal_values_give_a_point():
    same = mean_with_ci([2.0, 2.0, 2.0])
    assert (same.low, same.high, same.p_value) == (2.0, 2.0, 0.0)
    assert mean_with_ci([0.0, 0.0]).p_value == 1.0
    flat = bootstrap_interval(np.full(10, 3.0))
    assert (flat.low, flat.high, flat.standard_error) == (3.0, 3.0, 0.0)


def test_bca_interval_equals_scipys_up_to_resampling():
    values = np.random.default_rng(1).exponential(size=40)
    mine = bootstrap_interval(values, resamples=20000, seed=3)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="BCa", rng=np.random.default_rng(5))
    # Ends are quantiles of 20000 draws: their own noise is about 0.015 standard errors at the 2.5 % point of a Gaussian
    # (sqrt(p (1 - p) / B) / density), more in the long upper tail; a tenth of an error is well above both.
    tolerance = 0.1 * mine.standard_error
    assert mine.low == pytest.approx(theirs.confidence_interval.low, abs=tolerance)
    assert mine.high == pytest.approx(theirs.confidence_interval.high, abs=tolerance)
    assert mine.standard_error == pytest.approx(theirs.standard_error, rel=0.03)
    # Skewed data: BCa leans to the right of the symmetric interval, the percentile interval does so by half as much.
    assert mine.high - mine.value > 1.2 * (mine.value - mine.low)


@pytest.mark.parametrize(
    ("statistic", "truth", "least"),
    # The bootstrap of 40 exponential values is known to cover a little less than it says: 0.92 to 0.95 (Efron and
    # Tibshirani 1993, chapter 14). The binomial deviation of 500 repeats is 0.01.
    [("mean", 1.0, 0.895), ("median", np.log(2), 0.9)],
)
def test_bootstrap_covers_about_its_level(statistic, truth, least):
    rng, repeats = np.random.default_rng(2), 500
    hits = 0
    for k in range(repeats):
        found = bootstrap_interval(rng.exponential(size=40), statistic, resamples=600, seed=k)
        hits += found.low <= truth <= found.high
    assert least < hits / repeats < 0.98


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_p_value_and_interval_agree(statistic):
    rng = np.random.default_rng(4)
    for k in range(40):
        values = rng.normal(0.3, 1.0, 41)
        found = bootstrap_interval(values, statistic, resamples=999, seed=k)
        excluded = found.low > 0 or found.high < 0
        # Quantiles interpolate between draws and p counts them: they may differ by one draw in 999, two-sided.
        if abs(found.p_value - 0.05) > 0.005:
            assert excluded == (found.p_value < 0.05)


def test_bootstrap_is_a_function_of_its_arguments():
    values = np.random.default_rng(5).normal(size=30)
    first, again = bootstrap_interval(values, seed=7), bootstrap_interval(values, seed=7)
    other = bootstrap_interval(values, seed=8)
    assert first == again
    assert first.low != other.low


def test_pairing_cancels_what_the_pairs_share():
    rng = np.random.default_rng(6)
    common = rng.normal(0, 10, 200)
    a, b = common + rng.normal(0.5, 0.1, 200), common + rng.normal(0.0, 0.1, 200)
    for method in ("bootstrap", "t"):
        found = paired_difference(a, b, method=method)
        assert found.value == pytest.approx(a.mean() - b.mean())
        # sqrt(2) * 0.1 / sqrt(200) = 0.01, estimated from 200 pairs to 5 %; unpaired it would be 1.0.
        assert found.standard_error == pytest.approx(0.01, rel=0.2)
        assert found.p_value < 0.01
        swapped = paired_difference(b, a, method=method)
        assert swapped.value == pytest.approx(-found.value)


def test_paired_median_is_the_difference_of_medians():
    a, b = np.array([1.0, 2, 3, 10, 11, 12, 13, 14]), np.array([5.0, 1, 0, 2, 9, 3, 3, 3])
    assert paired_difference(a, b, "median").value == np.median(a) - np.median(b)
    assert np.median(a - b) != np.median(a) - np.median(b)


def test_holm_equals_the_worked_example():
    # By hand: sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, made monotone: .02 .03 .06 .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]).shape == (0,)


def test_pareto_front_equals_its_definition():
    rng = np.random.default_rng(8)
    for _ in range(50):
        # Whole numbers in a small range, so that ties in one and in both coordinates occur.
        points = rng.integers(0, 6, size=(12, 2)).astype(float)
        undominated = {i for i, p in enumerate(points) if not any((q <= p).all() and (q < p).any() for q in points)}
        front = pareto_front(points)
        assert set(front.tolist()) == undominated
        assert (np.diff(points[front, 0]) >= 0).all()


def test_pareto_front_leaves_failed_points_out():
    assert pareto_front([(5, np.nan), (10, 1.0), (20, 2.0), (np.nan, 0.0)]).tolist() == [1]
    assert pareto_front([]).tolist() == []


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: mean_with_ci([1.0]), ArgumentError, "at least 2"),
        (lambda: mean_with_ci([1.0, np.nan]), ArgumentError, "failed runs"),
        (lambda: mean_with_ci([1.0, 2.0], 95), ArgumentError, "between 0 and 1"),
        (lambda: bootstrap_interval([1.0, 2.0, 3.0]), ArgumentError, "mean_with_ci"),
        (lambda: bootstrap_interval(np.arange(9.0), "mode"), ArgumentError, "'mean' or 'median'"),
        (lambda: bootstrap_interval(np.ones((9, 2))), ShapeError, "one-dimensional"),
        (lambda: bootstrap_interval(np.arange(9.0), resamples=0), ArgumentError, "resamples"),
        (lambda: paired_difference(np.arange(9.0), np.arange(8.0)), ShapeError, "9 and 8"),
        (lambda: paired_difference([1.0, 2.0], [1.0, 3.0]), ArgumentError, "method='t'"),
        (lambda: paired_difference([1.0, 2], [1.0, 3], "median", method="t"), ArgumentError, "for the mean"),
        (lambda: paired_difference(np.arange(9.0), np.arange(9.0), method="z"), ArgumentError, "'bootstrap' or 't'"),
        (lambda: holm([0.1, 1.2]), ArgumentError, "between 0 and 1"),
        (lambda: pareto_front([(1.0, 2.0, 3.0)]), ShapeError, "pairs"),
    ],
)
def test_errors_say_what_to_do(call, error, words):
    with pytest.raises(error, match=words):
        call()
