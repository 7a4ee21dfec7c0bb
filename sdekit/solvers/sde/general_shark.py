"""ShARK for noise of any kind, in Stratonovich's sense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sdekit.solvers.sde.tableau import Row, StochasticRungeKutta, Tableau

__all__ = ["GeneralShARK"]


@final
@dataclass(frozen=True, repr=False)
class GeneralShARK(StochasticRungeKutta):
    r"""z_1 = x + g_0 H;   z_2 = x + 5/6 (f_1 h + g_1 W) + g_0 H,   f_1, g_1 at (z_1, t),   f_2, g_2 at (z_2, t + 5h/6)
    x_s = x + (2/5 f_1 + 3/5 f_2) h + (2/5 g_1 + 3/5 g_2) W + 6/5 (g_1 - g_2) H

    Two drift evaluations, three of the diffusion. Stratonovich; strong order 1.5 for additive noise, 1 for scalar,
    diagonal and commutative noise, 1/2 for general noise.

    Foster, dos Reis & Strange 2023, arXiv 2210.17543, equation 6.1.
    """

    name = "general_shark"
    strong_order = 1.0
    weak_order = 1.0
    strong_orders = (("additive", 1.5), ("general", 0.5))
    weak_orders = (("additive", 2.0),)
    evaluations_per_step = 2
    areas = 1
    calculus = ("stratonovich",)
    reference = "Foster, dos Reis & Strange 2023, arXiv 2210.17543"
    tableau = Tableau(
        nodes=(0.0, 0.0, 5 / 6),
        stages=(
            Row(h=(1.0,)),
            Row(f=(0.0, 5 / 6), w=(0.0, 5 / 6), h=(1.0,)),
        ),
        step=Row(f=(0.0, 2 / 5, 3 / 5), w=(0.0, 2 / 5, 3 / 5), h=(0.0, 6 / 5, -6 / 5)),
    )
