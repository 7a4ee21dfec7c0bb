"""Running statistics against numpy on the whole sample, in chunks and merges of every kind."""

from __future__ import annotations

import copy
import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdekit.errors import ArgumentError, ShapeError
from sdekit.running_statistics import QuantileSketch, RunningStatistics, Welford


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fed(x: torch.Tensor, sizes, **options) -> RunningStatistics:
    statistics = RunningStatistics(tuple(x.shape[1:]), **options)
    for chunk in x.split(sizes):
        statistics.update(chunk)
    return statistics


def check_moments(statistics, x: torch.Tensor, rtol: float = 1e-11) -> None:
    values = x.double().numpy()
    scale = np.abs(values).max()
    assert statistics.count == len(values)
    np.testing.assert_allclose(statistics.mean, values.mean(0), rtol=rtol, atol=1e-14 * scale)
    variance = values.var(0, ddof=1)
    np.testing.assert_allclose(statistics.variance, variance, rtol=rtol, atol=1e-26 * scale**2)
    np.testing.assert_allclose(statistics.std, np.sqrt(variance), rtol=rtol, atol=1e-13 * scale)
    np.testing.assert_allclose(statistics.std_error, np.sqrt(variance / len(values)), rtol=rtol, atol=1e-13 * scale)


def check_quantiles(statistics, x: torch.Tensor, fractions=(0.001, 0.05, 0.31, 0.5, 0.75, 0.99, 0.999)) -> float:
    """The ranks of what the sketch returns reach q n within its own bound; the largest error, as a fraction of n."""
    n = x.shape[0]
    allowed = statistics.rank_error * n
    worst = 0.0
    for q in fractions:
        value = statistics.quantile(q)
        below, upto = (x < value).sum(0), (x <= value).sum(0)
        # The quantile's ranks are below + 1 to upto: some of them must be within the bound of q n (to one rank).
        error = torch.maximum(below - q * n, q * n - upto).clamp(min=0)
        assert (error <= allowed + 1e-9 * n).all(), (q, error.max(), allowed)
        assert ((x == value).any(0)).all()  # a value that was there
        worst = max(worst, error.max().item() / n)
    return worst


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 2)])
@pytest.mark.parametrize("sizes", [1, 7, 100, 10_000])
def test_against_numpy(shape, sizes):
    x = normals(1000, *shape)
    statistics = fed(x, sizes)
    check_moments(statistics, x)
    assert torch.equal(statistics.minimum, x.amin(0))
    assert torch.equal(statistics.maximum, x.amax(0))
    # Fewer values than the sketch holds: exactly numpy's.
    assert statistics.rank_error == 0
    for q in (0.0, 0.05, 0.5, 0.77, 1.0):
        exact = np.quantile(x.numpy(), q, axis=0, method="inverted_cdf")
        np.testing.assert_array_equal(statistics.quantile(q), exact)
    summary = statistics.summary()
    assert summary["count"] == 1000
    for q in (0.05, 0.5, 0.95):
        assert torch.equal(summary["quantiles"][q], statistics.quantile(q))
    for name in ("mean", "variance", "std_error", "minimum", "maximum"):
        assert torch.equal(summary[name], getattr(statistics, name))


