r"""Stochastic Runge-Kutta methods as declarations: a tableau in h, W and H, and the one executor of such tableaus.

    z_i = x_t + h sum_j a_ij f_j + sum_j (aw_ij W + ah_ij H) g_j,    f_j = f(z_j, t + c_j h),   g_j = g(z_j, t + cg_j h)
    x_s = x_t + h sum_j b_j f_j + sum_j (bw_j W + bh_j H) g_j

H is the space-time Levy area of the step, so that its integral int (W_r - W_t) dr is h (W/2 + H). An error estimate has
the form of the last line, with e in place of b. What no line uses is not evaluated.

Rossler 2010 (SRA); Foster, dos Reis & Strange 2023, arXiv 2210.17543 (in W and H).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.errors import ArgumentError
from sdekit.noise import Increment
from sdekit.solvers.embedded import EmbeddedSolver, Pair
from sdekit.solvers.sde.sums import Sum
from sdekit.solvers.step import StepSolver

__all__ = ["EmbeddedRungeKutta", "Row", "StochasticRungeKutta", "Tableau"]


@final
@dataclass(frozen=True)
class Row:
    """The weights of one line: of h f_j, W g_j and H g_j, for j = 0, 1, …; what is left out is 0."""

    f: tuple[float, ...] = ()
    w: tuple[float, ...] = ()
    h: tuple[float, ...] = ()

    def uses_f(self, j: int) -> bool:
        """Whether f_j is in it."""
        return _at(self.f, j) != 0

    def uses_g(self, j: int) -> bool:
        """Whether g_j is in it."""
        return _at(self.w, j) != 0 or _at(self.h, j) != 0


def _at(weights: tuple[float, ...], j: int) -> float:
    return weights[j] if j < len(weights) else 0.0


@dataclass(frozen=True)
class Tableau:
    """Stages, the step, and its error.

    Attributes:
        nodes: c of each stage; the first is 0.
        stages: the rows of z_1, z_2, …; z_0 is x.
        step: the row of x_s.
        error: the row of the error estimate, if there is one.
        diffusion_nodes: cg, where they are not c: for additive noise, whose g does not see z.
    """

    nodes: tuple[float, ...]
    stages: tuple[Row, ...]
    step: Row
    error: Row | None = None
    diffusion_nodes: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.stages) != len(self.nodes) - 1:
            raise ArgumentError(f"a tableau of {len(self.nodes)} nodes has a row for each but the first.")

    @cached_property
    def uses_h(self) -> bool:
        """Whether any line has H."""
        return any(any(row.h) for row in self.rows(True))

    def rows(self, with_error: bool) -> tuple[Row, ...]:
        """All lines, that of the error where it is asked for."""
        return (*self.stages, self.step, *((self.error,) if with_error and self.error is not None else ()))


def run_tableau(
    tableau: Tableau,
    dynamics: Dynamics,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    h: float | Tensor,
    noise: Increment | None,
    first: Tensor | None = None,
    *,
    with_error: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """x_s, and its error where it is asked for."""
    drifts: list[Tensor | None] = []
    diffusions: list[Tensor | float | None] = []
    constant = dynamics.constant_diffusion if noise is not None else None
    rows = tableau.rows(with_error)
    at_g = tableau.diffusion_nodes or tableau.nodes

    times: dict[float, Tensor] = {0.0: t, 1.0: s}

    def node(c: float) -> Tensor:
        if c not in times:
            times[c] = t + c * (s - t)
        return times[c]

    def combined(row: Row, start: Tensor | None) -> Tensor:
        total = Sum(dynamics, x, start)
        for weight, f in zip(row.f, drifts, strict=False):
            if f is not None:
                total.add_drift(f, weight, h)
        if noise is None:
            return total.value
        if constant is not None:  # all g_j are one number
            total.add_noise(constant, noise.W, sum(row.w))
            if noise.H is not None:
                total.add_noise(constant, noise.H, sum(row.h))
            return total.value
        for j, g in enumerate(diffusions):
            if g is not None and row.uses_g(j):
                total.add_noise(g, noise.W, _at(row.w, j))
                if noise.H is not None:
                    total.add_noise(g, noise.H, _at(row.h, j))
        return total.value

    for j, c in enumerate(tableau.nodes):
        z = x if j == 0 else combined(tableau.stages[j - 1], x)
        f: Tensor | None = None
        if any(row.uses_f(j) for row in rows):
            # A tensor of its own: a drift may give the same buffer again at its next call.
            f = first if j == 0 and first is not None else dynamics.drift(z, node(c)).clone()
        drifts.append(f)
        g: Tensor | float | None = None
        if noise is not None and constant is None and any(row.uses_g(j) for row in rows):
            g = dynamics.diffusion(z, node(at_g[j])).clone()
        diffusions.append(g)
    end = combined(tableau.step, x)
    if end is x:
        end = x.clone()
    if not with_error:
        return end, None
    if tableau.error is None:
        raise ArgumentError("this tableau has no error estimate.")
    return end, combined(tableau.error, None)


class StochasticRungeKutta(StepSolver):
    """A method given by its `tableau`, without an error estimate."""

    tableau: ClassVar[Tableau]

    @property
    def stochastic(self) -> bool:
        return True

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        end, _ = run_tableau(self.tableau, dynamics, x, t, s, h, noise)
        return end


class EmbeddedRungeKutta(EmbeddedSolver):
    """A method given by its `tableau`, with an error estimate."""

    tableau: ClassVar[Tableau]

    @property
    def stochastic(self) -> bool:
        return True

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        end, _ = run_tableau(self.tableau, dynamics, x, t, s, h, noise)
        return end

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
        end, error = run_tableau(self.tableau, dynamics, x, t, s, h, noise, first, with_error=True)
        if error is None:
            raise ArgumentError(f"solver {self.name!r} has no error estimate in its tableau.")
        return Pair(end, error)
