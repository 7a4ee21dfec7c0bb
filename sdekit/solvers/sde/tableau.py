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
from sdekit.solvers.step import StepSolver, apply_diffusion

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
    def evaluates_f(self) -> tuple[bool, ...]:
        """Whether each stage's f is in any line."""
        return tuple(any(row.uses_f(j) for row in self._rows) for j in range(len(self.nodes)))

    @cached_property
    def evaluates_g(self) -> tuple[bool, ...]:
        """Whether each stage's g is in any line."""
        return tuple(any(row.uses_g(j) for row in self._rows) for j in range(len(self.nodes)))

    @cached_property
    def uses_h(self) -> bool:
        """Whether any line has H."""
        return any(any(row.h) for row in self._rows)

    @property
    def _rows(self) -> tuple[Row, ...]:
        return (*self.stages, self.step, *(() if self.error is None else (self.error,)))


def run_tableau(
    tableau: Tableau,
    dynamics: Dynamics,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    h: float | Tensor,
    noise: Increment | None,
    first: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
    """x_s, its error where the tableau has one, and the drifts of the stages."""
    nodes, at_g = tableau.nodes, tableau.diffusion_nodes or tableau.nodes
    drifts: list[Tensor | None] = []
    diffusions: list[Tensor | None] = []

    def node(c: float) -> Tensor:
        return t if c == 0 else s if c == 1 else t + c * (s - t)

    def combined(row: Row) -> Tensor | None:
        total = None
        for weight, f in zip(row.f, drifts, strict=False):
            if weight != 0 and f is not None:
                term = f * (weight * h)
                total = term if total is None else total + term
        if noise is None:
            return total
        for j, g in enumerate(diffusions):
            if g is not None and row.uses_g(j):
                term = apply_diffusion(dynamics, g, _noise(noise, _at(row.w, j), _at(row.h, j)), x)
                total = term if total is None else total + term
        return total

    def moved(row: Row) -> Tensor:
        change = combined(row)
        return x if change is None else x + change

    for j in range(len(nodes)):
        z = x if j == 0 else moved(tableau.stages[j - 1])
        f = None
        if tableau.evaluates_f[j]:
            # A tensor of its own: a drift may give the same buffer again at its next call.
            f = first if j == 0 and first is not None else dynamics.drift(z, node(nodes[j])).clone()
        drifts.append(f)
        diffusions.append(
            dynamics.diffusion(z, node(at_g[j])).clone() if noise is not None and tableau.evaluates_g[j] else None
        )
    end = moved(tableau.step)
    error = None if tableau.error is None else combined(tableau.error)
    return end, error, drifts


def _noise(noise: Increment, w: float, h: float) -> Tensor:
    """w W + h H."""
    if h == 0 or noise.H is None:
        return noise.W if w == 1 else w * noise.W
    if w == 0:
        return noise.H if h == 1 else h * noise.H
    return w * noise.W + h * noise.H


class StochasticRungeKutta(StepSolver):
    """A method given by its `tableau`, without an error estimate."""

    tableau: ClassVar[Tableau]

    @property
    def stochastic(self) -> bool:
        return True

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        end, _, _ = run_tableau(self.tableau, dynamics, x, t, s, h, noise)
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
        end, _, _ = run_tableau(self.tableau, dynamics, x, t, s, h, noise)
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
        end, error, _ = run_tableau(self.tableau, dynamics, x, t, s, h, noise, first)
        if error is None:
            raise ArgumentError(f"solver {self.name!r} has no error estimate in its tableau.")
        return Pair(end, error)
