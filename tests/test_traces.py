"""Traces of Jacobians: against closed forms of their mean and variance, on fixed matrices that are not symmetric."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sdekit.errors import ArgumentError, ShapeError, UnknownNameError
from sdekit.likelihood.traces import (
    Divergence,
    Exact,
    GaussianControl,
    Hutchinson,
    HutchPP,
    Jacobian,
    JoinedTraces,
    XTrace,
)
from sdekit.likelihood.traces.directions import Directions
from sdekit.noise import noise_source
from sdekit.sdes import VPSDE
from sdekit.targets import GaussianMixture

CPU = torch.device("cpu")


class Linear:
    """out = A x of each sample, and the Jacobian alpha (p I + q A); what it was asked for is counted."""

    def __init__(self, a: Tensor, alpha: float = 1.0, p: float = 0.0, q: float = 1.0, level: float = 1.0) -> None:
        x = torch.ones(a.shape[:2], dtype=torch.float64, requires_grad=True)
        out = (a * x[:, None, :]).sum(2)
        self.at_node = Jacobian(out, x, alpha, p, q, level)
        self.matrix = alpha * (p * torch.eye(a.shape[1], dtype=torch.float64) + q * a)


def matrices(n: int, d: int, seed: int = 0) -> Tensor:
    """One random matrix, not symmetric, for each of n samples: (n, d, d)."""
    generator = torch.Generator().manual_seed(seed)
    one = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return one.expand(n, d, d)


def symmetric(n: int, values: list[float], seed: int = 0) -> Tensor:
    """A symmetric matrix of these eigenvalues, for each of n samples."""
    generator = torch.Generator().manual_seed(seed)
    d = len(values)
    axes = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    return (axes @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ axes.T).expand(n, d, d)


def estimates(divergence: Divergence, a: Tensor, nodes: int = 1, seed: int = 0) -> Tensor:
    """The columns at each of `nodes` nodes with the same matrix: (nodes, K, B)."""
    traces = divergence.open(len(a), a.shape[1], noise_source(seed=seed), CPU)
    return torch.stack([traces.at(Linear(a).at_node) for _ in range(nodes)])


def trace(a: Tensor) -> float:
    return float(a[0].diagonal().sum())


def off_diagonal_variance(a: Tensor) -> float:
    """Of v^T A v with independent signs: sum_{i < j} (A_ij + A_ji)^2, 2 sum_{i != j} A_ij^2 for a symmetric A."""
    both = a[0] + a[0].T
    return float(both.triu(1).square().sum())


ALL: list[Divergence] = [
    Exact(),
    Hutchinson(1, "rademacher"),
    Hutchinson(3, "gaussian"),
    Hutchinson(2, "gaussian", "fixed"),
    Hutchinson(2, "hadamard"),
    Hutchinson(1, "adapted"),
    Hutchinson(3, "adapted"),
    HutchPP(3),
    HutchPP(6),
    XTrace(4),
    XTrace(6),
    Hutchinson(2, "rademacher", control=GaussianControl(torch.diag(torch.arange(1.0, 6.0)))),
    Hutchinson(2, "adapted", control=GaussianControl(symmetric(1, [0.1, 0.2, 0.5, 1.0, 2.0])[0])),
]


def name_of(divergence: Divergence) -> str:
    return repr(divergence).partition(", control=GaussianControl(")[0]


# The Jacobian --------------------------------------------------------------------------------------------------------


def test_products_are_with_the_transpose() -> None:
    a = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    linear = Linear(a, alpha=0.7, p=0.3, q=-2.0)
    v = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = torch.einsum("bij,rbi->rbj", linear.matrix, v)
    torch.testing.assert_close(linear.at_node.products(v), expected)
    torch.testing.assert_close(linear.at_node.product(v[1]), expected[1])


def test_products_of_a_mixtures_denoiser_are_its_jacobian() -> None:
    sde, t = VPSDE(), 0.3
    target = GaussianMixture(None, torch.tensor([[0.0, 0.0, 1.0], [1.0, -1.0, 0.5]], dtype=torch.float64), 0.05)
    x = target.marginal(sde, t).sample(4, seed=0, dtype=torch.float64).requires_grad_()
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    # D = alpha x - sigma v, as the "v" prediction has it; the Jacobian is in x~ = x/alpha.
    out = target.v(x, alpha, sigma)
    jacobian = Jacobian(out, x, alpha, alpha, -sigma, float(sde.sigma_ratio(t)))
    expected = alpha * target.denoised_jacobian(x.detach(), t, sde)
    rows = jacobian.products(torch.eye(3, dtype=torch.float64)[:, None].expand(3, 4, 3))
    torch.testing.assert_close(rows.transpose(0, 1), expected, rtol=1e-9, atol=1e-9)
    exact = Exact().open(4, 3, noise_source(seed=0), CPU).at(jacobian)
    torch.testing.assert_close(exact[0], trace_of(expected))


def trace_of(jacobian: Tensor) -> Tensor:
    return jacobian.diagonal(dim1=1, dim2=2).sum(1)


# Unbiased ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", ALL, ids=name_of)
@pytest.mark.parametrize("kind", ["any", "symmetric"])
def test_every_estimate_is_unbiased_at_every_node(divergence: Divergence, kind: str) -> None:
    n = 4000
    a = matrices(n, 5) if kind == "any" else symmetric(n, [3.0, 1.0, 0.5, 0.1, 0.0])
    found = estimates(divergence, a, nodes=4)
    assert found.shape == (4, divergence.open(1, 5, noise_source(seed=0), CPU).columns, n)
    assert found.dtype == torch.float64
    for node in found:
        for column in node:
            error = float(column.mean()) - trace(a)
            # 4 standard errors of 4000 samples; 1e-12 where there is no variance.
            assert abs(error) < 4 * float(column.std()) / math.sqrt(n) + 1e-12


def test_the_sum_over_a_path_is_unbiased_though_the_basis_follows_it() -> None:
    # A matrix that turns from node to node, so that no basis is ever right.
    n, nodes = 3000, 12
    traces = Hutchinson(1).open(n, 4, noise_source(seed=3), CPU)
    total, expected = torch.zeros(n, dtype=torch.float64), 0.0
    for i in range(nodes):
        angle = torch.tensor(0.3 * i, dtype=torch.float64)
        turn = torch.eye(4, dtype=torch.float64)
        turn[0, 0], turn[0, 1], turn[1, 0], turn[1, 1] = angle.cos(), -angle.sin(), angle.sin(), angle.cos()
        a = turn @ symmetric(1, [4.0, 1.0, 0.3, -0.5])[0] @ turn.T
        total = total + traces.at(Linear(a.expand(n, 4, 4)).at_node)[0]
        expected += float(a.trace())
    assert abs(float(total.mean()) - expected) < 4 * float(total.std()) / math.sqrt(n)


# Variances -----------------------------------------------------------------------------------------------------------


def test_the_variance_of_independent_probes() -> None:
    n = 20_000
    a = matrices(n, 5)
    signs = estimates(Hutchinson(2, "rademacher"), a)[0]
    assert float(signs.var()) == pytest.approx(off_diagonal_variance(a), rel=0.04)
    # sum_ij A_ij^2 + A_ij A_ji for normal probes.
    normal = estimates(Hutchinson(2, "gaussian"), a)[0]
    expected = float((a[0] + a[0].T).square().sum()) / 2
    assert float(normal.var()) == pytest.approx(expected, rel=0.06)  # its fourth moments are large
    # The columns are independent of each other.
    for found in (signs, normal):
        assert abs(float(torch.corrcoef(found)[0, 1])) < 4 / math.sqrt(n)


def test_independent_probes_are_new_at_each_node_and_fixed_ones_are_not() -> None:
    a = matrices(5000, 4)
    new = estimates(Hutchinson(1, "rademacher"), a, nodes=2)[:, 0]
    assert abs(float(torch.corrcoef(new)[0, 1])) < 4 / math.sqrt(5000)
    for distribution in ("rademacher", "gaussian"):
        kept = estimates(Hutchinson(1, distribution, "fixed"), a, nodes=3)
        assert torch.equal(kept[0], kept[2])


@pytest.mark.parametrize("distribution", ["rademacher", "hadamard", "adapted"])
def test_signs_see_a_diagonal_exactly(distribution) -> None:
    a = torch.diag(torch.tensor([1.0, -2.0, 3.0, 0.25], dtype=torch.float64)).expand(50, 4, 4)
    nodes = 1 if distribution == "adapted" else 5  # the first basis is the standard one
    found = estimates(Hutchinson(2, distribution), a, nodes=nodes)
    torch.testing.assert_close(found, torch.full_like(found, trace(a)))


@pytest.mark.parametrize("d", [1, 2, 3, 4, 7, 8])
def test_hadamard_rows_together_see_every_matrix_exactly(d: int) -> None:
    size = 2 ** math.ceil(math.log2(d))
    a = matrices(30, d)
    traces = Hutchinson(2, "hadamard").open(30, d, noise_source(seed=1), CPU)
    assert traces.block == size
    found = torch.stack([traces.at(Linear(a).at_node) for _ in range(3 * size)])
    for block in found.split(size):
        torch.testing.assert_close(block.mean(0), torch.full_like(block[0], trace(a)))
    if d > 1:
        assert float(found.std(0).min()) > 1e-3  # each row for itself is no better than any signs
        assert not torch.equal(found[:size], found[size : 2 * size])  # another order
    if d > 3:
        assert not torch.equal(found[:size].sort(0).values, found[size : 2 * size].sort(0).values)  # and other signs


def test_every_row_of_the_hadamard_matrix_comes_first_for_some_sample() -> None:
    # The first row of the first block, for 400 samples: signs times a row, both random; its products with the second.
    chooser = Hutchinson(1, "hadamard").open(400, 4, noise_source(seed=0), CPU)
    first, second = (probes_of(chooser, 4) for _ in range(2))
    assert torch.equal(first.abs(), torch.ones_like(first))
    torch.testing.assert_close((first * second).sum(1), torch.zeros(400, dtype=torch.float64))


def probes_of(traces, d: int) -> Tensor:
    """The one probe that traces uses at its next node, up to its sign: from v v^T, entry by entry."""
    noted: list[Tensor] = []

    class Noting:
        batch, dim, level, itemsize, device = 400, d, 1.0, 8, CPU

        def product(self, v: Tensor) -> Tensor:
            noted.append(v)
            return v

    traces.at(Noting())
    return noted[0]


@pytest.mark.parametrize("values", [[5.0, 2.0], [5.0, -4.0], [-5.0, -2.0]], ids=str)
@pytest.mark.parametrize("probes", [1, 2, 4])
def test_adapted_probes_find_the_eigenvectors_of_a_constant_matrix(probes: int, values: list[float]) -> None:
    # Rank 2 in 12 dimensions: after two products its range is known, and the basis diagonalises it.
    a = symmetric(40, values + 10 * [0.0])
    found = estimates(Hutchinson(probes), a, nodes=12)
    exact = sum(values)
    assert float((found[0] - exact).abs().mean()) > 0.5
    error = (found[4:] - exact).abs()
    # A network's J is not symmetric and has negative eigenvalues, where |G| only stands for G: in most samples as good.
    assert float(error.median()) < 1e-2
    if min(values) > 0:  # but where early probes told of a trace so large that the second did not stand out
        assert float(error.flatten().quantile(0.95)) < 1e-2


def test_adapted_probes_stay_with_signs_where_no_direction_stands_out() -> None:
    # Diagonal with eigenvalues from 0.5 to 1.5: signs have no error, and any other basis has.
    a = torch.diag(torch.linspace(0.5, 1.5, 40, dtype=torch.float64)).expand(20, 40, 40)
    found = estimates(Hutchinson(1), a, nodes=12)
    assert float((found - 40).abs().max()) < 1e-9


def test_adapted_probes_have_less_variance_than_signs_where_few_directions_dominate() -> None:
    values = [8.0, 4.0, 2.0] + 29 * [0.05]
    a = symmetric(300, values)
    adapted = estimates(Hutchinson(1), a, nodes=30)[10:, 0]
    signs = estimates(Hutchinson(1, "rademacher"), a, nodes=30)[10:, 0]
    # Measured a twenty-fifth: one product a node, and the third direction is found now and then.
    assert float(adapted.var()) < 0.1 * float(signs.var())


def test_two_nodes_share_a_basis_and_cancel_half_of_what_is_off_the_diagonal() -> None:
    # Every second sign is turned: entries (i, j) with i - j odd cancel in the sum over two nodes, in the first basis.
    n = 20_000
    a = matrices(n, 4)
    found = estimates(Hutchinson(1), a, nodes=2)[:, 0]
    even = torch.zeros(4, 4, dtype=torch.float64)
    for i in range(4):
        for j in range(4):
            even[i, j] = (a[0, i, j] + a[0, j, i]) if i < j and (i - j) % 2 == 0 else 0
    assert float(found.mean(0).var()) == pytest.approx(float(even.square().sum()), rel=0.05)


@pytest.mark.parametrize(
    ("divergence", "rank"), [(HutchPP(3), 1), (HutchPP(9), 3), (XTrace(4), 1), (XTrace(8), 3)], ids=repr
)
def test_low_rank_is_seen_exactly(divergence: Divergence, rank: int) -> None:
    generator = torch.Generator().manual_seed(4)
    left, right = torch.randn(2, 8, rank, generator=generator, dtype=torch.float64)
    a = (left @ right.T).expand(20, 8, 8)
    found = estimates(divergence, a, nodes=2)
    torch.testing.assert_close(found, torch.full_like(found, trace(a)), rtol=1e-9, atol=1e-9)
    one_more = a + torch.outer(*torch.randn(2, 8, generator=generator, dtype=torch.float64))
    assert float(estimates(divergence, one_more).std()) > 1e-3


@pytest.mark.parametrize("divergence", [HutchPP(6), XTrace(6)], ids=repr)
@pytest.mark.parametrize("scale", [0.0, 1e-100, 1.0, 1e100])
def test_subspaces_of_matrices_of_any_size(divergence: Divergence, scale: float) -> None:
    a = scale * matrices(6, 7)
    found = estimates(divergence, a)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found, scale * estimates(divergence, matrices(6, 7)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("divergence", [HutchPP(6), XTrace(6)], ids=repr)
def test_a_multiple_of_the_identity_is_seen_exactly(divergence: Divergence) -> None:
    # What is left outside the subspace is scaled to its mean length, so that its random length makes no noise.
    a = 2.5 * torch.eye(9, dtype=torch.float64).expand(30, 9, 9)
    found = estimates(divergence, a)
    torch.testing.assert_close(found, torch.full_like(found, trace(a)))


def test_xtrace_is_the_mean_of_hutchpp_with_each_probe_left_out() -> None:
    # Term i by its definition, with the basis of the others' images from a QR of its own.
    a = matrices(3, 6)
    divergence = XTrace(6)
    found = estimates(divergence, a, seed=5)[0]
    stream = noise_source(seed=5).open((3, 3, 6), purpose="probes", dtype=torch.float64, device=CPU)
    w = stream.next(0.0, 0.0)  # (B, K, d)
    for b in range(3):
        j = a[b].T  # products are with the transpose, whose trace is the same
        for i in range(3):
            others = [k for k in range(3) if k != i]
            q = torch.linalg.qr(j @ w[b, others].T)[0]
            rest = w[b, i] - q @ (q.T @ w[b, i])
            rest = rest * torch.sqrt((6 - 2) / rest.square().sum())
            expected = (q.T @ j @ q).trace() + rest @ (j @ rest)
            torch.testing.assert_close(found[i, b], expected, rtol=1e-9, atol=1e-9)


# The basis of adapted probes -----------------------------------------------------------------------------------------


def basis(directions: Directions, d: int, batch: int) -> Tensor:
    """Q of each sample: (B, d, d)."""
    unit = torch.eye(d, dtype=torch.float64)
    return torch.stack([directions.basis_times(unit[i].expand(batch, d)) for i in range(d)], 2)


def orthogonal(w: Tensor, v: Tensor) -> Tensor:
    """What of w is orthogonal to v, row by row."""
    return w - ((w * v).sum(1) / v.square().sum(1))[:, None] * v


PAIRS = {
    "none": lambda v: [],
    "random": lambda v: [(v[i], v[i + 4]) for i in range(4)],
    "zero": lambda v: [(v[0], 0 * v[1]), (v[1], 0 * v[2])],
    "some zero": lambda v: [(v[0], v[4]), (v[1], 0 * v[2]), (0 * v[2], v[5])],
    "repeated": lambda v: 4 * [(v[0], v[4])],
    "multiples": lambda v: [(v[0], v[4]), (2 * v[0], -3 * v[4]), (v[0], 1e-9 * v[4])],
    "huge": lambda v: [(v[0], 1e100 * v[4]), (v[1], 1e100 * v[5])],
    "tiny": lambda v: [(v[0], 1e-100 * v[4]), (v[1], 1e-100 * v[5])],
    "huge and tiny": lambda v: [(v[0], 1e60 * v[4]), (v[1], 1e-60 * v[5])],
    "negative": lambda v: [(v[i], -v[i]) for i in range(4)],
    "turned": lambda v: [(v[i], orthogonal(v[i + 4], v[i])) for i in range(3)],
    "beyond squaring": lambda v: [(v[0], 1e250 * v[4]), (v[1], 1e200 * v[5])],
    "unit vectors": lambda v: [(e, e) for e in torch.eye(5, dtype=torch.float64)[:3, None].expand(3, 6, 5)],
}


@pytest.mark.parametrize("kind", PAIRS)
def test_the_basis_is_orthogonal_whatever_the_pairs_were(kind: str) -> None:
    v = torch.randn(8, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions = Directions(4)
    for left, right in PAIRS[kind](v):
        directions.note(left, right)
    directions.refresh()
    q = basis(directions, 5, 6)
    torch.testing.assert_close(q.mT @ q, torch.eye(5, dtype=torch.float64).expand(6, 5, 5), rtol=0, atol=1e-12)
    if kind in ("none", "zero"):
        torch.testing.assert_close(q.abs(), torch.eye(5, dtype=torch.float64).expand(6, 5, 5))


def test_the_first_vectors_are_the_dominant_eigenvectors_the_largest_first() -> None:
    a = symmetric(1, [6.0, 3.0, 0.0, 0.0, 0.0, 0.0])[0]
    directions = Directions(4)
    v = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for one in v:
        directions.note(one, one @ a)
    directions.refresh()
    q = basis(directions, 6, 2)
    inside = q.mT @ a @ q
    expected = torch.diag(torch.tensor([6.0, 3.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)).expand(2, 6, 6)
    # Nystroem's Gram matrix is regularised by 1e-3 of its largest eigenvalue.
    torch.testing.assert_close(inside, expected, rtol=0, atol=0.05)


def test_only_the_latest_pairs_count() -> None:
    v = torch.randn(10, 3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    long, short = Directions(2), Directions(2)
    for i in range(4):
        long.note(v[i], v[i + 5])
    for i in (2, 3):
        short.note(v[i], v[i + 5])
    long.refresh()
    short.refresh()
    assert torch.equal(basis(long, 5, 3), basis(short, 5, 3))


# The exact trace -----------------------------------------------------------------------------------------------------


class CountingRows:
    """A Jacobian that notes how many products were made at once."""

    def __init__(self, jacobian: Jacobian) -> None:
        self._of, self.calls = jacobian, []
        self.dim, self.batch, self.device = jacobian.dim, jacobian.batch, jacobian.device
        self.itemsize, self.level = jacobian.itemsize, jacobian.level

    def products(self, vectors: Tensor) -> Tensor:
        self.calls.append(len(vectors))
        return self._of.products(vectors)


def exact_of(settings: Exact, a: Tensor) -> tuple[Tensor, list[int]]:
    counted = CountingRows(Linear(a).at_node)
    found = settings.open(len(a), a.shape[1], noise_source(seed=0), CPU).at(counted)  # type: ignore[arg-type]
    return found, counted.calls


def test_the_exact_trace_whatever_rows_are_made_at_once() -> None:
    a = torch.randn(3, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = trace_of(a)[None]
    for rows, calls in ((1, 7 * [1]), (3, [3, 3, 1]), (7, [7]), (None, [7])):
        found, made = exact_of(Exact(rows), a)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
        assert made == calls


def test_rows_at_once_stay_within_the_memory() -> None:
    a = torch.randn(3, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    row = 32 * 8 * 3 * 7  # bytes that one row of three samples is reckoned with
    for memory, rows in ((1, 1), (row, 1), (2 * row - 1, 1), (2 * row, 2), (5 * row, 5), (100 * row, 7)):
        found, made = exact_of(Exact(memory=memory), a)
        assert max(made) == rows
        assert sum(made) == 7
        torch.testing.assert_close(found, trace_of(a)[None], rtol=0, atol=1e-13)


# A control -----------------------------------------------------------------------------------------------------------


def test_a_control_of_the_very_gaussian_leaves_no_error() -> None:
    covariance = symmetric(1, [2.0, 1.0, 0.5, 0.1])[0]
    level = 0.7
    a = (covariance @ torch.linalg.inv(covariance + level**2 * torch.eye(4, dtype=torch.float64))).expand(20, 4, 4)
    traces = Hutchinson(2, "rademacher", control=GaussianControl(covariance)).open(20, 4, noise_source(seed=0), CPU)
    first, second = (traces.at(Linear(a, level=level).at_node) for _ in range(2))
    for found in (first, second):  # beta is 1, unless given, and is found to be 1
        torch.testing.assert_close(found, torch.full_like(found, trace(a)))


def test_a_control_finds_how_much_of_the_gaussian_is_there() -> None:
    covariance = symmetric(1, [2.0, 1.0, 0.5, 0.1])[0]
    level = 0.7
    gauss = covariance @ torch.linalg.inv(covariance + level**2 * torch.eye(4, dtype=torch.float64))
    a = (0.3 * gauss).expand(20, 4, 4)
    control = GaussianControl(covariance)
    for distribution, block in (("rademacher", 1), ("adapted", 2), ("hadamard", 4)):
        traces = Hutchinson(2, distribution, control=control).open(20, 4, noise_source(seed=0), CPU)
        found = torch.stack([traces.at(Linear(a, level=level).at_node) for _ in range(3 * block)])
        assert float((found[:block] - trace(a)).abs().mean()) > 0.02  # 1 is not right, but nothing else is known
        torch.testing.assert_close(found[block:], torch.full_like(found[block:], trace(a)))


def test_a_multiple_of_the_control_never_knows_the_probes_it_multiplies() -> None:
    # Draws depend on each other within a block, so beta must not be learnt there. Where it is, the estimate at the
    # second node of a block is biased: here by 0.25, 4 standard errors of 4000 samples and the test's sharpness.
    n = 16_000
    a = symmetric(n, [3.0, 1.0, 0.5, 0.1, 0.0])
    control = GaussianControl(symmetric(1, [0.1, 0.2, 0.5, 1.0, 2.0], seed=1)[0])
    for distribution, along in (("adapted", "independent"), ("hadamard", "independent"), ("rademacher", "fixed")):
        for node in estimates(Hutchinson(1, distribution, along, control), a, nodes=4, seed=7):
            assert abs(float(node.mean()) - trace(a)) < 4 * float(node.std()) / math.sqrt(n)


def test_a_control_that_has_nothing_to_do_with_it_is_hardly_used() -> None:
    n = 3000
    a = symmetric(n, [3.0, -3.0, 1.0, -1.0])
    control = GaussianControl(torch.eye(4))  # J_G is a multiple of I: signs see it exactly, whatever beta is
    for one, other in zip(
        estimates(Hutchinson(1, "rademacher"), a, nodes=3),
        estimates(Hutchinson(1, "rademacher", control=control), a, nodes=3),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_a_control_is_checked() -> None:
    with pytest.raises(ShapeError, match=r"\(d, d\)"):
        GaussianControl(torch.zeros(3))
    with pytest.raises(ShapeError, match=r"\(d, d\)"):
        GaussianControl(torch.zeros(3, 2))
    with pytest.raises(ArgumentError, match="symmetric"):
        GaussianControl(torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ArgumentError, match="finite"):
        GaussianControl(torch.full((2, 2), math.nan))
    with pytest.raises(ArgumentError, match="below 0"):
        GaussianControl(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    GaussianControl(torch.zeros(2, 2))  # data that is one point
    flat = torch.randn(40, 400, generator=torch.Generator().manual_seed(0))
    GaussianControl.fit(flat)  # of rank 39: the other eigenvalues are rounding
    GaussianControl(torch.cov(flat.T + 0.1))  # the same in float32
    with pytest.raises(ShapeError, match="two samples"):
        GaussianControl.fit(torch.zeros(1, 2))
    data = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(GaussianControl.fit(data).covariance, torch.cov(data.double().reshape(50, 6).T))


# Samples, and two kinds at once --------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", ALL, ids=name_of)
def test_a_sample_has_the_same_bits_alone_and_in_a_batch(divergence: Divergence) -> None:
    a = torch.randn(6, 5, 5, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    a[5] *= 1e6
    whole = divergence.open(6, 5, noise_source(seed=2), CPU)
    part = whole.part(2, 4, 6)
    one = divergence.open(1, 5, noise_source(seed=2, first=3), CPU)
    for _ in range(7):
        of_all = whole.at(Linear(a).at_node)
        assert torch.equal(of_all[:, 2:4], part.at(Linear(a[2:4]).at_node))
        assert torch.equal(of_all[:, 3:4], one.at(Linear(a[3:4]).at_node))


def test_joined_traces_are_both() -> None:
    a = matrices(5, 4)
    left, right = Hutchinson(2), Hutchinson(1, "rademacher", "fixed")
    joined = JoinedTraces(*(d.open(5, 4, noise_source(seed=0), CPU) for d in (left, right)))
    assert (joined.columns, joined.block, joined.exact) == (3, 2, False)
    alone = [d.open(5, 4, noise_source(seed=0), CPU) for d in (left, right)]
    part = joined.part(1, 3, 5)
    for _ in range(3):
        found = joined.at(Linear(a).at_node)
        assert torch.equal(found, torch.cat([t.at(Linear(a).at_node) for t in alone]))
        assert torch.equal(found[:, 1:3], part.at(Linear(a[1:3]).at_node))


@pytest.mark.parametrize(
    ("divergence", "products"), [(Exact(), 5), (Hutchinson(3), 3), (HutchPP(6), 6), (XTrace(6), 6)], ids=repr
)
def test_as_many_products_as_are_said(divergence: Divergence, products: int, monkeypatch) -> None:
    made = []
    inside = Jacobian.product
    monkeypatch.setattr(Jacobian, "product", lambda self, v: made.append(1) or inside(self, v))
    settings = Exact(rows=1) if isinstance(divergence, Exact) else divergence
    estimates(settings, matrices(2, 5))
    assert divergence.products(5) == products == len(made)


@pytest.mark.parametrize("divergence", ALL, ids=name_of)
def test_more_probes_are_more_of_the_same(divergence: Divergence) -> None:
    more = divergence.more(2)
    if isinstance(divergence, Exact):
        assert more == divergence
    else:
        assert more.products(64) == 2 * divergence.products(64)
        assert type(more) is type(divergence)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Hutchinson(0), ArgumentError, "probes"),
        (lambda: Hutchinson(2, "sign"), UnknownNameError, "rademacher"),
        (lambda: Hutchinson(2, "rademacher", "node"), UnknownNameError, "independent"),
        (lambda: Hutchinson(2, "adapted", "fixed"), ArgumentError, "rademacher"),
        (lambda: Hutchinson(2, control=1), ArgumentError, "GaussianControl"),
        (lambda: HutchPP(2), ArgumentError, "at least 3"),
        (lambda: XTrace(3), ArgumentError, "even"),
        (lambda: XTrace(2), ArgumentError, "at least 4"),
        (lambda: Exact(rows=0), ArgumentError, "rows"),
        (lambda: Exact(memory=0), ArgumentError, "memory"),
        (lambda: HutchPP(6).open(1, 2, noise_source(seed=0), CPU), ArgumentError, "exact"),
        (lambda: XTrace(6).open(1, 3, noise_source(seed=0), CPU), ArgumentError, "exact"),
    ],
)
def test_settings_that_make_no_sense(make, error, words: str) -> None:
    with pytest.raises(error, match=words):
        make()
