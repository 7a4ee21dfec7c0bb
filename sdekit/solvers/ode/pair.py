"""Embedded explicit Runge-Kutta pairs as declarations: a tableau, its error, and an interpolant over the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.noise import Increment
from sdekit.solvers.embedded import EmbeddedSolver, Pair
from sdekit.solvers.ode.base import ExplicitRungeKutta, combination

__all__ = ["ExplicitPair"]


@dataclass(frozen=True, repr=False)
class ExplicitPair(ExplicitRungeKutta, EmbeddedSolver):
    r"""An explicit Runge-Kutta method with an error that takes the drift at the end of the step too.

        error = h sum_i e_i k_i,   i = 1 … stages + 1,   k_(stages + 1) = f(x_s, s)

    That drift is the next step's first: a step chosen by its error costs as many evaluations as one of a grid, which
    has no use for the error and does not make it. With fixed steps on a model's flow it is a table in `variable`;
    steps chosen by the error are in t.

    Between steps, with theta = (r - t)/h and the values of both ends and their drifts,

        x_r = x_t + theta (F0 + (1 - theta) (F1 + theta (F2 + (1 - theta) (F3 + theta (F4 + …)))))
        F0 = x_s - x_t,   F1 = h k_1 - F0,   F2 = 2 F0 - h (k_1 + k_(stages + 1)),   F_(3 + j) = h sum_i d_ji k_i:

    Hermite's cubic and what the pair adds to it: its `dense_weights` d are of the stages, the drift at the end and
    those of further stages (`dense_nodes`, `dense_coefficients`) that only an interpolant needs.

    A pair with `cruder_weights` has a second error of lower order, and joins the two (`Controller.error`).

    Hairer, Norsett & Wanner 1993, section II.6.
    """

    error_weights: ClassVar[tuple[float, ...]]
    cruder_weights: ClassVar[tuple[float, ...]] = ()
    dense_weights: ClassVar[tuple[tuple[float, ...], ...]] = ()
    dense_nodes: ClassVar[tuple[float, ...]] = ()
    dense_coefficients: ClassVar[tuple[tuple[float, ...], ...]] = ()
    first_is_last = True

    @property
    def dense_evaluations(self) -> int:  # type: ignore[override]
        return len(self.dense_nodes)

    def pair(
        self,
        dynamics: Dynamics,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        h: float | Tensor,
        noise: Increment | None,
        first: Tensor | None = None,
    ) -> Pair:
        """The step with its error; `Pair.stages` holds h k_i, the one at the end included."""
        moves = self.moves(dynamics, x, t, s, h, first)
        y = x + combination(self.weights, moves)
        last = dynamics.drift(y, s)
        moves.append(h * last)
        error = combination(self.error_weights, moves)
        if self.error_weights[-1] == 0:
            # A drift that is not finite at the end is to be found out now, while the step can be made shorter.
            error = error + 0 * moves[-1]
        cruder = combination(self.cruder_weights, moves) if self.cruder_weights else None
        return Pair(y, error, last, cruder, tuple(moves))

    def interpolant(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, pair: Pair
    ) -> tuple[Tensor, ...]:
        moves = list(pair.stages)
        start, stop = moves[0], moves[-1]
        for c, row in zip(self.dense_nodes, self.dense_coefficients, strict=True):
            moves.append(h * dynamics.drift(x + combination(row, moves), t + c * (s - t)))
        change = pair.x - x
        hermite = (change, start - change, 2 * change - (start + stop))
        return (*hermite, *(combination(row, moves) for row in self.dense_weights))
