"""SlowRK: strong order 1.5 in Stratonovich's sense, for noise that commutes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sdekit.solvers.sde.tableau import Row, StochasticRungeKutta, Tableau

__all__ = ["SlowRK"]


@final
@dataclass(frozen=True, repr=False)
class SlowRK(StochasticRungeKutta):
    r"""y = x + f_0 h/2,   g_1 = g(y),   g_2 = g(y + g_1 W/2),   g_3 = g(y + g_2 W/2),   g_4 = g(y + g_3 W)
    f_5 = f(x + 3/4 f_0 h + g_3 (3/4 W + 3/2 H)),   g_6 = g(x + f_0 h + g_2 W/2)
    x_s = x + (f_0 + 2 f_5) h/3 + (g_1 + 2 g_2 + 2 g_3 + g_4) W/6 + 2 (g_3 - g_6) H

    f_5 at t + 3h/4, g_6 at s, the other g at t + h/2: two evaluations of the drift, five of the diffusion.
    Stratonovich; strong order 1.5 for additive, scalar, diagonal and commutative noise, 1/2 for general noise.

    Foster, dos Reis & Strange 2023, arXiv 2210.17543 ("strong 1.5 log-ODE Runge-Kutta"), equation 6.2.
    """

    name = "slowrk"
    strong_order = 1.5
    weak_order = 2.0
    strong_orders = (("general", 0.5),)
    weak_orders = (("general", 1.0),)
    evaluations_per_step = 2
    areas = 1
    calculus = ("stratonovich",)
    reference = "Foster, dos Reis & Strange 2023, arXiv 2210.17543"
    tableau = Tableau(
        nodes=(0.0, 0.5, 0.5, 0.5, 0.5, 0.75, 1.0),
        stages=(
            Row(f=(0.5,)),
            Row(f=(0.5,), w=(0.0, 0.5)),
            Row(f=(0.5,), w=(0.0, 0.0, 0.5)),
            Row(f=(0.5,), w=(0.0, 0.0, 0.0, 1.0)),
            Row(f=(0.75,), w=(0.0, 0.0, 0.0, 0.75), h=(0.0, 0.0, 0.0, 1.5)),
            Row(f=(1.0,), w=(0.0, 0.0, 0.5)),
        ),
        step=Row(
            f=(1 / 3, 0.0, 0.0, 0.0, 0.0, 2 / 3),
            w=(0.0, 1 / 6, 1 / 3, 1 / 3, 1 / 6),
            h=(0.0, 0.0, 0.0, 2.0, 0.0, 0.0, -2.0),
        ),
    )
