"""SPaRK: three Stratonovich stages with an embedded error, for any noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from sdekit.solvers.sde.tableau import EmbeddedRungeKutta, Row, Tableau

__all__ = ["SPaRK"]

_OUTER = (3 - math.sqrt(3)) / 6
_MIDDLE = math.sqrt(3) / 3
_WEIGHTS = (_OUTER, _MIDDLE, _OUTER)
_ERROR = (_OUTER - 0.5, _MIDDLE, _OUTER - 0.5)


@final
@dataclass(frozen=True, repr=False)
class SPaRK(EmbeddedRungeKutta):
    r"""z_1 = x + (f_0 h + g_0 W)/2 + sqrt3 g_0 H;   z_2 = x + f_1 h + g_1 W,   stages at t, t + h/2 and s
    x_s = x + a (f_0 + f_2) h + b f_1 h + (a (g_0 + g_2) + b g_1) W + (g_0 - g_2) H,   a = (3 - sqrt3)/6, b = sqrt3/3

    Stratonovich; strong order 1.5 for additive noise, 1 for scalar, diagonal and commutative noise, 1/2 for general
    noise, with an error 0.6 times Heun's there. The choice for steps by tolerance where the noise is general. Its error
    estimate is the difference to x + (f_0 + f_2) h/2 + (g_0 + g_2) W/2.

    Foster & Jelincic 2024, arXiv 2311.14201 ("splitting path Runge-Kutta").
    """

    name = "spark"
    strong_order = 1.0
    weak_order = 1.0
    strong_orders = (("additive", 1.5), ("general", 0.5))
    weak_orders = (("additive", 2.0),)
    error_order = 1.5
    evaluations_per_step = 3
    areas = 1
    calculus = ("stratonovich",)
    reference = "Foster & Jelincic 2024, arXiv 2311.14201"
    tableau = Tableau(
        nodes=(0.0, 0.5, 1.0),
        stages=(
            Row(f=(0.5,), w=(0.5,), h=(math.sqrt(3),)),
            Row(f=(0.0, 1.0), w=(0.0, 1.0)),
        ),
        step=Row(f=_WEIGHTS, w=_WEIGHTS, h=(1.0, 0.0, -1.0)),
        error=Row(f=_ERROR, w=_ERROR, h=(1.0, 0.0, -1.0)),
    )
