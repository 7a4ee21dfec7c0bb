r"""What the errors of the state along its path make of log p, from the evaluations at the nodes alone.

A solver that steps from x~_i to x~_{i+1} leaves the flow, dx~/du = sigma~ eps, by

    delta_i = x~_{i+1} - x~_i - int sigma~ eps du        over the step, from eps at the nodes, by the trace's quadrature

The flow carries log p~ along, and the gradient of log p~ is the score, s~ = -eps/sigma~. So, to first order,

    log p is off by sum_i s~_{i+1} . delta_i

(a dual-weighted residual, Becker & Rannacher 2001, doi 10.1017/S0962492901000010, whose dual solution is the score; for
the flow, ours). Where a solve is unstable at its steps, half the steps may err alike; this is then too large, not too
small. That a network's eps is the gradient of no density makes it an estimate, and no correction.
"""

from __future__ import annotations

import math
from typing import final

from torch import Tensor

from sdekit.likelihood.quadrature import interval_weights
from sdekit.likelihood.traces.base import inner

__all__ = ["Defect"]


@final
class Defect:
    """The sum above, node after node; the states of no more nodes are kept than one interval's quadrature takes.

    Args:
        u: ln sigma~ at the nodes, (n,).
    """

    def __init__(self, u: Tensor) -> None:
        self._u = u.tolist()
        near, weights = interval_weights(u)
        self._last, self._weights = near[:, -1].tolist(), weights.tolist()
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._node = 0
        self._total: Tensor | None = None

    def note(self, x: Tensor, noise: Tensor) -> None:
        """x~ and eps at the next node, both (B, d) in float64."""
        level = math.exp(self._u[self._node])
        count = len(self._weights[0])
        self._kept = [*self._kept[-count + 1 :], (x, level * noise)]
        first = self._node - len(self._kept) + 1
        for i, last in enumerate(self._last):
            if last == self._node:
                self._add(i, i - first)
        self._node += 1

    def total(self) -> Tensor:
        """How far log p is off, (B,); of all nodes."""
        assert self._total is not None  # all nodes were noted
        return self._total

    def _add(self, interval: int, here: int) -> None:
        """The term of an interval, whose left node is kept at `here`."""
        (before, _), (after, velocity) = self._kept[here], self._kept[here + 1]
        delta = after - before
        for weight, (_, v) in zip(self._weights[interval], self._kept, strict=True):
            delta = delta - weight * v
        # s~ = -eps/sigma~ = -velocity/sigma~^2
        term = -math.exp(-2 * self._u[interval + 1]) * inner(velocity, delta)
        self._total = term if self._total is None else self._total + term
