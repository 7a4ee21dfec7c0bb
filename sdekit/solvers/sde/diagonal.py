"""Methods of strong order 1.5 for scalar, additive and diagonal Ito noise, and their executor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from sdekit.dynamics import Dynamics
from sdekit.errors import ArgumentError
from sdekit.noise import Increment
from sdekit.solvers.embedded import EmbeddedSolver, Pair
from sdekit.solvers.sde.sums import Sum
from sdekit.solvers.step import beside, length, square_root

__all__ = ["SOSRI", "SRIW1", "ItoRungeKutta", "ItoTableau"]

_Rows = tuple[tuple[float, ...], ...]


@final
@dataclass(frozen=True)
class ItoTableau:
    r"""Rossler's form for one noise, or one a component:

    z_i = x + h sum_j A0_ij f_j + chi_2 sum_j B0_ij g_j,         f_i = f(z_i, t + c0_i h)
    y_i = x + h sum_j A1_ij f_j + sqrt|h| sum_j B1_ij g_j,       g_i = g(y_i, t + c1_i h)
    x_s = x + h sum_i alpha_i f_i + sum_i (beta1_i W + beta2_i chi_1 + beta3_i chi_2 + beta4_i chi_3) g_i

    chi_1 = (W^2 - |h|)/(2 sqrt|h|),   chi_2 = W/2 + H,   chi_3 = (W^3 - 3 |h| W)/(6 |h|)

    The rows of A0, B0, A1 and B1 are those of the second stage on; the nodes are the row sums of A0 and A1.
    """

    a0: _Rows
    b0: _Rows
    a1: _Rows
    b1: _Rows
    alpha: tuple[float, ...]
    beta1: tuple[float, ...]
    beta2: tuple[float, ...]
    beta3: tuple[float, ...]
    beta4: tuple[float, ...]


class ItoRungeKutta(EmbeddedSolver):
    """The executor. The error estimate is what the step has beyond the method of order 1 inside it:

    |h (sum_i alpha_i f_i - f_0)| + |sum_i (beta3_i chi_2 + beta4_i chi_3) g_i|

    the two in absolute value, so that they cannot cancel.
    """

    tableau: ClassVar[ItoTableau]
    strong_order = 1.5
    weak_order = 1.5  # on diagonal noise, exactly measured by `sdekit verify`; elsewhere 2 is stated
    weak_orders = (("additive", 2.0),)
    error_order = 1.5
    evaluations_per_step = 4
    areas = 1
    calculus = ("ito",)
    noise_kinds = ("scalar", "additive", "diagonal")

    @property
    def stochastic(self) -> bool:
        return True

    def step_formula(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, h: float | Tensor, noise: Increment | None
    ) -> Tensor:
        low, high, _ = self._parts(dynamics, x, t, s, h, noise, None)
        return low + high

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
        low, high, drifts = self._parts(dynamics, x, t, s, h, noise, first)
        by_drift = Sum(dynamics, x)
        for i, (f, weight) in enumerate(zip(drifts, self.tableau.alpha, strict=False)):
            by_drift.add_drift(f, weight - (i == 0), h)
        return Pair(low + high, by_drift.value.abs() + high.abs())

    def _parts(
        self,
        dynamics: Dynamics,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        h: float | Tensor,
        noise: Increment | None,
        first: Tensor | None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The step but for the terms in chi_2 and chi_3, these terms, and the drifts."""
        if noise is None or noise.H is None:
            raise ArgumentError(f"solver {self.name!r} needs W and H of its step.")
        table, w = self.tableau, noise.W
        of_noise = beside(h, w)
        span, root = length(of_noise), square_root(of_noise)
        chi1, chi2 = (w * w - span) / (2 * root), 0.5 * w + noise.H
        chi3 = w * (w * w / span - 3) / 6

        def at(row: tuple[float, ...]) -> Tensor:
            c = sum(row)
            return t if c == 0 else s if c == 1 else t + c * (s - t)

        def start(row: tuple[float, ...]) -> Sum:
            total = Sum(dynamics, x, x)
            for f, weight in zip(drifts, row, strict=False):
                total.add_drift(f, weight, h)
            return total

        drifts = [dynamics.drift(x, t).clone() if first is None else first]
        diffusions = [dynamics.diffusion(x, t).clone()]
        for a0, b0, a1, b1 in zip(table.a0, table.b0, table.a1, table.b1, strict=True):
            z, y = start(a0), start(a1)
            for g, of_z, of_y in zip(diffusions, b0, b1, strict=True):
                z.add_noise(g, chi2, of_z)
                if dynamics.noise_dim is None:  # a matrix is additive here, and does not see y
                    y.add_drift(g, of_y, root)
            if not any(a0) and not any(b0):
                drifts.append(drifts[0])  # at (x, t) again
            elif _used(table, len(drifts)):
                drifts.append(dynamics.drift(z.value, at(a0)).clone())
            diffusions.append(dynamics.diffusion(y.value, at(a1)).clone())
        low, high = start(table.alpha), Sum(dynamics, x)
        for i, g in enumerate(diffusions):
            low.add_noise(g, w, table.beta1[i])
            low.add_noise(g, chi1, table.beta2[i])
            high.add_noise(g, chi2, table.beta3[i])
            high.add_noise(g, chi3, table.beta4[i])
        return low.value, high.value, drifts


