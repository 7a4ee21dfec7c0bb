"""Hutch++: exact on a subspace found at the node itself, Hutchinson's estimate outside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from sdekit._tensors import check_positive_integer
from sdekit.errors import ArgumentError
from sdekit.likelihood.traces.base import Divergence, Jacobian, Traces, inner, quotient
from sdekit.likelihood.traces.probes import ProbeSource
from sdekit.noise import NoiseSource

__all__ = ["HutchPP"]


@final
@dataclass(frozen=True)
class HutchPP(Divergence):
    r"""tr(Q^T J Q) + mean_k r_k^T J r_k,   Q = orth(J S),   r_k = (I - QQ^T) g_k scaled to |r_k|^2 = d - cols(Q)

    with S and g normal (Meyer et al. 2021, arXiv 2010.09649; the length of what is left of g, which is random outside
    a subspace even for signs, is made what it is in the mean, as Epperly, Tropp & Webber 2024, arXiv 2301.07825, do).
    New draws at every node.

    Args:
        probes: products at each node, 3 or more: a third for S, as many for Q, the rest for the g_k, whose spread tells
            the standard error (from one, by how much the values scatter along the path).
    """

    probes: int = 6

    name = "hutch++"

    def __post_init__(self) -> None:
        if check_positive_integer("probes", self.probes) < 3:
            raise ArgumentError(f"hutch++ needs probes of at least 3, got {self.probes}.")

    def more(self, factor: int) -> Divergence:
        return replace(self, probes=factor * self.probes)

    def products(self, d: int) -> int:
        return self.probes

    def open(self, batch: int, d: int, source: NoiseSource, device: torch.device) -> Traces:
        subspace = self.probes // 3
        if subspace >= d:
            raise ArgumentError(
                f"hutch++ with probes={self.probes} spans all {d} coordinates; take divergence='exact'."
            )
        return _HutchPPTraces(ProbeSource(source, batch, self.probes - subspace, d, device), subspace)


@final
class _HutchPPTraces(Traces):
    def __init__(self, draws: ProbeSource, subspace: int) -> None:
        self._draws, self._subspace = draws, subspace
        self._probes = draws.open()
        self.columns = draws.count - subspace

    def at(self, jacobian: Jacobian) -> Tensor:
        drawn = self._probes.next()
        sketch, outside = drawn[: self._subspace], drawn[self._subspace :]
        basis, _ = torch.linalg.qr(torch.stack([jacobian.product(s) for s in sketch], 2))
        directions = [q.contiguous() for q in basis.unbind(2)]
        inside = torch.zeros(jacobian.batch, dtype=torch.float64, device=jacobian.device)
        for q in directions:
            inside = inside + inner(q, jacobian.product(q))
        columns = []
        for g in outside:
            rest = g
            for q in directions:
                rest = rest - inner(q, g)[:, None] * q
            columns.append(inside + (jacobian.dim - len(directions)) * quotient(rest, jacobian.product(rest), rest))
        return torch.stack(columns)

    def part(self, start: int, stop: int, total: int) -> Traces:
        return _HutchPPTraces(self._draws.part(start, stop, total), self._subspace)
