r"""The importance-weighted bound from K draws, and what is known of its error.

    L_K = log (1/K) sum_k w_k,    E L_1 <= E L_2 <= … <= log P = log E w

(Burda et al. 2016, arXiv 1509.00519).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sdekit.likelihood.forward import widening

__all__ = ["Weighted", "weighted"]


@final
@dataclass(frozen=True)
class Weighted:
    """All (B,), float64.

    Attributes:
        bound: L_K, of weights that are unbiased although their logarithms have noise.
        one: L_1, the mean of the log-weights.
        std_error: of L_K, by the jackknife (widened as Student's t is); NaN for K = 1.
        gap: an estimate of log P - E L_K, 0 or more; NaN for K = 1.
        effective: 1/sum of squared weights, the effective number of draws: 1 to K.
        shares: the normalised weights, (K, B).
    """

    bound: Tensor
    one: Tensor
    std_error: Tensor
    gap: Tensor
    effective: Tensor
    shares: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """The mean of values (K, B) with these weights: (B,)."""
        return _sum(self.shares * values)


def weighted(logs: Tensor, errors: Tensor) -> Weighted:
    r"""The bound from log-weights (K, B), each with independent noise of standard error `errors`, NaN if unknown.

    With normal noise of variance s^2 in log w, E exp(log w - s^2/2) = w: these weights are unbiased, so that Jensen's
    inequality holds for them, at any s (without s^2/2 the noise would raise L_K, to beyond log P). They cost s^2/(2 K)
    of the bound. One draw's log w needs no such care. Standard errors from few probes are wide ones: then too much is
    subtracted rather than too little. An unknown error counts as none here, and the standard error is then NaN.

    The gap is the jackknife's (Quenouille 1949; Nowozin 2018, "Debiasing evidence approximations"), to order 1/K:

        gap = (K - 1) (L_K - mean_k L_-k),    about Var(w)/(2 K P^2)

    with L_-k the bound without draw k.
    """
    count = len(logs)
    one = _sum(logs) / count
    if count > 1:
        logs = logs - 0.5 * torch.where(torch.isnan(errors), 0.0, errors).square()
    total = _running(logs)[-1]
    bound, shares = total - math.log(count), torch.exp(logs - total)
    effective = 1 / _sum(shares.square())
    if count == 1:
        unknown = torch.full_like(bound, math.nan)
        return Weighted(bound, one, unknown, unknown, effective, shares)
    without = _without_one(logs)
    middle = _sum(without) / count
    gap = (count - 1) * (bound - middle).clamp(min=0)
    spread = torch.sqrt((count - 1) / count * _sum((without - middle).square()))
    error = torch.where(torch.isnan(_sum(errors)), math.nan, widening(count - 1) * spread)
    return Weighted(bound, one, error, gap, effective, shares)


def _without_one(logs: Tensor) -> Tensor:
    """The bounds from all draws but one, (K, B)."""
    last = len(logs) - 1
    before, after = _running(logs), _running(logs.flip(0)).flip(0)
    rest = [torch.logaddexp(before[k - 1], after[k + 1]) for k in range(1, last)]
    return torch.stack([after[1], *rest, before[last - 1]]) - math.log(last)


def _running(logs: Tensor) -> Tensor:
    """log of the sums of the first 1, 2, … exponentials, (K, B)."""
    sums = [logs[0]]
    for value in logs[1:]:
        sums.append(torch.logaddexp(sums[-1], value))
    return torch.stack(sums)


def _sum(values: Tensor) -> Tensor:
    """The sum over the first dimension, entry after entry."""
    total = torch.zeros_like(values[0])
    for value in values:
        total = total + value
    return total
