"""Brownian paths: the exact law of split and joined intervals, one motion whatever is asked for, and its streams."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial import Polynomial
from torch import Tensor

from sdekit.errors import ArgumentError, ShapeError, UnsupportedError
from sdekit.noise import KeyedNoise, NoiseStream, SeedsNoise
from sdekit.noise.brownian import BrownianStream, DrawnStream, Increment
from sdekit.noise.given_path import FunctionPath, GivenPath
from sdekit.noise.hashed import Elements, normals, sample_keys
from sdekit.noise.path import BrownianPath
from sdekit.noise.path_streams import level_of
from sdekit.noise.path_tables import Tables
from sdekit.noise.path_tree import Tree
from sdekit.noise.splitting import Splitting, halve, join, join_equal, join_range, weights

CPU = torch.device("cpu")
F64 = torch.float64
UNEVEN = [0.0, 0.1, 0.5, 0.52, 1.0, 2.0]
# One path for each kind of tree: ten-fold levels, halves alone, joined groups above the root, unequal cells.
TREES = [{}, {"cells": 1}, {"cells": 7}, {"cells": 123}, {"cells": UNEVEN}, {"cells": [k**2 / 450 for k in range(31)]}]
TREE_IDS = ["default", "1", "7", "123", "uneven", "squares"]


def make(shape: tuple[int, ...] = (5, 3), seed: int = 3, **kwargs) -> BrownianPath:
    return BrownianPath(seed, shape, 0.0, 2.0, **{"dtype": F64, **kwargs})


def times_of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def even(start: float, stop: float, count: int) -> Tensor:
    """count + 1 times in equal steps."""
    return torch.linspace(start, stop, count + 1, dtype=F64)


def stream(path, times: Tensor, areas: int = 0, dtype: torch.dtype = F64, **kwargs) -> BrownianStream:
    return path.brownian(path.shape, times, areas=areas, dtype=dtype, device=CPU, **kwargs)


def steps(path, times: Tensor, areas: int = 0, dtype: torch.dtype = F64, **kwargs) -> list[Tensor]:
    """W (and H, K) over every step: [(N, *shape)]."""
    opened = stream(path, times, areas, dtype, **kwargs)
    each = [[v.clone() for v in opened.next().values()] for _ in range(len(times) - 1)]
    return [torch.stack(values) for values in zip(*each, strict=True)]


def asked(path: BrownianPath, times: Tensor, areas: int = 0) -> list[Tensor]:
    """The same by queries."""
    each = [path(t, s).values()[: areas + 1] for t, s in itertools.pairwise(times.tolist())]
    return [torch.stack(values) for values in zip(*each, strict=True)]


def same(one: Increment, two: Increment) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.values(), two.values(), strict=True))


def unlike(one: Increment, two: Increment) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one.values(), two.values(), strict=True))


# The law of (W, H, K) by its definition ------------------------------------------------------------------------------


def areas_of(w: np.ndarray, h: float) -> Increment:
    """(W, H, K) of a path that is linear between equally spaced values, by Simpson's rule, exact for its cubics."""
    w = w - w[0]
    r = np.linspace(0.0, h, len(w))
    middle, between = (r[1:] + r[:-1]) / 2, (w[1:] + w[:-1]) / 2

    def integral(weight):
        ends = (w - r / h * w[-1]) * weight(r)
        return h / (len(w) - 1) / 6 * np.sum(ends[1:] + ends[:-1] + 4 * (between - middle / h * w[-1]) * weight(middle))

    numbers = w[-1], integral(np.ones_like) / h, integral(lambda x: h / 2 - x) / h**2
    return Increment(*[torch.tensor(float(x), dtype=F64) for x in numbers])


