"""XTrace: Hutch++ with every probe used for both parts, each left out in turn."""

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

__all__ = ["XTrace"]


@final
@dataclass(frozen=True)
class XTrace(Divergence):
    r"""The mean over i of tr(Q_i^T J Q_i) + r_i^T J r_i,   Q_i = orth(J w_j, j != i),   r_i = (I - Q_i Q_i^T) w_i

    with w_i normal vectors and r_i scaled to the length that it has in the mean, |r_i|^2 = d - cols(Q_i) (Epperly,
    Tropp & Webber 2024, arXiv 2301.07825). All bases come from one, J W = Q R, by
    Q_i Q_i^T = Q (I - s_i s_i^T) Q^T with s_i the normalised columns of R^-T. New draws at every node; what the terms
    differ by tells the standard error.

    Args:
        probes: products at each node, even, 4 or more: half of them for the w_i.
    """

    probes: int = 6

    name = "xtrace"

    def __post_init__(self) -> None:
        if check_positive_integer("probes", self.probes) < 4 or self.probes % 2:
            raise ArgumentError(f"xtrace needs an even number of probes of at least 4, got {self.probes}.")

    def more(self, factor: int) -> Divergence:
        return replace(self, probes=factor * self.probes)

    def products(self, d: int) -> int:
        return self.probes

    def open(self, batch: int, d: int, source: NoiseSource, device: torch.device) -> Traces:
        half = self.probes // 2
        if half >= d:
            raise ArgumentError(f"xtrace with probes={self.probes} spans all {d} coordinates; take divergence='exact'.")
        return _XTraces(ProbeSource(source, batch, half, d, device))


@final
class _XTraces(Traces):
    def __init__(self, draws: ProbeSource) -> None:
        self._draws, self._probes = draws, draws.open()
        self.columns = draws.count

    def at(self, jacobian: Jacobian) -> Tensor:
        w = self._probes.next()
        products = [jacobian.product(v) for v in w]
        basis, r = torch.linalg.qr(torch.stack(products, 2))
        q = [column.contiguous() for column in basis.unbind(2)]
        z = [jacobian.product(column) for column in q]
        eye = torch.eye(len(w), dtype=torch.float64, device=jacobian.device).expand(jacobian.batch, -1, -1)
        # Where J w is 0 in a direction, R has a 0 on its diagonal; any number there leaves the term as it is.
        diagonal = r.diagonal(dim1=1, dim2=2)
        r = r + torch.diag_embed(torch.where(diagonal == 0, 1.0, 0.0))
        left_out = torch.linalg.solve_triangular(r.mT, eye, upper=False)  # R^-T
        columns = []
        for i, v in enumerate(w):
            s = left_out[:, :, i] / torch.sqrt(inner(left_out[:, :, i], left_out[:, :, i]))[:, None]
            of_v = torch.stack([inner(a, v) for a in q], 1)
            p = of_v - inner(s, of_v)[:, None] * s  # (I - s s^T) Q^T v: what Q_i spans of v
            inside = torch.zeros_like(p[:, 0])
            spanned = torch.zeros_like(v)
            image = torch.zeros_like(v)
            for j, (a, b) in enumerate(zip(q, z, strict=True)):
                inside = inside + inner(a, b)
                spanned, image = spanned + p[:, j, None] * a, image + p[:, j, None] * b
            # tr(Q_i^T J Q_i) is that of Q less s^T (Q^T J Q) s.
            of_s = sum((s[:, j, None] * a for j, a in enumerate(q)), torch.zeros_like(v))
            at_s = sum((s[:, j, None] * b for j, b in enumerate(z)), torch.zeros_like(v))
            rest = v - spanned
            outside = (jacobian.dim - len(q) + 1) * quotient(rest, products[i] - image, rest)
            columns.append(inside - inner(of_s, at_s) + outside)
        return torch.stack(columns)

    def part(self, start: int, stop: int, total: int) -> Traces:
        return _XTraces(self._draws.part(start, stop, total))
