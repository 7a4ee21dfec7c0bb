"""The quadrature of a trace along its path, and the standard error of what probes make of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sdekit.likelihood.quadrature import integral, quadrature_weights, standard_error


def places(n: int, seed: int = 0) -> Tensor:
    """n increasing numbers from -4 to 5, with intervals that differ up to threefold."""
    lengths = 1 + 2 * torch.rand(n - 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u = torch.cat([torch.zeros(1, dtype=torch.float64), lengths.cumsum(0)])
    return -4 + 9 * u / u[-1]


def smooth(n: int) -> Tensor:
    """A grid as log-likelihoods have it: intervals that change slowly."""
    s = torch.linspace(-1, 1, n, dtype=torch.float64)
    return 4 * s + 1.5 * s**3


def noise(n: int, k: int, samples: int, seed: int = 0) -> Tensor:
    return torch.randn(n, k, samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bend(u: Tensor) -> Tensor:
    """What a trace looks like: (n, 1, 1)."""
    return (3 / (1 + torch.exp(2 * u)) + torch.exp(-u.square()))[:, None, None]


# The weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 5, 6, 7, 30])
def test_polynomials_are_integrated_exactly(n: int) -> None:
    u = places(n)
    weights = quadrature_weights(u)
    for degree in range(min(n, 6)):
        exact = (u[-1] ** (degree + 1) - u[0] ** (degree + 1)) / (degree + 1)
        assert float((weights * u**degree).sum()) == pytest.approx(float(exact), rel=1e-9, abs=1e-9)
    if n > 6:
        exact = (u[-1] ** 7 - u[0] ** 7) / 7
        assert float((weights * u**6).sum()) != pytest.approx(float(exact), rel=1e-9)


def test_falling_nodes_turn_the_sign() -> None:
    u = places(12)
    torch.testing.assert_close(quadrature_weights(u.flip(0)).flip(0), -quadrature_weights(u))


@pytest.mark.parametrize("order", [2, 4, 6])
def test_the_order_of_the_rule(order: int) -> None:
    errors = []
    for n in (41, 81):
        u = smooth(n)
        errors.append(abs(float((quadrature_weights(u, order) * torch.exp(-u.square() / 2)).sum()) - exact_bell()))
    # The slope at a finite step, ends included; even rules gain on smooth grids inside.
    assert math.log2(errors[0] / errors[1]) > order - 0.5


def exact_bell() -> float:
    return math.sqrt(2 * math.pi) * math.erf(5.5 / math.sqrt(2))


def test_the_integral_is_the_weighted_sum_alike_for_any_batch() -> None:
    u = places(20)
    weights, values = quadrature_weights(u), noise(20, 1, 50)[:, 0]
    whole = integral(weights, values)
    torch.testing.assert_close(whole, (weights[:, None] * values).sum(0))
    for i in (0, 17, 49):
        assert torch.equal(integral(weights, values[:, i : i + 1]), whole[i : i + 1])


# The standard error --------------------------------------------------------------------------------------------------


CASES = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (4, 1), (4, 2), (2, 8), (2, None), (5, None)]


@pytest.mark.parametrize(("k", "block"), CASES)
def test_the_error_of_known_noise_is_told(k: int, block: int | None) -> None:
    # Normal noise of a size that changes along the path, independent at each node, about a smooth trend.
    n, samples = 60, 4000
    u = smooth(n)
    weights = quadrature_weights(u)
    size = (0.5 + torch.exp(-(u - 1).square()))[:, None, None]
    if block is None:
        columns = bend(u) + noise(1, k, samples) * size
        true = float((weights * size[:, 0, 0]).sum() / math.sqrt(k))
    else:
        columns = bend(u) + noise(n, k, samples) * size
        true = float(torch.sqrt((weights * size[:, 0, 0]).square().sum() / k))
    error = standard_error(u, weights, columns, block)
    made = integral(weights, columns.mean(1)) - integral(weights, bend(u)[:, 0])
    assert float(made.std()) == pytest.approx(true, rel=0.05)  # of 4000: 1.1 %
    # Root mean square of the error that is told: right where degrees of freedom abound, and never far below.
    told = float(error.square().mean().sqrt())
    limits = {None: (1.0, 2.1), 8: (1.0, 1.6)}.get(block, (0.95, 1.25))
    assert limits[0] < told / true < limits[1]
    if block in (1, 2):
        z = made.abs() / error
        # Promised 64 to 72 and 93 to 97 %; 4000 samples tell it to 0.7 and 0.4 %.
        assert 0.64 < float((z < 1).double().mean()) < 0.72
        assert 0.92 < float((z < 1.96).double().mean()) < 0.965


def test_draws_that_cancel_within_a_block_are_not_told_as_noise() -> None:
    n, samples = 60, 300
    u = torch.linspace(-4, 5, n, dtype=torch.float64)
    weights = torch.full((n,), 9 / n, dtype=torch.float64)
    turned = (1 - 2 * (torch.arange(n) % 2)).double()[:, None, None]
    drawn = noise(n // 2, 2, samples).repeat_interleave(2, 0) * turned
    assert float(standard_error(u, weights, drawn, 2).max()) < 1e-9
    assert float(standard_error(u, weights, drawn, 1).min()) > 0.1


@pytest.mark.parametrize(("k", "degree"), [(1, 3), (2, 7), (3, 7)])
def test_a_trend_is_no_noise(k: int, degree: int) -> None:
    # The polynomial through 4 or 8 neighbours takes out what it can represent, exactly in terms of nodes (block 1).
    u = smooth(40)
    weights = quadrature_weights(u)
    trend = (u / 5.5)[:, None, None] ** degree + torch.zeros(1, k, 3, dtype=torch.float64)
    small = 1e-3 * (noise(40, k, 3) - noise(40, k, 3).mean(1, keepdim=True)) if k > 1 else 0
    told = standard_error(u, weights, trend + small, 1)
    alone = standard_error(u, weights, 0 * trend + small, 1)
    torch.testing.assert_close(told, alone, rtol=1e-6, atol=1e-9)
    steeper = torch.cos(4 * u)[:, None, None] + 0 * trend + small
    assert float((standard_error(u, weights, steeper, 1) - alone).min()) > 0.01


@pytest.mark.parametrize(("k", "block"), [(2, 3), (3, 4), (4, 1), (6, 2)])
def test_the_spread_alone_tells_where_blocks_are_long_or_columns_many(k: int, block: int) -> None:
    u = smooth(80)
    weights = quadrature_weights(u)
    small = 1e-3 * noise(80, k, 3)
    told = standard_error(u, weights, 5 * torch.cos(4 * u)[:, None, None] + small, block)
    torch.testing.assert_close(told, standard_error(u, weights, small, block), rtol=1e-9, atol=0)


def test_two_probes_that_err_by_one_size_are_told_right_whichever_way_they_err() -> None:
    # Errors of +a or -a at four nodes, as in two dimensions: equal signs have no spread, and the largest error.
    n, samples = 60, 4000
    u = torch.linspace(-4, 5, n, dtype=torch.float64)
    weights = torch.full((n,), 9 / n, dtype=torch.float64)
    size = torch.full((n, 1, 1), 1e-6, dtype=torch.float64)
    size[[18, 26, 34, 42]] = 1.0
    columns = bend(u) + size * torch.sign(noise(n, 2, samples))
    made = (weights[:, None] * (columns.mean(1) - bend(u)[:, 0])).sum(0).abs()
    both = standard_error(u, weights, columns, 1)
    spread = torch.sqrt((weights[:, None] * (columns[:, 0] - columns[:, 1]) / 2).square().sum(0))
    exact = 2 / math.sqrt(2) * 9 / n
    # One of 16 has no spread at all, and an error of 0 to 4 a; the sum of both is a^2/2 a node whatever falls, and
    # widened for few degrees of freedom at most twofold.
    assert float((spread < 1e-5).double().mean()) == pytest.approx(1 / 16, rel=0.3)
    assert float(both.min()) > 0.95 * exact
    assert float(both.max()) < 2.05 * exact
    assert float((made[spread < 1e-5] / both[spread < 1e-5]).max()) < 3


def test_columns_that_agree_have_no_error_however_the_trend_bends() -> None:
    u = smooth(40)
    weights = quadrature_weights(u)
    for k in (2, 3, 5):
        columns = (10 * bend(u)).expand(40, k, 4)
        assert float(standard_error(u, weights, columns, 1).max()) < 1e-12
        columns = columns * (1 + 1e-15 * noise(40, k, 4))
        assert float(standard_error(u, weights, columns, 2).max()) < 1e-12
    zeros = torch.zeros(40, 1, 2, dtype=torch.float64)
    assert torch.equal(standard_error(u, weights, zeros, 1), zeros[0, 0])


def test_one_column_needs_five_blocks() -> None:
    for n, block in ((4, 1), (8, 2), (60, 30), (60, None), (60, 100)):
        u = places(n)
        assert bool(standard_error(u, quadrature_weights(u), noise(n, 1, 3), block).isnan().all())
        assert bool(standard_error(u, quadrature_weights(u), noise(n, 2, 3), block).isfinite().all())
    for n, block in ((5, 1), (9, 2), (60, 12)):
        u = places(n)
        assert bool(standard_error(u, quadrature_weights(u), noise(n, 1, 3), block).isfinite().all())


@pytest.mark.parametrize("n", [2, 3, 13, 14, 15, 26, 27, 28])
def test_few_nodes(n: int) -> None:
    u = places(n)
    for block in (1, 2, None):
        for k in (2, 3, 4):
            error = standard_error(u, quadrature_weights(u), noise(n, k, 5), block)
            assert bool((error > 0).all())


@pytest.mark.parametrize(("k", "block"), CASES)
def test_a_samples_error_has_the_same_bits_alone_and_beside_an_outlier(k: int, block: int | None) -> None:
    u = smooth(59)
    weights = quadrature_weights(u)
    columns = bend(u) + noise(59, k, 9)
    columns[:, :, 8] *= 1e8
    whole = standard_error(u, weights, columns, block)
    for i in (0, 5, 8):
        alone = standard_error(u, weights, columns[:, :, i : i + 1], block)
        torch.testing.assert_close(alone, whole[i : i + 1], rtol=0, atol=0, equal_nan=True)
