r"""The integral of tr J_D over u = ln sigma~ from its values at nodes, and how much of it is noise of the probes.

Between each two nodes the values are interpolated by the polynomial through the nearest six, and that is integrated.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sdekit.solvers.diffusion.weights import lagrange

__all__ = ["integral", "quadrature_weights", "standard_error"]

_ORDER = 6
_GAUSS = np.polynomial.legendre.leggauss(_ORDER)


def quadrature_weights(u: Tensor, order: int = _ORDER) -> Tensor:
    """The weights of the integral over u of values at the nodes u, float64 (n,), strictly monotone."""
    n = len(u)
    points = min(order, n)
    weights = torch.zeros(n, dtype=torch.float64, device="cpu")
    places = torch.from_numpy(0.5 * (_GAUSS[0] + 1))
    lengths = torch.from_numpy(0.5 * _GAUSS[1])
    start = torch.arange(n - 1, device="cpu")
    first = (start - (points // 2 - 1)).clamp(0, n - points)
    near = first[:, None] + torch.arange(points, device="cpu")
    h = u.diff()
    at = u[:-1, None] + h[:, None] * places
    shares = (h[:, None, None] * lengths[None, :, None] * lagrange(u[near], at)).sum(1)
    weights.index_add_(0, near.reshape(-1), shares.reshape(-1))
    return weights


def integral(weights: Tensor, values: Tensor) -> Tensor:
    """sum_i w_i values_i of values (n, B), added node by node so that it rounds alike whatever B is: (B,)."""
    total = torch.zeros_like(values[0])
    for weight, value in zip(weights.tolist(), values, strict=True):
        total = total + weight * value
    return total


def standard_error(u: Tensor, weights: Tensor, columns: Tensor, block: int | None) -> Tensor:
    r"""One standard error of the integral of the mean of K columns of estimates, (n, K, B): (B,).

    S_bk = sum of w_i q_ik over block b of dependent nodes, so that different blocks are independent given the past:

        variance = sum_b v_b,   v_b = sum_k (S_bk - mean_k S_bk)^2 / (K (K - 1))

    For K = 1 the S_b are compared with the cubic through their neighbours' values instead: their scatter is taken for
    noise. The variance is itself an estimate, with about nu = (K + 1) (sum v)^2/sum v^2 - 2 degrees of freedom (Welch
    1947; Satterthwaite 1946); the error is widened by sqrt(nu/(nu - 2)), as the deviation of Student's t is, at most
    twofold. NaN where one column is all of one block: its error cannot be told.
    """
    n, k, _ = columns.shape
    size = n if block is None else min(block, n)
    sums = torch.stack([_block_sums(weights, columns[:, j], size) for j in range(k)], 1)
    if k == 1:
        if len(sums) < 5:
            return torch.full_like(columns[0, 0], torch.nan)
        variances, extra = _scatter(u, weights, sums[:, 0], size), 2.0
    else:
        mean = _sum(sums.transpose(0, 1)) / k
        variances = _sum((sums - mean[:, None]).square().transpose(0, 1)) / (k * (k - 1))
        extra = k + 1.0
    variance, squares = _sum(variances), _sum(variances.square())
    nu = torch.where(squares > 0, extra * variance.square() / squares - 2, torch.inf)
    widened = torch.where(torch.isinf(nu), 1.0, nu / (nu - 2).clamp(min=1e-9)).clamp(1.0, 4.0)
    return torch.sqrt(variance * widened)


def _block_sums(weights: Tensor, values: Tensor, size: int) -> Tensor:
    """sum of w_i values_i over each `size` nodes in turn, (ceil(n/size), B)."""
    weighted = weights.to(values.device)[:, None] * values
    return torch.stack([_sum(weighted[i : i + size]) for i in range(0, len(values), size)])


def _scatter(u: Tensor, weights: Tensor, sums: Tensor, size: int) -> Tensor:
    """Estimates of the variance of each block's sum, (blocks, B), from how it leaves the cubic of its neighbours."""
    starts = range(0, len(u), size)
    mass = torch.stack([weights[i : i + size].sum() for i in starts])
    place = torch.stack([(weights[i : i + size] * u[i : i + size]).sum() for i in starts]) / mass
    values = sums / mass.to(sums.device)[:, None]
    found = []
    for b in range(len(sums)):
        first = min(max(b - 2, 0), len(sums) - 5)
        others = [j for j in range(first, first + 5) if j != b]
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
