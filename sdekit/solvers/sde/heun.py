"""Two-stage Stratonovich methods: Heun's, the midpoint rule and Euler-Heun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sdekit.solvers.sde.tableau import EmbeddedRungeKutta, Row, StochasticRungeKutta, Tableau

__all__ = ["EulerHeun", "StochasticHeun", "StochasticMidpoint"]


class _TwoStages(EmbeddedRungeKutta):
    """What Heun's method and the midpoint rule declare alike."""

    strong_order = 1.0
    weak_order = 1.0
    strong_orders = (("general", 0.5),)
    error_order = 1.5
    evaluations_per_step = 2
    calculus = ("stratonovich",)


@final
@dataclass(frozen=True, repr=False)
class StochasticHeun(_TwoStages):
    r"""y = x + f(x, t) h + g(x, t) W;   x_s = x + (f(x, t) + f(y, s)) h/2 + (g(x, t) + g(y, s)) W/2

    Stratonovich; strong order 1 for additive, scalar, diagonal and commutative noise, 1/2 for general noise. Its error
    estimate is the difference to y.

    Rumelin 1982; Burrage, Burrage & Tian 2004.
    """

    name = "stochastic_heun"
    reference = "Rumelin 1982"
    tableau = Tableau(
        nodes=(0.0, 1.0),
        stages=(Row(f=(1.0,), w=(1.0,)),),
        step=Row(f=(0.5, 0.5), w=(0.5, 0.5)),
        error=Row(f=(-0.5, 0.5), w=(-0.5, 0.5)),
    )


@final
@dataclass(frozen=True, repr=False)
class StochasticMidpoint(_TwoStages):
    r"""y = x + f(x, t) h/2 + g(x, t) W/2;   x_s = x + f(y, t + h/2) h + g(y, t + h/2) W

    Stratonovich; strong order 1 for additive, scalar, diagonal and commutative noise, 1/2 for general noise. Its error
    estimate is the difference to Euler's step.

    Kloeden & Platen 1992, section 11.1; Foster, dos Reis & Strange 2023, arXiv 2210.17543.
    """

    name = "stochastic_midpoint"
    reference = "Kloeden & Platen 1992, section 11.1"
    tableau = Tableau(
        nodes=(0.0, 0.5),
        stages=(Row(f=(0.5,), w=(0.5,)),),
        step=Row(f=(0.0, 1.0), w=(0.0, 1.0)),
        error=Row(f=(-1.0, 1.0), w=(-1.0, 1.0)),
    )


@final
@dataclass(frozen=True, repr=False)
class EulerHeun(StochasticRungeKutta):
    r"""y = x + g(x, t) W;   x_s = x + f(x, t) h + (g(x, t) + g(y, s)) W/2

    Stratonovich; one drift evaluation. Strong order 1 for additive, scalar, diagonal and commutative noise, 1/2 for
    general noise; weak order 1.

    Kloeden & Platen 1992, section 8.3; Gard 1988.
    """

    name = "euler_heun"
    strong_order = 1.0
    weak_order = 1.0
    strong_orders = (("general", 0.5),)
    evaluations_per_step = 1
    calculus = ("stratonovich",)
    reference = "Gard 1988"
    tableau = Tableau(
        nodes=(0.0, 1.0),
        stages=(Row(w=(1.0,)),),
        step=Row(f=(1.0,), w=(0.5, 0.5)),
    )
