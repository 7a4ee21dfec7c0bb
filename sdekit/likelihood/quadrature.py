r"""The integral of tr J_D over u = ln sigma~ from its values at nodes, and how much of it is noise of the probes.

Between each two nodes the values are interpolated by the polynomial through the nearest six, and that is integrated.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdekit.solvers.diffusion.weights import lagrange

__all__ = ["integral", "interval_weights", "quadrature_weights", "standard_error"]

_ORDER = 6
_NEIGHBOURS = 8  # blocks that the scatter of two or three columns is measured against
_ENDS = 3  # blocks at each end where it is not
_ROUNDING = 1e-12  # columns that agree to this have no error, however the trace bends
_GAUSS = np.polynomial.legendre.leggauss(_ORDER)


def quadrature_weights(u: Tensor, order: int = _ORDER) -> Tensor:
    """The weights of the integral over u of values at the nodes u, float64 (n,), strictly monotone."""
    weights = torch.zeros(len(u), dtype=torch.float64, device="cpu")
    near, shares = interval_weights(u, order)
    weights.index_add_(0, near.reshape(-1), shares.reshape(-1))
    return weights


def interval_weights(u: Tensor, order: int = _ORDER) -> tuple[Tensor, Tensor]:
    """The same for each interval by itself: its m = min(order, n) nearest nodes, int64, and their weights, float64.

    Both are (n - 1, m). The nodes are consecutive, and rise by one from an interval to the next away from the ends.
    """
    n = len(u)
    points = min(order, n)
    places = torch.from_numpy(0.5 * (_GAUSS[0] + 1))
    lengths = torch.from_numpy(0.5 * _GAUSS[1])
    start = torch.arange(n - 1, device="cpu")
    first = (start - (points // 2 - 1)).clamp(0, n - points)
    near = first[:, None] + torch.arange(points, device="cpu")
    h = u.diff()
    at = u[:-1, None] + h[:, None] * places
    return near, (h[:, None, None] * lengths[None, :, None] * lagrange(u[near], at)).sum(1)


def integral(weights: Tensor, values: Tensor) -> Tensor:
    """sum_i w_i values_i of values (n, B), added node by node so that it rounds alike whatever B is: (B,)."""
    total = torch.zeros_like(values[0])
    for weight, value in zip(weights.tolist(), values, strict=True):
        total = total + weight * value
    return total


def standard_error(u: Tensor, weights: Tensor, columns: Tensor, block: int | None) -> Tensor:
    r"""One standard error of the integral of the mean of K columns of estimates, (n, K, B): (B,).

    S_bk = sum of w_i q_ik over block b of dependent nodes, so that different blocks are independent given the past, and
    S_b their mean over k. Its variance v_b is told in two ways, both from the data at hand:

        spread of the columns    sum_k (S_bk - S_b)^2 / (K (K - 1))
        scatter along the path   (S_b - P_b)^2 / (1 + sum c^2),   P_b = sum c S the polynomial of neighbouring blocks

    K = 1: the scatter about 4 neighbours. K = 2 and 3, blocks of at most 2 nodes: ((K - 1) spread + scatter about 8)/K,
    but the spread alone at both ends of the path, where a one-sided polynomial hardly sees the block's own error. The
    two complement each other: two probes that err alike have no spread, and two that err oppositely no scatter, which
    counts where few entries of J are off the diagonal and few blocks matter. Otherwise: the spread, since four columns
    tell enough, and long blocks leave too few of them for a polynomial.

    The variance sum_b v_b is itself an estimate, with about nu = (f + 2) (sum v)^2/sum v^2 - 2 degrees of freedom, f
    those of each v_b, taken for K - 1: of the spread, and where the scatter is added, whose contrasts overlap, as was
    found to serve (Welch 1947; Satterthwaite 1946). The error is widened by
    sqrt(nu/(nu - 2)), as the deviation of Student's t is, at most twofold. NaN where one column is all of one block, or
    in fewer than five: its error cannot be told.

    Measured over mixtures in 2 to 64 dimensions: docs/likelihood.md. It is loose where the scatter also sees how the
    trace bends, which makes the error of accurate estimates at few steps too wide; with one column in long blocks
    (Hadamard rows from 4 dimensions up), where it is too wide; with two columns in one block (probes fixed along the
    path), one degree of freedom, for which no such error covers 95 %; and with the terms of xtrace, which depend on
    each other: theirs is up to a tenth too small.
    """
    n, k, _ = columns.shape
    size = n if block is None else min(block, n)
    sums = torch.stack([_block_sums(weights, columns[:, j], size) for j in range(k)], 1)
    mean = _sum(sums.transpose(0, 1)) / k
    if k == 1:
        if len(sums) < 5:
            return torch.full_like(columns[0, 0], torch.nan)
        return _widened(_scatter(u, weights, mean, size, 4), 0.0)
    spread = _sum((sums - mean[:, None]).square().transpose(0, 1)) / (k * (k - 1))
    if k > 3 or size > 2 or len(sums) < 2 * _ENDS + _NEIGHBOURS:
        return _widened(spread, k - 1.0)
    inner = slice(_ENDS, -_ENDS)
    both = spread.clone()
    both[inner] = ((k - 1) * spread[inner] + _scatter(u, weights, mean, size, _NEIGHBOURS)[inner]) / k
    agree = _sum(spread) <= _ROUNDING**2 * _sum(mean.square())
    return torch.where(agree, 0.0, _widened(both, k - 1.0))


def _widened(variances: Tensor, freedom: float) -> Tensor:
    """The root of the sum of variances (blocks, B) of so many degrees of freedom each, as `standard_error` says."""
    variance, squares = _sum(variances), _sum(variances.square())
    nu = torch.where(squares > 0, (freedom + 2) * variance.square() / squares - 2, torch.inf)
    widened = torch.where(torch.isinf(nu), 1.0, nu / (nu - 2).clamp(min=1e-9)).clamp(1.0, 4.0)
    return torch.sqrt(variance * widened)


def _block_sums(weights: Tensor, values: Tensor, size: int) -> Tensor:
    """sum of w_i values_i over each `size` nodes in turn, (ceil(n/size), B)."""
    weighted = weights.to(values.device)[:, None] * values
    return torch.stack([_sum(weighted[i : i + size]) for i in range(0, len(values), size)])


def _scatter(u: Tensor, weights: Tensor, sums: Tensor, size: int, near: int) -> Tensor:
    """How each block's sum leaves the polynomial of `near` others, as an estimate of its variance: (blocks, B)."""
    starts = range(0, len(u), size)
    mass = torch.stack([weights[i : i + size].sum() for i in starts])
    place = torch.stack([(weights[i : i + size] * u[i : i + size]).sum() for i in starts]) / mass
    values = sums / mass.to(sums.device)[:, None]
    found = []
    for b in range(len(sums)):
        first = min(max(b - near // 2, 0), len(sums) - near - 1)
        others = [j for j in range(first, first + near + 1) if j != b]
        basis = lagrange(place[others][None], place[b][None, None])[0, 0]
        rest = values[b]
        gain = 1.0
        for j, c in zip(others, basis.tolist(), strict=True):
            rest = rest - c * values[j]
            gain += c * c
        found.append((float(mass[b]) * rest).square() / gain)
    return torch.stack(found)


def _sum(values: Tensor) -> Tensor:
    """The sum over the first dimension, entry after entry."""
    total = torch.zeros_like(values[0])
    for value in values:
        total = total + value
    return total