def _used(table: ItoTableau, i: int) -> bool:
    """Whether drift i is in any line."""
    later = [row[i] for rows in (table.a0, table.a1) for row in rows if len(row) > i]
    return table.alpha[i] != 0 or any(later)


@final
@dataclass(frozen=True, repr=False)
class SRIW1(ItoRungeKutta):
    r"""Rossler's SRIW1 in the form of `ItoTableau`. Of its four drifts the step uses two; it stays inside [t, s].

    Rossler 2010, "Runge-Kutta methods for the strong approximation of solutions of SDEs".
    """

    name = "sriw1"
    evaluations_per_step = 2
    reference = "Rossler 2010"
    tableau = ItoTableau(
        a0=((3 / 4,), (0.0, 0.0), (0.0, 0.0, 0.0)),
        b0=((3 / 2,), (0.0, 0.0), (0.0, 0.0, 0.0)),
        a1=((1 / 4,), (1.0, 0.0), (0.0, 0.0, 1 / 4)),
        b1=((1 / 2,), (-1.0, 0.0), (-5.0, 3.0, 1 / 2)),
        alpha=(1 / 3, 2 / 3, 0.0, 0.0),
        beta1=(-1.0, 4 / 3, 2 / 3, 0.0),
        beta2=(-1.0, 4 / 3, -1 / 3, 0.0),
        beta3=(2.0, -4 / 3, -2 / 3, 0.0),
        beta4=(-2.0, 5 / 3, -2 / 3, 1.0),
    )


@final
@dataclass(frozen=True, repr=False)
class SOSRI(ItoRungeKutta):
    r"""Four drift stages, with coefficients that make its region of stability large: the choice for steps by tolerance.

    Its stages lie at -0.04, 0.79 and 3.75 of the step: where the drift is not defined past the end of the solve, take
    SRIW1.

    Rackauckas & Nie 2020, arXiv 1804.04344.
    """

    name = "sosri"
    needs = ("time past the end",)
    reference = "Rackauckas & Nie 2020, arXiv 1804.04344"
    tableau = ItoTableau(
        a0=(
            (-0.04199224421316468,),
            (2.842612915017106, -2.0527723684000727),
            (4.338237071435815, -2.8895936137439793, 2.3017575594644466),
        ),
        b0=(
            (-0.21641093549612528,),
            (1.5336352863679572, 0.26066223492647056),
            (-1.0536037558179159, 1.7015284721089472, -0.20725685784180017),
        ),
        a1=(
            (0.26204282091330466,),
            (0.20903646383505375, -0.1502377115150361),
            (0.05836595312746999, 0.6149440396332373, 0.08535117634046772),
        ),
        b1=(
            (-0.5119011827621657,),
            (2.67767339866713, -4.9395031322250995),
            (0.15580956238299215, 3.2361551006624674, -1.4223118283355949),
        ),
        alpha=(1.140099274172029, -0.6401334255743456, 0.4736296532772559, 0.026404498125060714),
        beta1=(-1.8453464565104432, 2.688764531100726, -0.2523866501071323, 0.40896857551684956),
        beta2=(0.4969658141589478, -0.5771202869753592, -0.12919702470322217, 0.2093514975196336),
        beta3=(2.8453464565104425, -2.688764531100725, 0.2523866501071322, -0.40896857551684945),
        beta4=(0.11522663875443433, -0.57877086147738, 0.2857851028163886, 0.17775911990655704),
    )