@given(
    n=st.integers(2, 400),
    cuts=st.lists(st.integers(1, 80), min_size=1, max_size=30),
    size=st.sampled_from([2, 4, 10, 64]),
    parts=st.integers(1, 4),
    ties=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_any_chunks_and_any_merges(n, cuts, size, parts, ties, seed):
    """Chunks dealt to several, merged in a chain: the moments to rounding, the quantiles within the sketch's bound."""
    x = normals(n, 2, seed=seed)
    x = (2 * x).round() if ties else x
    edges = np.cumsum(cuts)
    chunks = [c for c in torch.tensor_split(x, torch.as_tensor(edges[edges < n])) if len(c)]
    several = [RunningStatistics((2,), sketch_size=size) for _ in range(parts)]
    for i, chunk in enumerate(chunks):
        several[i % parts].update(chunk)
    whole, *others = several
    for other in others:
        before = other.to_dict()
        whole.merge(other)
        assert other.to_dict() == before
    check_moments(whole, x)
    assert torch.equal(whole.minimum, x.amin(0))
    assert torch.equal(whole.maximum, x.amax(0))
    check_quantiles(whole, x)
    assert torch.equal(whole.quantile(0), x.amin(0))
    assert torch.equal(whole.quantile(1), x.amax(0))
    again = RunningStatistics.from_dict(json.loads(json.dumps(whole.to_dict())))
    assert again.to_dict() == whole.to_dict()


def test_large_means():
    """Mean 1e8, deviation 1: sums of squares in float64 would keep no digit of the variance."""
    x = 1e8 + normals(20_000, 2)
    deviations = (x - 1e8).numpy()  # exact: numbers near one another
    for sizes in (1000, 7):
        statistics = fed(x, sizes, quantiles=())
        # A mean is stored to 1.5e-8, which is all that enters the variance, and that at random and by its deviations.
        np.testing.assert_allclose(statistics.variance, deviations.var(0, ddof=1), rtol=1e-8)
        np.testing.assert_allclose(statistics.mean - 1e8, deviations.mean(0), rtol=0, atol=1e-7)
    constant = fed(torch.full((1000, 1), 0.1), 13)
    assert constant.variance.item() < 1e-33  # of a mean that rounds by 1e-17


def test_chunks_of_unlike_sizes_and_means():
    """The term d^2 n_a n_b/n: chunks far from one another."""
    x = torch.cat([normals(3) - 50, normals(500, seed=1), normals(1, seed=2) + 300])
    statistics = Welford()
    for chunk in (x[:3], x[3:503], x[503:]):
        statistics.update(chunk)
    check_moments(statistics, x)


def test_merging_in_every_order():
    pieces = [normals(n, 3, seed=n) * n + 1e4 * n for n in (5, 40, 300, 1)]
    reference = None
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        whole = RunningStatistics((3,))
        for i in order:
            whole.merge(fed(pieces[i], 100))
        check_moments(whole, torch.cat(pieces))
        reference = reference or whole
        torch.testing.assert_close(whole.mean, reference.mean, rtol=1e-15, atol=0)
        torch.testing.assert_close(whole.variance, reference.variance, rtol=1e-13, atol=0)
        assert torch.equal(whole.quantile(0.3), reference.quantile(0.3))  # all values are still there
    empty = RunningStatistics((3,))
    before = whole.to_dict()
    whole.merge(empty)
    assert whole.to_dict() == before


# The sketch --------------------------------------------------------------------------------------------------------

ORDERS = {
    "random": lambda x: x,
    "sorted": lambda x: x.sort(dim=0).values,
    "falling": lambda x: x.sort(dim=0, descending=True).values,
    "from the ends": lambda x: torch.stack([x.sort(dim=0).values, x.sort(dim=0, descending=True).values], 1)[
        : len(x) // 2
    ].flatten(0, 1),
    "few values": lambda x: (3 * x).round(),
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_million_values(order):
    """The bound that the docstring states, for orders made to break it; real errors are well below."""
    x = ORDERS[order](normals(1_000_000, 1))
    statistics = fed(x, 10_007 if order == "random" else 1_000)
    worst = check_quantiles(statistics, x)
    assert statistics.rank_error <= 0.0029
    assert worst <= 0.001
    held = sum(statistics._sketch._held)
    assert held <= 2048 * (math.log2(1e6 / 2048) + 2)
    assert max(statistics._sketch._held) < 2048


@pytest.mark.parametrize("n", [2**12, 2**16, 2**16 + 12345])
@pytest.mark.parametrize("size", [16, 128])
def test_the_stated_bound(n, size):
    x = normals(n, 2)
    statistics = fed(x, size, sketch_size=size)  # chunks of the size are the worst: larger ones are compacted at once
    assert 0 < statistics.rank_error <= (math.log2(n / size) + 3) / (2 * size)
    check_quantiles(statistics, x)
    merged = RunningStatistics((2,), sketch_size=size)
    for chunk in x.split(3 * size):
        merged.merge(fed(chunk, size, sketch_size=size))
    assert merged.rank_error <= (math.log2(n / size) + 3) / size
    check_quantiles(merged, x)


def test_entries_are_apart():
    """An entry's quantiles have the same bits alone and among others, whatever their sizes."""
    x = normals(5000, 3) * torch.tensor([1.0, 1e6, 1e-6])
    together = fed(x, 64, sketch_size=32)
    for i in range(3):
        alone = fed(x[:, i], 64, sketch_size=32)
        for q in (0.01, 0.5, 0.9):
            assert torch.equal(together.quantile(q)[i], alone.quantile(q))


def test_counts_beyond_float32():
    """A sketch doubled by merging with itself: ranks past 2^24 are still integers."""
    x = normals(3001)
    sketch = QuantileSketch((), 2000)
    sketch.update(x)
    for _ in range(26):
        sketch.merge(sketch)
    assert sketch.count == 3001 * 2**26
    ordered = x.sort().values
    for q in (0.1, 0.5, 0.9001):
        rank = (ordered <= sketch.quantile(q)).sum().item() / 3001
        assert abs(rank - q) <= sketch.rank_error + 1 / 3001
    few = QuantileSketch((), 2)
    few.update(torch.tensor([0.0]))
    for _ in range(25):
        few.merge(few)
    few.update(torch.tensor([1.0]))  # one value of 2^25 + 1, which float32 does not tell from 2^25
    assert few.quantile(1.0).item() == 1.0
    assert few.quantile(1 - 2**-24).item() == 0.0


def test_chunks_are_copied():
    x = normals(10)
    kept = x.clone()
    statistics = fed(x, 10)
    x.zero_()
    check_moments(statistics, kept)
    check_quantiles(statistics, kept)
    statistics.mean.zero_()
    statistics.minimum.zero_()
    assert statistics.minimum == kept.amin()
    assert statistics.mean != 0


# Values and errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.int64, torch.bool])
def test_every_dtype(dtype):
    x = (3 * normals(50, 2)).to(dtype)
    statistics = fed(x, 20)
    check_moments(statistics, x)
    assert statistics.mean.dtype == statistics.quantile(0.5).dtype == torch.float64


def test_saved_and_resumed():
    x = normals(5000, 2, 2)
    whole = fed(x, 100, sketch_size=64)
    first = fed(x[:3000], 100, sketch_size=64)
    resumed = RunningStatistics.from_dict(json.loads(json.dumps(first.to_dict())))
    for chunk in x[3000:].split(100):
        resumed.update(chunk)
    assert resumed.to_dict() == whole.to_dict()
    assert pickle.loads(pickle.dumps(whole)).to_dict() == copy.deepcopy(whole).to_dict() == whole.to_dict()
    without = fed(x, 100, quantiles=())
    again = RunningStatistics.from_dict(json.loads(json.dumps(without.to_dict())))
    assert torch.equal(again.variance, without.variance)
    empty = RunningStatistics.from_dict(json.loads(json.dumps(RunningStatistics((2,)).to_dict(), allow_nan=False)))
    empty.update(normals(3, 2))
    assert torch.equal(empty.minimum, normals(3, 2).amin(0))


def test_non_finite_values():
    x = normals(6, 2)
    x[1, 0], x[4, 1], x[4, 0] = math.nan, math.inf, -math.inf
    statistics = fed(normals(3, 2), 3)
    before = statistics.to_dict()
    with pytest.raises(ArgumentError, match=r"3 of 12 values.*in 2 of 6 samples, at \(1, 0\), \(4, 0\), \(4, 1\) \(s"):
        statistics.update(x)
    assert statistics.to_dict() == before
    with pytest.raises(ArgumentError, match=r"12 of 12 .*\(2, 0\), …"):
        statistics.update(x * math.nan)
    for single in (Welford((2,)), QuantileSketch((2,))):
        with pytest.raises(ArgumentError, match="are NaN or infinite"):
            single.update(x)
        assert single.count == 0


@pytest.mark.parametrize("family", [Welford, QuantileSketch, RunningStatistics])
def test_shared_errors(family):
    made = family((2, 3))
    for shape in ((2, 3), (0, 2, 3), (4, 3, 2), (4, 6)):
        with pytest.raises(ShapeError, match=r"must have shape \(B, 2, 3\) with at least one sample"):
            made.update(torch.ones(shape))
    with pytest.raises(ArgumentError, match=r"must be a torch\.Tensor of shape"):
        made.update([1.0])
    with pytest.raises(ArgumentError, match=r"must be real, got torch\.complex64"):
        made.update(torch.ones(1, 2, 3, dtype=torch.complex64))
    with pytest.raises(ArgumentError, match=f"expected another {family.__name__} to merge, got dict"):
        made.merge({})
    with pytest.raises(ShapeError, match=r"\(2, 3\) and \(3,\)"):
        made.merge(family((3,)))
    for bad in ((0,), (1.5,), "a", 3, (True,)):
        with pytest.raises(ShapeError, match="sequence of positive integers"):
            family(bad)
    with pytest.raises(ArgumentError, match=f"the dict of a {family.__name__}"):
        family.from_dict({"count": 3})
    with pytest.raises(ArgumentError, match="got list"):
        family.from_dict([])
    assert "count=0" in repr(made)


def test_too_few():
    statistics = RunningStatistics()
    for name in ("mean", "minimum", "maximum"):
        with pytest.raises(ArgumentError, match=f"{name} needs at least one sample; there have been 0"):
            getattr(statistics, name)
    with pytest.raises(ArgumentError, match="quantile needs at least one sample"):
        statistics.quantile(0.5)
    assert statistics.rank_error == 0
    statistics.update(torch.tensor([2.0]))
    assert statistics.mean == statistics.quantile(0.5) == statistics.minimum == 2
    for name in ("variance", "std_error"):
        with pytest.raises(ArgumentError, match="variance needs at least two samples; there have been 1"):
            getattr(statistics, name)


def test_quantile_errors():
    statistics = RunningStatistics(quantiles=())
    statistics.update(normals(5))
    for ask in (lambda: statistics.quantile(0.5), lambda: statistics.rank_error):
        with pytest.raises(ArgumentError, match="keep no quantiles; make them with"):
            ask()
    assert statistics.summary()["quantiles"] == {}
    for bad in (-0.1, 1.1, math.nan, "a", None, True):
        with pytest.raises(ArgumentError, match="from 0 to 1, got"):
            RunningStatistics(quantiles=(bad,))
        with pytest.raises(ArgumentError, match="from 0 to 1, got"):
            fed(normals(5), 5).quantile(bad)
    with pytest.raises(ArgumentError, match="sequence of numbers"):
        RunningStatistics(quantiles=0.5)
    with pytest.raises(ArgumentError, match="size must be even, got 3"):
        RunningStatistics(sketch_size=3)
    with pytest.raises(ArgumentError, match=r"same quantiles can be merged; these have \(\) and \(0.05, 0.5, 0.95\)"):
        statistics.merge(RunningStatistics())
    with pytest.raises(ArgumentError, match="sketches of one size can be merged; these have 2048 and 64"):
        RunningStatistics().merge(RunningStatistics(sketch_size=64))


def test_damaged_dicts():
    good = fed(normals(100, 2), 10, sketch_size=16).to_dict()

    def damaged(**changes):
        return {**copy.deepcopy(good), **changes}

    sketch, moments = good["sketch"], good["moments"]
    for bad, message in [
        (damaged(sketch=None), "without a sketch"),
        (damaged(sketch={**sketch, "count": 7}), "stand for 100 values and its count is 7"),
        (damaged(sketch={**sketch, "levels": [[[1.0]], *sketch["levels"][1:]]}), "must hold 2 lists of one length"),
        (damaged(sketch={**sketch, "levels": [[[1.0], [1.0, 2.0]]]}), "list of numbers for each entry"),
        (damaged(sketch={**sketch, "ups": [-1]}), "ups must be an integer"),
        (damaged(sketch=fed(normals(9, 2), 10).to_dict()["sketch"]), "different shapes or counts"),
        (damaged(moments={**moments, "mean": [1.0]}), "mean must be 2 numbers in a list"),
        (damaged(moments={**moments, "count": 1.5}), "count must be an integer of at least 0"),
        (damaged(moments={**moments, "mean": [math.nan, 0.0]}), "means are NaN"),
        (damaged(moments={**moments, "squares": [-1.0, 1.0]}), "sums of squares below 0"),
        (damaged(sketch={**sketch, "levels": None}), "levels must be a list with an entry for each level, got None"),
        (damaged(sketch={**sketch, "downs": None}), "downs must be a list"),
        (damaged(minimum=None), "minimum must be 2 numbers"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            RunningStatistics.from_dict(bad)