@pytest.mark.parametrize("cut", [1, 17, 40, 63])
def test_join_is_the_definition_applied_to_the_whole(cut):
    w = np.cumsum(np.random.default_rng(0).standard_normal(65))
    first, second = areas_of(w[: cut + 1], cut / 64), areas_of(w[cut:], 1 - cut / 64)
    assert unlike(join(first, cut / 64, second, 1 - cut / 64), areas_of(w, 1.0)) < 1e-13
    assert unlike(join(second, 1 - cut / 64, first, cut / 64, order=-1.0), areas_of(w, 1.0)) < 1e-13
    assert unlike(areas_of(w[::-1], 1.0), -areas_of(w, 1.0)) < 1e-13


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_join_equal_is_the_definition_applied_to_the_whole(n):
    w = np.cumsum(np.random.default_rng(1).standard_normal(8 * n + 1))
    each = [areas_of(w[8 * i : 8 * i + 9], 0.3).values() for i in range(n)]
    children = Increment(*[torch.stack(values) for values in zip(*each, strict=True)])
    assert unlike(join_equal(children, 0), areas_of(w, 0.3 * n)) < 1e-13
    # A range of them, as queries join it.
    wide = Increment(*[value[None, :, None] for value in children.values()])
    ranged = join_range(wide, torch.tensor([n // 3]), torch.tensor([n]))
    assert (
        unlike(ranged, Increment(*[v[None, None] for v in areas_of(w[8 * (n // 3) :], 0.3 * (n - n // 3)).values()]))
        < 1e-13
    )


def test_the_scale_of_the_areas():
    # Exact variances of W, H, K of linear paths of n pieces, n -> infinity: 1, 1/12, 1/720, and no covariance.
    n = 400
    basis = np.concatenate([np.zeros((1, n)), np.cumsum(np.eye(n), axis=0)])
    rows = np.array([[float(v) for v in areas_of(basis[:, i], 1.0).values()] for i in range(n)])
    assert np.allclose(rows.T @ rows / n, np.diag([1, 1 / 12, 1 / 720]), atol=1e-5)


def conditional(n: int, third: bool, d: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(A, gain, covariance) of n children given parent = A children, by linear algebra."""
    c, q, p = (np.array(v) for v in weights(n))
    kinds = 3 if third else 2
    prior = np.diag(np.repeat([d, d / 12, d / 720], n)[: kinds * n])
    look = np.zeros((kinds, kinds * n))
    look[0, :n], look[1, :n], look[1, n : 2 * n] = 1, c, 1 / n
    if third:
        look[2, :n], look[2, n : 2 * n], look[2, 2 * n :] = q, p, 1 / n**2
    gain = prior @ look.T @ np.linalg.inv(look @ prior @ look.T)
    return look, gain, prior - gain @ look @ prior


def linear_map(n: int, kinds: int, function) -> tuple[np.ndarray, np.ndarray]:
    """Of a linear function of (parent, normals): its matrices, by basis vectors."""
    parent, z = np.zeros((kinds + kinds * n, kinds)), np.zeros((kinds + kinds * n, kinds * n))
    parent[:kinds], z[kinds:] = np.eye(kinds), np.eye(kinds * n)
    out = function(Increment(*torch.tensor(parent).unbind(1)), torch.tensor(z)).numpy().T
    return out[:, :kinds], out[:, kinds:]


@pytest.mark.parametrize("third", [False, True], ids=["WH", "WHK"])
@pytest.mark.parametrize("n", [2, 3, 10])
def test_split_has_the_conditional_law(n, third):
    d, kinds = 0.37, 3 if third else 2
    look, gain, covariance = conditional(n, third, d)

    def split(parent, z):
        parts = [z[:, i * n : (i + 1) * n].clone() for i in range(kinds)]
        Splitting(n, third=third).split_(parent, d, parts[0], parts[1], parts[2] if third else None)
        return torch.cat(parts, 1)

    mean, noise = linear_map(n, kinds, split)
    assert np.allclose(mean, gain, atol=1e-13)
    assert np.allclose(noise @ noise.T, covariance, atol=1e-14)
    # The parent is the join of its children: a constraint, not a tendency.
    assert np.allclose(look @ mean, np.eye(kinds), atol=1e-13)
    assert np.allclose(look @ noise, 0, atol=1e-14)


@pytest.mark.parametrize("third", [False, True], ids=["WH", "WHK"])
def test_halve_has_the_conditional_law(third):
    d, kinds = 0.37, 3 if third else 2
    _, gain, covariance = conditional(2, third, d)

    def halves(parent, z):
        scale = torch.tensor(math.sqrt(2 * d), dtype=F64)
        mean, deviation = (part.values() for part in halve(parent, scale, z[:, :kinds].unbind(1)))
        both = zip(mean, deviation, strict=True)
        return torch.stack([m + sign * v for m, v in both for sign in (1, -1)], 1)

    mean, noise = linear_map(2, kinds, halves)
    assert np.allclose(mean, gain, atol=1e-13)
    assert np.allclose(noise @ noise.T, covariance, atol=1e-14)


def test_split_of_W_alone_takes_the_same_numbers():
    z = torch.randn(4, 10, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    parent = Increment(*torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1), dtype=F64))
    alone, together = z.clone(), z.clone()
    Splitting(10, third=False).split_(parent, 0.1, alone, None, None)
    Splitting(10, third=False).split_(parent, 0.1, together, z.clone(), None)
    assert torch.equal(alone, together)


# Hashed normals ------------------------------------------------------------------------------------------------------


def test_hashed_normals_do_not_depend_on_what_is_beside_them():
    keys, cells = sample_keys(map(str, range(37))), torch.arange(37) * 1234567891
    whole = normals(Elements(11).hashes(keys, 3, cells), 0)
    for i in (0, 5, 36):
        alone = normals(Elements(11).hashes(keys[i : i + 1], 3, cells[i : i + 1]), 0)
        assert all(torch.equal(a, w[i : i + 1]) for a, w in zip(alone, whole, strict=True))
        fewer = normals(Elements(4).hashes(keys[i:], 3, cells[i:]), 0)
        assert all(torch.equal(a, w[i:, :4]) for a, w in zip(fewer, whole, strict=True))


def test_hashed_normals_are_independent_standard_normals():
    # 400,000 numbers of each kind: moments within 5 standard errors, sqrt(Var z^k / n).
    keys = sample_keys(map(str, range(20)))
    drawn = []
    for level, offset in ((0, 0), (1, 0), (0, 1)):
        cells = torch.arange(200).repeat_interleave(20) + offset
        hashes = Elements(100).hashes(keys.repeat(200), level, cells)
        drawn += [*normals(hashes, 0), *normals(hashes, 1)]
    z = torch.stack([x.flatten() for x in drawn])
    n = z.shape[1]
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert (z**power).mean(1).sub(mean).abs().max() < 5 * math.sqrt(variance / n)
    covariance = z @ z.T / n - torch.eye(len(z), dtype=F64)
    # The last kind of cells is the first one shifted by a cell: across shifts no number is seen twice.
    assert covariance.abs().max() < 5 * math.sqrt(2 / n)


# The joint law, without sampling --------------------------------------------------------------------------------------


class BasisDraws:
    """In place of a path's draws: every normal that is asked for is 1 in a sample of its own and 0 in all others."""

    def __init__(self, count: int) -> None:
        self.count, self.number = count, {}

    def names(self) -> list[str]:
        return [str(i) for i in range(self.count)]

    def draw(self, *name: int) -> Tensor:
        z = torch.zeros(self.count, 1, dtype=F64)
        z[self.number.setdefault(name, len(self.number))] = 1.0  # an IndexError where `count` is too few
        return z

    def cells(self, shape, level, which, dtype, scales=None) -> NoiseStream:
        return BasisStream(self, level, which)


class BasisStream(NoiseStream):
    seekable = True

    def __init__(self, draws: BasisDraws, level: int, which: int) -> None:
        self._draws, self._name = draws, (level, which)

    def next(self, t: float, s: float) -> Tensor:
        self.position += 1
        return self._draws.draw(*self._name, self.position - 1)

    def seek(self, position: int) -> None:
        self.position = position


def kernel_products(t: float, s: float, u: float, v: float) -> np.ndarray:
    r"""E of (W, H, K) over [t, s] times (W, H, K) over [u, v].

    Each is \int k((r - t)/h) dW_r, by its definition: k(y) = 1, 1/2 - y, (y^2 - y)/2 + 1/12.
    """
    kernels = [Polynomial([1]), Polynomial([1 / 2, -1]), Polynomial([1 / 12, -1 / 2, 1 / 2])]
    low, high = max(t, u), min(s, v)
    if low >= high:
        return np.zeros((3, 3))
    span = Polynomial([low, high - low])  # of y in [0, 1]
    products = np.empty((3, 3))
    for i, j in itertools.product(range(3), repeat=2):
        whole = (kernels[i]((span - t) / (s - t)) * kernels[j]((span - u) / (v - u))).integ()
        products[i, j] = (whole(1) - whole(0)) * (high - low)
    return products


@pytest.mark.parametrize("kinds", [2, 3], ids=["WH", "WHK"])
@pytest.mark.parametrize("tree", TREES, ids=TREE_IDS)
def test_the_joint_law_of_any_intervals_is_exact(tree, kinds, monkeypatch):
    cuts = make(**tree)._cuts
    draws = BasisDraws(6000)
    joint = Tree(cuts, draws, (draws.count, 1), kinds)

    def basis(level: int, cells: Tensor, rows: None) -> list[Tensor]:
        names = [[draw(100 + level, i, cell) for cell in cells.tolist()] for i in range(kinds)]
        return [torch.stack(z) for z in names]

    draw = draws.draw
    monkeypatch.setattr(joint, "_normals", basis)
    # Nested, adjacent, overlapping, apart; far from cuts, at cuts, and nearer to one another than any wide cell.
    leaves = cuts.leaf(times_of(0.0, 0.2, 0.3141, 0.3141001, 0.9, 1.0, 1.2345678, 2.0))
    times = cuts.time(leaves).tolist()
    pairs = [(0, 7), (1, 4), (2, 3), (3, 6), (2, 6), (4, 5), (5, 6), (6, 7), (0, 2)]
    start, stop = (leaves[list(ends)] for ends in zip(*pairs, strict=True))
    found = torch.stack(joint.between(start, stop).values(), 1)[..., 0]  # (S, kinds, normals)
    scales = torch.tensor([[math.sqrt(times[j] - times[i])] for i, j in pairs], dtype=F64)
    law = np.einsum("aix,bjx->aibj", *[(found / scales[:, :, None]).numpy()] * 2)
    for a, b in itertools.product(range(len(pairs)), repeat=2):
        (i, j), (k, m) = pairs[a], pairs[b]
        exact = kernel_products(times[i], times[j], times[k], times[m]) / float(scales[a] * scales[b])
        assert np.allclose(law[a, :, b, :], exact[:kinds, :kinds], atol=1e-10), (pairs[a], pairs[b])


# The law of a path's increments --------------------------------------------------------------------------------------

# Whole cells of one level, several of them, halves, and mixtures across the root.
INTERVALS = [
    (0.0, 2.0),
    (0.2, 0.4),
    (0.2, 0.22),
    (0.204, 0.208),
    (0.123, 0.891),
    (0.6000001, 0.6000003),
    (0.31, 0.8123),
]


@pytest.mark.parametrize("area", ["space-time", "space-time-time"])
@pytest.mark.parametrize("tree", TREES, ids=TREE_IDS)
def test_law_of_an_interval(tree, area):
    # 10,000 entries: every (co)variance of the standardised values within 5 standard errors sqrt(2/n).
    path = make((100, 100), levy_area=area, **tree)
    n = 10_000
    for t, s in INTERVALS:
        h = s - t
        found = zip(path(t, s).values(), (1, 12, 720), strict=False)
        z = torch.stack([(value * math.sqrt(part / h)).flatten() for value, part in found])
        covariance = z @ z.T / n - torch.eye(len(z), dtype=F64)
        assert covariance.abs().max() < 5 * math.sqrt(2 / n), (t, s)
        assert z.mean(1).abs().max() < 5 / math.sqrt(n)
        assert ((z**4).mean(1) - 3).abs().max() < 5 * math.sqrt(96 / n)


@pytest.mark.parametrize("tree", TREES, ids=TREE_IDS)
def test_disjoint_intervals_are_independent(tree):
    path = make((100, 100), levy_area="space-time-time", **tree)
    cuts = [0.0, 0.2, 0.22, 0.4, 0.523, 0.5230001, 0.9, 2.0]
    z = torch.stack(
        [
            (value * math.sqrt(part / (s - t))).flatten()
            for t, s in itertools.pairwise(cuts)
            for value, part in zip(path(t, s).values(), (1, 12, 720), strict=True)
        ]
    )
    assert (z @ z.T / 10_000 - torch.eye(len(z), dtype=F64)).abs().max() < 5 * math.sqrt(2 / 10_000)


@pytest.mark.parametrize("kind", ["seeds", "seed"])
def test_samples_and_elements_are_independent(kind):
    # 3 samples of 3 elements over 1,000 steps and over 1,000 intervals that no cut agrees with: 2,000 of each.
    path = make((3, 3)) if kind == "seed" else BrownianPath(None, (3, 3), 0.0, 2.0, seeds=[1, 2, 3], dtype=F64)
    grid = even(0, 2, 1000)
    uneven = even(0.0001, 1.9, 1000)
    z = torch.cat([torch.cat(steps(path, t, 1)[:1]).reshape(-1, 9) / math.sqrt(t[1] - t[0]) for t in (grid, uneven)])
    assert (z[:1000].T @ z[:1000] / 1000 - torch.eye(9)).abs().max() < 5 * math.sqrt(2 / 1000)
    assert (z[1000:].T @ z[1000:] / 1000 - torch.eye(9)).abs().max() < 5 * math.sqrt(2 / 1000)


def test_seeds_are_independent():
    # Seed 3, seed 4 and seeds=[0, 1, …]: over steps far below the root cell, and over the root. 10,000 entries.
    shape = (100, 100)
    for t, s in ((0.0, 2.0), (0.123, 0.1231)):
        paths = [make(shape, cells=1), make(shape, seed=4, cells=1)]
        paths += [BrownianPath(None, shape, 0.0, 2.0, seeds=range(100), cells=1, dtype=F64)]
        z = torch.stack([path(t, s).W.flatten() / math.sqrt(s - t) for path in paths])
        assert (z @ z.T / 10_000 - torch.eye(3, dtype=F64)).abs().max() < 5 * math.sqrt(2 / 10_000)


# One motion ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    tree=st.sampled_from(TREES),
    cuts=st.lists(st.floats(0, 2) | st.sampled_from([0.0, 0.2, 0.5, 0.52, 2.0]), min_size=3, max_size=3),
    area=st.sampled_from(["space-time", "space-time-time"]),
)
def test_increments_add_up(tree, cuts, area):
    path = make((2, 2), levy_area=area, **tree)
    # At times as the path rounds them: a leaf is 1e-12, and a bridge moves like its root.
    a, b, c = sorted(float(path._cuts.time(path._cuts.leaf(times_of(t)))[0]) for t in cuts)
    one, two, whole = path(a, b), path(b, c), path(a, c)
    for h1, h2 in ((b - a, c - b),):
        assert unlike(join(one, h1, two, h2), whole) < 1e-9 * math.sqrt(max(c - a, 1e-6))
    assert same(-path(c, a), whole)
    assert unlike(path(a, a), Increment(*[torch.zeros(2, 2, dtype=F64) for _ in whole.values()])) == 0


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    tree=st.sampled_from(TREES),
    pairs=st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2)), min_size=2, max_size=5),
    order=st.randoms(use_true_random=False),
)
def test_no_query_changes_another(tree, pairs, order):
    path = make((3, 2), **tree)
    before = [path(t, s) for t, s in pairs]
    steps(path, even(0, 2, 10))
    shuffled = list(range(len(pairs)))
    order.shuffle(shuffled)
    other = make((3, 2), **tree)
    for i in shuffled:
        assert same(other(*pairs[i]), before[i])
        assert same(path(*pairs[i]), before[i])


def test_a_small_table_changes_no_number(monkeypatch):
    t, s = even(0, 1.1, 39), even(0.03, 1.9, 39)
    for tree in TREES:
        path = make((40, 2), **tree)
        large = path(t, s)
        with monkeypatch.context() as patched:
            patched.setattr("sdekit.noise.path_tables._TABLE_BYTES", 0)
            patched.setattr("sdekit.noise.path_tables._MADE_AT_ONCE", 0)
            small = make((40, 2), **tree)
            assert same(small(t, s), large)
            assert same(small(t, s), large)
        assert all(table.capacity <= max(2, table.parents) for table in small._tree._tables.tables)


def two_kinds(n: int, size: tuple[int, ...], first: int, **kwargs) -> list[BrownianPath]:
    seeds = [first + 7 * i for i in range(n)]
    shape = (n, *size)
    return [
        BrownianPath(5, shape, 0.0, 2.0, first=first, **kwargs),
        BrownianPath(None, shape, 0.0, 2.0, seeds=seeds, **kwargs),
    ]


@pytest.mark.parametrize("size", [(), (3,), (5, 13)], ids=str)
@pytest.mark.parametrize(
    ("tree", "area"),
    [
        ({}, "space-time"),
        ({}, "space-time-time"),
        ({"cells": 20}, "space-time"),
        ({"cells": UNEVEN}, "space-time"),
    ],
    ids=["default-WH", "default-WHK", "20-WH", "uneven-WH"],
)
def test_a_sample_alone_in_a_batch_and_in_a_chunk(size, tree, area):
    areas = 2 if area == "space-time-time" else 1
    grids = [even(0, 2, 20), even(2, 1.8, 10), times_of(0.1, 0.11, 0.5)]
    if tree:
        grids[:2] = [even(0, 2, 20), times_of(*UNEVEN)]
    for path in two_kinds(7, size, 60, levy_area=area, dtype=torch.float32, **tree):
        whole = [steps(path, grid, areas, torch.float32) for grid in grids]
        queries = [(0.1234, 1.87), (1.0, 0.8)]
        known = [path(t, s) for t, s in queries]
        picked = torch.tensor([6, 0, 3])
        for part, where in (
            (path.part(2, 3, 7), slice(2, 3)),
            (path.part(3, 7, 7), slice(3, 7)),
            (path.rows(picked), picked),
        ):
            for query, all_of in zip(queries, known, strict=True):
                assert same(part(*query), Increment(*[value[where] for value in all_of.values()]))
            for grid, each in zip(grids, whole, strict=True):
                for few, all_of in zip(steps(part, grid, areas, torch.float32), each, strict=True):
                    assert torch.equal(few, all_of[:, where])


def test_a_sample_has_its_own_interval_and_the_bits_of_the_batch():
    path = make((6, 4))
    t, s = times_of(0.0, 0.1, 1.3, 0.77, 0.2, 1.9), times_of(0.3, 1.1, 0.4, 0.77, 0.4, 2.0)
    whole = path(t, s)
    for i in range(6):
        one = Increment(*[value[i : i + 1] for value in whole.values()])
        together = path(float(t[i]), float(s[i]))
        assert same(Increment(*[value[i : i + 1] for value in together.values()]), one)
        assert same(path.part(i, i + 1, 6)(float(t[i]), float(s[i])), one)
        assert same(path.increments(t[i : i + 1], s[i : i + 1], torch.tensor([i])), one)
    rows = torch.tensor([5, 1, 1])
    assert same(path.increments(t[rows], s[rows], rows), Increment(*[value[rows] for value in whole.values()]))


def test_dtypes_have_the_same_motion():
    grid = even(0, 2, 1000)
    narrow, wide = make(dtype=torch.float32), make()
    assert narrow(0.1, 0.7).W.dtype == torch.float32
    assert torch.equal(narrow(0.1, 0.7).W, wide(0.1, 0.7).W.float())
    exact = steps(wide, grid, 1)
    for dtype, eps in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        for one, two in zip(steps(wide, grid, 1, dtype), exact, strict=True):
            assert one.dtype == dtype
            assert (one.double() - two).abs().max() < eps * two.abs().max()


# Streams -------------------------------------------------------------------------------------------------------------

GRIDS = {
    "root": even(0, 2, 10),
    "third level": even(0.2, 0.224, 12),
    "several cells a step": even(0, 1.2, 15),
    "unequal steps on cuts": times_of(0.0, 0.02, 0.06, 0.1, 0.12, 0.4),
    "a part": even(0.4, 0.6, 10),
    "falling": even(1.8, 1.52, 14),
    "falling, several": even(1.6, 0.4, 15),
    "unaligned": even(0, 2, 7),
    "unaligned, falling": even(1.999, 0.001, 5),
    "cells of UNEVEN": times_of(*UNEVEN),
    "some of UNEVEN at once": times_of(0.0, 0.5, 1.0, 2.0),
    "two of UNEVEN at once": times_of(0.0, 0.5, 1.0),
    "halves of UNEVEN": times_of(0.0, 0.05, 0.1, 0.3, 0.5, 0.51, 0.52, 1.0, 1.5, 2.0),
    "powers of two": even(2, 0, 32),
    "powers": even(0, 1, 6) ** 3,
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize(
    "tree", [{}, {"cells": 1}, {"cells": 1000}, {"cells": UNEVEN}], ids=["default", "1", "1000", "uneven"]
)
def test_a_stream_is_the_path(tree, grid):
    scale = grid.diff().abs().sqrt().reshape(-1, 1, 1)
    for area, areas in (("space-time", 1), ("space-time-time", 2)):
        path = make(levy_area=area, **tree)
        exact = asked(path, grid, areas)
        for dtype, eps in ((F64, 1e-12), (torch.float32, 2e-5)):
            for fewer in {0, areas}:
                for one, two in zip(steps(path, grid, fewer, dtype), exact[: fewer + 1], strict=True):
                    assert ((one - two) / scale).abs().max() < eps


def test_the_grids_above_go_the_ways_they_are_meant_to():
    path = make()
    levels = [level_of(path._cuts, path._cuts.leaf(grid)) for grid in GRIDS.values()]
    assert levels == [0, 2, 1, 1, 1, 1, 1, None, None, None, None, 1, None, None, None]
    for cells, grid, level in (
        (UNEVEN, times_of(*UNEVEN), 0),
        (UNEVEN, GRIDS["some of UNEVEN at once"], 0),
        (UNEVEN, GRIDS["halves of UNEVEN"], 1),
        (1000, even(0, 2, 50), 0),
        (1000, even(0, 2, 4000), 2),
        (1000, even(0, 2, 3000), None),
        (1, GRIDS["powers of two"], 5),
        (1, even(2, 0.5, 48), 6),
        ({}, even(0, 2, 200_000), 5),
    ):
        path = make(**({"cells": cells} if cells else {}))
        assert level_of(path._cuts, path._cuts.leaf(grid)) == level


@pytest.mark.parametrize(
    ("tree", "grid"),
    [({}, name) for name in ("root", "third level", "several cells a step", "falling", "unaligned")]
    + [({"cells": UNEVEN}, "some of UNEVEN at once"), ({"cells": UNEVEN}, "halves of UNEVEN")]
    + [({"cells": 1}, "powers of two")],
    ids=str,
)
@pytest.mark.parametrize("shape", [(5, 3), (2, 80)], ids=str)
def test_ahead_and_seek_and_the_last_step(tree, grid, shape):
    times = GRIDS[grid]
    path, count = make(shape, **tree), len(times) - 1
    whole = steps(path, times, 1)
    opened = stream(path, times, 1)
    assert opened.seekable
    seen = 0
    while seen < count:
        block = opened.ahead(7)
        taken = len(block.W)
        assert 1 <= taken <= 7
        for value, all_of in zip(block.values(), whole, strict=True):
            assert torch.equal(value, all_of[seen : seen + taken])
            value.fill_(math.nan)  # allowed, and nobody else's loss
        seen += taken
        assert opened.position == seen
    for position in (count - 1, 0, count // 2, count // 2 + 1, 1):
        opened.seek(position)
        for value, all_of in zip(opened.next().values(), whole, strict=True):
            assert torch.equal(value, all_of[position])
    quiet = steps(path, times, 1, last_noise=False)
    for value, all_of in zip(quiet, whole, strict=True):
        assert torch.equal(value[:-1], all_of[:-1])
        assert value[-1].abs().max() == 0


@pytest.mark.parametrize("area", ["space-time", "space-time-time"])
@pytest.mark.parametrize(
    ("tree", "grid"),
    [
        ({}, even(0, 2, 7)),
        ({}, times_of(0.1, 0.3, 0.3000001, 0.35, 0.7, 1.0, 1.2345, 2.0)),
        ({"cells": 3}, even(0.123, 1.789, 9)),
        ({"cells": UNEVEN}, even(0, 1.9, 13)),
        ({"cells": 1}, even(0, 2, 32)),
        ({"cells": UNEVEN}, times_of(0.075, 0.1, 0.2)),
    ],
    ids=["default", "default, near times", "3", "uneven", "halves", "halves of uneven cells"],
)
def test_steps_found_together_have_the_bits_of_queries(tree, grid, area, monkeypatch):
    areas = 2 if area == "space-time-time" else 1
    exact = asked(make(levy_area=area, **tree), grid, areas)
    for bytes_of_a_block in (1 << 20, 1):  # all steps in a block, or each by itself
        monkeypatch.setattr("sdekit.noise.path_streams._BLOCK_BYTES", bytes_of_a_block)
        path = make(levy_area=area, **tree)
        assert level_of(path._cuts, path._cuts.leaf(grid)) is None or tree
        for one, two in zip(steps(path, grid, areas), exact, strict=True):
            assert torch.equal(one, two)


def test_what_surrounds_a_cut_is_made_once(monkeypatch):
    # 40 steps at no cut: as many cells are halved as there are cuts, not twice as many; 32 halves: each cell once.
    halved: list[int] = []
    hashes = Elements.hashes

    def counted(self, keys, level, cells):
        halved.append(cells.numel())
        return hashes(self, keys, level, cells)

    monkeypatch.setattr(Elements, "hashes", counted)
    path = make(cells=1)
    steps(path, even(0.0001, 1.9, 40))
    assert sum(halved) <= 41 * path._cuts.halvings
    halved.clear()
    steps(make(cells=1), even(0, 2, 32))
    assert sum(halved) == 1 + 2 + 4 + 8 + 16


def test_coarse_is_the_sum_of_fine():
    for tree in ({}, {"cells": 512}):
        path = make((4, 2), **tree)
        fine_count = 1000 if not tree else 512
        fine = steps(path, even(0, 2, fine_count))[0]
        for n in (2, 4, 8, 10, 20, 50, 100, 125, 250, 500) if not tree else (1, 2, 4, 16, 64, 256):
            if fine_count % n == 0:
                coarse = steps(path, even(0, 2, n))[0]
                assert torch.allclose(coarse, fine.view(n, -1, 4, 2).sum(1), atol=1e-12)


def test_falling_is_rising_gone_back():
    path = make(levy_area="space-time-time")
    times = even(0, 2, 100)
    up, down = steps(path, times, 2), steps(path, times.flip(0), 2)
    for sign, one, two in zip((-1, 1, -1), up, down, strict=True):
        assert torch.equal(one.flip(0) * sign, two)


def test_root_cells_are_the_keyed_draws_themselves():
    path = make((70, 2), cells=40, dtype=torch.float32)
    times = even(0, 2, 40)
    assert isinstance(stream(path, times), DrawnStream)
    keyed = KeyedNoise(3).open((70, 2), purpose="path 0 W", dtype=torch.float32, device=CPU)
    drawn = torch.stack([keyed.next(0, 0).clone() for _ in range(40)]) * math.sqrt(0.05)
    assert torch.allclose(steps(path, times, 0, torch.float32)[0], drawn, rtol=1e-6)


def test_hundred_thousand_steps():
    path = make((1,))
    w = steps(path, even(0, 2, 100_000))[0]
    assert float((w.sum(0) - path(2.0).W).abs().max()) < 1e-10
    # The quadratic variation: 2 +- 2 sqrt(2/N).
    assert float((w**2).sum()) == pytest.approx(2.0, abs=5 * 2 * math.sqrt(2 / 100_000))


def test_drawn_stream_is_its_streams():
    times = even(0, 1, 30)
    scales = times.diff().sqrt()

    def opened(areas: int) -> DrawnStream:
        purposes = ("steps", "areas", "third areas")[: areas + 1]
        source = KeyedNoise(0)
        kwargs = {"dtype": F64, "device": CPU, "draws": 30, "scales": scales}
        return DrawnStream(times, [source.open((5, 2), purpose=purpose, **kwargs) for purpose in purposes])

    whole = [[v.clone() for v in one.values()] for one in (opened_next for opened_next in _all(opened(2), 30))]
    for areas in range(3):
        drawn = opened(areas)
        assert drawn.seekable
        seen = 0
        while seen < 30:
            block = drawn.ahead(8)
            for i in range(len(block.W)):
                assert all(torch.equal(v[i], w) for v, w in zip(block.values(), whole[seen + i], strict=False))
            seen += len(block.W)
        drawn.seek(3)
        assert torch.equal(drawn.next().W, whole[3][0])
        assert drawn.position == 4
    with pytest.raises(ArgumentError, match="one to three"):
        DrawnStream(times, [])


def _all(opened: BrownianStream, count: int):
    for _ in range(count):
        yield opened.next()


# As a source of noise ------------------------------------------------------------------------------------------------


def test_open_steps_are_increments_of_unit_variance():
    path = make()
    opened = path.open((5, 3), purpose="steps", dtype=F64, device=CPU, scales=times_of(1.0, 2.0, 3.0))
    assert torch.allclose(opened.next(0.0, 0.5), path(0.0, 0.5).W / math.sqrt(0.5))
    assert torch.allclose(opened.next(0.5, 0.7), path(0.5, 0.7).W / math.sqrt(0.7 - 0.5) * 2)
    with pytest.raises(UnsupportedError, match=r"two draws were asked for over the same time.*seed="):
        opened.next(0.6, 0.8)
    opened.seek(0)
    assert torch.allclose(opened.next(0.0, 0.5), path(0.0, 0.5).W / math.sqrt(0.5))
    with pytest.raises(ArgumentError, match="t = s"):
        opened.next(0.5, 0.5)
    with pytest.raises(ShapeError, match=r"\(5, 3\).*\(4, 3\)"):
        path.open((4, 3), purpose="steps", dtype=F64, device=CPU)


def test_other_purposes_are_the_seeds_draws():
    for path, source in zip(two_kinds(4, (3,), 10), (KeyedNoise(5, 10), SeedsNoise([10, 17, 24, 31])), strict=True):
        prior, corrector = (
            [s.open((4, 3), purpose=p, dtype=torch.float32, device=CPU).next(1, 1).clone() for s in (path, source)]
            for p in ("prior", "corrector")
        )
        assert torch.equal(*prior)
        assert torch.equal(*corrector)
        picked = path.rows(torch.tensor([3, 1])).prior((2, 3), t=1.0, dtype=torch.float32, device=CPU)
        assert torch.equal(picked, prior[0][[3, 1]])


def test_identity_tells_paths_apart():
    paths = [make(), make(seed=4), make(first=1), make((5, 4)), make(levy_area="space-time-time"), make(cells=10)]
    paths += [make(cells=UNEVEN), make(cells=[0.0, 2.0]), make().part(1, 3, 5), BrownianPath(3, (5, 3))]
    paths += two_kinds(5, (3,), 3)[1:]
    assert len({path.identity() for path in paths}) == len(paths)
    assert make().identity() == make(dtype=torch.float32).identity()
    assert repr(make()) == (
        "BrownianPath(seed=3, shape=(5, 3), t0=0.0, t1=2.0, levy_area='space-time', dtype=torch.float64)"
    )
    assert "cells=<6 times>" in repr(make(cells=UNEVEN))
    assert "cells=7" in repr(make(cells=7))
    assert make(cells=np.int64(7)).identity() == make(cells=7).identity()
    assert "seeds=[3, 10]" in repr(two_kinds(2, (3,), 3)[1])
    assert "samples=[3, 1]" in repr(make().rows(torch.tensor([3, 1])))


def test_a_path_that_was_used_is_sent_as_small_as_a_new_one():
    path, new = make(), make()
    found = path(0.1, 0.777)
    sent = pickle.dumps(path)
    assert len(sent) < len(pickle.dumps(new)) + 100
    assert same(pickle.loads(sent)(0.1, 0.777), found)
    assert same(copy.deepcopy(path)(0.1, 0.777), found)


@pytest.mark.parametrize("grid", ["root", "third level", "several cells a step", "unaligned", "powers of two"])
def test_increments_go_to_the_device_asked_for(grid):
    meta = torch.device("meta")
    times = GRIDS[grid]
    for cells in (None, 1):
        opened = make(cells=cells).brownian((5, 3), times, areas=1, dtype=torch.float32, device=meta)
        for value in (*opened.next().values(), *opened.ahead(3).values(), *opened.each(1)):
            assert value.device == meta
            assert value.dtype == torch.float32
    for query in ((0.1, 0.7), (torch.zeros(5, dtype=F64), 0.3)):
        assert {value.device for value in make(device="meta")(*query).values()} == {meta}
    for known in given_from(make(levy_area="space-time-time"), times):
        opened = known.brownian((5, 3), times, areas=0, dtype=torch.float32, device=meta)
        assert opened.next().W.device == meta


def test_a_default_device_changes_nothing():
    expected = [
        steps(make(cells=cells), GRIDS[name], 1) for cells in (None, 1, UNEVEN) for name in ("root", "halves of UNEVEN")
    ]
    asked_for = make()(0.1, 0.777)
    with torch.device("meta"):
        found = [
            steps(make(cells=cells), GRIDS[name], 1)
            for cells in (None, 1, UNEVEN)
            for name in ("root", "halves of UNEVEN")
        ]
        assert same(make()(0.1, 0.777), asked_for)
    assert all(
        torch.equal(a, b) for one, two in zip(found, expected, strict=True) for a, b in zip(one, two, strict=True)
    )


# Times ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tree", TREES, ids=TREE_IDS)
def test_ends_are_clamped_by_a_few_ulps_and_no_more(tree):
    path = make(**tree)
    beyond = 2.0 + 3 * math.ulp(2.0)
    assert same(path(-1e-16, beyond), path(0.0, 2.0))
    for wrong in (2.1, -0.1, math.inf):
        with pytest.raises(ArgumentError, match=r"outside this path.*\[0\.0, 2\.0\]|finite"):
            path(0.0, wrong)
    with pytest.raises(ArgumentError, match="outside this path"):
        path(0.0, torch.tensor([0.1, 0.2, math.nan, 0.3, 0.4], dtype=F64))


@pytest.mark.parametrize("tree", TREES, ids=TREE_IDS)
def test_near_is_the_coarsest_cut_in_reach(tree):
    path = make(**tree)
    t = torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=F64) * 2
    for within in (1e-15, 1e-6, 0.003, 0.04):
        reach = torch.full_like(t, within)
        cut = path.near(t, reach)
        assert ((cut - t).abs() <= max(within, path.quantum)).all()
        leaves = path._cuts.leaf(cut)
        assert torch.equal(path._cuts.time(leaves), cut)
        # Each time by itself, as it has the same bits.
        assert torch.equal(path.near(t[3:4], reach[3:4]), cut[3:4])
    assert path.near(times_of(1.9999), times_of(0.01)) == 2.0
    if not tree:
        assert torch.equal(path.near(times_of(0.2001, 0.2234), times_of(0.01, 0.004)), times_of(0.2, 0.22))


def test_near_ends_are_cheap():
    # A step between two cuts of the third level looks at three tables and hashes nothing.
    path = make((50, 2))
    path(0.2, 0.4)
    looked: list[int] = []
    fetch = Tables.fetch
    tables = path._tree._tables
    tables.fetch = lambda k, *a: looked.append(k) or fetch(tables, k, *a)
    start = even(0.1, 0.9, 49)
    start = path.near(start, torch.full_like(start, 0.01))
    path(start, start + 0.02)
    assert max(looked) <= 2


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t0": 1.0, "t1": 1.0}, "t0 < t1"),
        ({"t0": 2.0}, "t0 < t1"),
        ({"t0": math.nan}, "t0 must be a finite number"),
        ({"t1": math.inf}, "t1 must be a finite number"),
        ({"seed": None}, "one of seed and seeds, got neither"),
        ({"seeds": [1, 2]}, "one of seed and seeds, got both"),
        ({"seed": -1}, "seed must be an integer"),
        ({"seed": None, "seeds": [1, 2, 3]}, "3 entries for a batch of 2"),
        ({"seed": None, "seeds": 7}, "seeds must be a list"),
        ({"seed": None, "seeds": [1, 0.5]}, r"seeds\[1\] must be an integer"),
        ({"seed": None, "seeds": [1, 2], "first": 3}, "first .* goes with seed"),
        ({"first": -1}, "first"),
        ({"shape": ()}, "sequence of positive integers"),
        ({"shape": (2, 0)}, "sequence of positive integers"),
        ({"cells": 0}, "cells must be a number of equal cells"),
        ({"cells": True}, "cells must be a number of equal cells"),
        ({"cells": 1.5}, "cells must be a number of equal cells"),
        ({"cells": [0.0]}, "cells must be a number of equal cells"),
        ({"cells": [0.0, 0.5, 0.5, 1.0]}, "cells .* must rise"),
        ({"cells": [0.0, math.nan, 1.0]}, r"cells\[1\] must be a finite number"),
        ({"cells": [0.1, 1.0]}, "must go from t0 = 0.0 to t1 = 1.0, got 0.1 to 1.0"),
        ({"levy_area": "none"}, "levy_area must be one of 'space-time', 'space-time-time', got 'none'"),
        ({"dtype": torch.int64}, "floating-point"),
    ],
)
def test_bad_arguments_are_refused_at_the_door(change, message):
    with pytest.raises(ArgumentError, match=message):
        BrownianPath(**{"seed": 0, "shape": (2, 3), **change})


def test_bad_queries_and_grids_are_refused():
    path = make()
    with pytest.raises(ShapeError, match=r"s must be a number or a tensor of shape \(5,\)"):
        path(0.0, torch.zeros(3, dtype=F64))
    with pytest.raises(ArgumentError, match="t must be a finite number"):
        path(math.nan, 1.0)
    with pytest.raises(ArgumentError, match="t must be a finite number"):
        path(math.nan)
    with pytest.raises(UnsupportedError, match="levy_area='space-time-time'"):
        stream(path, even(0, 2, 10), 2)
    with pytest.raises(ShapeError, match=r"\(5, 3\).*\(5, 4\)"):
        path.brownian((5, 4), times_of(0.0, 1.0), areas=0, dtype=F64, device=CPU)
    for grid in (times_of(0.0, 1.0, 0.5), times_of(0.0, 0.5, 0.5), times_of(0.3)):
        with pytest.raises(ArgumentError, match="must rise or fall"):
            stream(path, grid)
    with pytest.raises(ArgumentError, match="outside this path"):
        stream(path, times_of(0.0, 3.0))
    for grid in (even(0, 2, 100), even(0, 2, 7)):
        opened = stream(path, grid)
        opened.seek(len(grid) - 1)
        with pytest.raises(ArgumentError, match=f"a grid of {len(grid) - 1} steps"):
            opened.next()
    with pytest.raises(ArgumentError, match="5 samples for a batch of 6"):
        path.part(0, 2, 6)
    with pytest.raises(ArgumentError, match="at least one sample"):
        path.rows(torch.tensor([], dtype=torch.int64))
    for wrong in ([0], torch.tensor([True, False, False, False, True]), torch.tensor([[0]])):
        with pytest.raises(ArgumentError, match="int64 tensor"):
            path.rows(wrong)
    for wrong in ([5], [0, -1]):
        with pytest.raises(ArgumentError, match="from 0 to 4, got"):
            path.rows(torch.tensor(wrong))


# Paths of the user's own ---------------------------------------------------------------------------------------------


def given_from(path: BrownianPath, times: Tensor) -> tuple[GivenPath, GivenPath]:
    """The path at some times, by values and by increments."""
    parts = asked(path, times, 2)
    values = torch.cat([torch.zeros_like(parts[0][:1]), parts[0].cumsum(0)]) + 3.0
    return GivenPath(times, values, *parts[1:]), GivenPath.from_increments(times.tolist(), *parts)


@pytest.mark.parametrize("falls", [False, True], ids=["rising", "falling"])
def test_given_path_is_the_path_it_was_taken_from(falls):
    path = make(levy_area="space-time-time")
    times = times_of(0.0, 0.1, 0.15, 0.7, 1.6, 2.0)
    for known in given_from(path, times.flip(0) if falls else times):
        assert unlike(known(0.1, 1.6), path(0.1, 1.6)) < 1e-11
        assert unlike(known(2.0, 0.15), path(2.0, 0.15)) < 1e-11
        assert unlike(known(1.6), path(0.0, 1.6)) < 1e-11
        assert known(0.7, 0.7).W.abs().max() == 0
        for grid in (times, times[[0, 2, 5]], times.flip(0)):
            for areas in range(3):
                known.shape = (5, 3)
                found = steps(known, grid, areas)
                assert len(found) == areas + 1
                assert all(
                    torch.allclose(a, b, atol=1e-11) for a, b in zip(found, asked(path, grid, areas), strict=True)
                )
        assert torch.equal(steps(known, times, last_noise=False)[0][-1], torch.zeros(5, 3, dtype=F64))
        part = known.part(1, 3, 5)
        assert same(part(0.1, 1.6), Increment(*[value[1:3] for value in known(0.1, 1.6).values()]))
        assert part.identity() != known.identity()
        opened = known.open((5, 3), purpose="steps", dtype=torch.float32, device=CPU)
        assert torch.allclose(opened.next(0.0, 0.15), (path(0.0, 0.15).W / math.sqrt(0.15)).float())
        assert "W, H and K of shape (5, 3) at 6 times from 0 to 2" in repr(known)


def test_given_increments_are_handed_out_as_they_are_and_stay_the_users():
    dw = torch.randn(3, 2, 4)
    known = GivenPath.from_increments([0.0, 1.0, 2.0, 3.0], dw)
    opened = known.brownian((2, 4), torch.arange(4).double(), areas=0, dtype=torch.float32, device=CPU)
    kept = dw.clone()
    first = opened.next().W
    assert torch.equal(first, dw[0])
    first.zero_()
    opened.ahead(2).W.zero_()
    assert torch.equal(dw, kept)
    opened.seek(1)
    assert torch.equal(opened.next().W, dw[1])


def test_given_path_refuses_what_it_does_not_know():
    known = GivenPath([0.0, 0.5, 1.0], torch.randn(3, 2, 4))
    with pytest.raises(ArgumentError, match=r"not known at time 0\.6.*nearest of its 3 times is 0\.5"):
        known(0.0, 0.6)
    with pytest.raises(ArgumentError, match=r"not known at time 0\.8.*is 1"):
        known(0.0, 0.8)
    with pytest.raises(ArgumentError, match=r"not known at time 4.*is 1"):
        known(0.0, 4.0)
    with pytest.raises(UnsupportedError, match="Levy area H, and the GivenPath has none"):
        known.brownian((2, 4), times_of(0.0, 1.0), areas=1, dtype=F64, device=CPU)
    with pytest.raises(UnsupportedError, match="no draws for 'prior'"):
        known.open((2, 4), purpose="prior", dtype=F64, device=CPU)
    with pytest.raises(ShapeError, match=r"\(2, 4\).*\(3, 4\)"):
        known.brownian((3, 4), times_of(0.0, 1.0), areas=0, dtype=F64, device=CPU)
    with pytest.raises(ArgumentError, match="2 samples for a batch of 3"):
        known.part(0, 1, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0], torch.zeros(1, 2)), "two or more"),
        (([0.0, 1.0, 0.5], torch.zeros(3, 2)), "rise or fall"),
        (([0.0, math.nan], torch.zeros(2, 2)), r"times\[1\] must be a finite number"),
        (([0.0, 1.0], torch.zeros(3, 2)), r"W must be a tensor of shape \(2, B, \*\)"),
        (([0.0, 1.0], [0.0, 1.0]), r"W must be a tensor"),
        (([0.0, 1.0], torch.full((2, 2), math.nan)), "finite"),
        (([0.0, 1.0], torch.zeros(2, 2), torch.zeros(2, 2)), r"H must be a tensor of shape \(1, B, \*\)"),
        (([0.0, 1.0], torch.zeros(2, 2), torch.zeros(1, 3)), "H must be a tensor"),
        (([0.0, 1.0], torch.zeros(2, 2), None, torch.zeros(1, 2)), "K was given without H"),
    ],
)
def test_given_path_checks_what_it_is_given(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        GivenPath(*arguments)


def test_function_path_is_its_function():
    path = make()
    asked_at: list[float] = []

    def w(t: float) -> Tensor:
        asked_at.append(t)
        return path(t).W

    known = FunctionPath(w)
    known.shape = (5, 3)
    times = times_of(0.0, 0.3, 1.1, 2.0)
    assert torch.allclose(steps(known, times)[0], steps(path, times)[0], atol=1e-12)
    assert asked_at == times.tolist()  # once a time
    assert torch.equal(known(0.3).W, path(0.3).W)
    part = known.part(1, 3, 5)
    assert torch.equal(part(0.3, 1.1).W, known(0.3, 1.1).W[1:3])
    assert torch.equal(part.rows(torch.tensor([1]))(0.3).W, known(0.3).W[2:3])
    assert known.identity() == ""
    opened = known.open((5, 3), purpose="steps", dtype=F64, device=CPU)
    assert torch.allclose(opened.next(0.3, 1.1), path(0.3, 1.1).W / math.sqrt(0.8))
    with pytest.raises(UnsupportedError, match="Levy area H"):
        stream(known, times, 1)
    with pytest.raises(ShapeError, match=r"\(5, 3\).*\(5, 2\)"):
        known.brownian((5, 2), times, areas=0, dtype=F64, device=CPU).next()
    with pytest.raises(ShapeError, match=r"shape \(4, \*\), got \(5, 3\)"):
        known.part(0, 1, 4)(0.3)
    with pytest.raises(ShapeError, match="got float"):
        FunctionPath(lambda t: t)(0.3)
    with pytest.raises(ArgumentError, match="function of a time"):
        FunctionPath(3)
