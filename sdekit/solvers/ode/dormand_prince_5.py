"""The pair of Dormand and Prince, 5(4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sdekit.solvers.ode.pair import ExplicitPair

__all__ = ["DormandPrince5"]


@final
@dataclass(frozen=True, repr=False)
class DormandPrince5(ExplicitPair):
    r"""Six stages of order 5, and an error of order 4 with the drift at the end: the method of MATLAB's ode45.

    Between steps, Shampine's quartic, of order 4 without another evaluation.

    Dormand & Prince 1980, doi 10.1016/0771-050X(80)90013-3; Shampine 1986, doi 10.2307/2008219.
    """

    name = "dormand_prince_5"
    order = 5.0
    evaluations_per_step = 6
    error_order = 5
    dense_order = 4
    nodes = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
    coefficients = (
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    )
    weights = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
    error_weights = (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)
    dense_weights = (
        (
            -12715105075 / 11282082432,
            0.0,
            87487479700 / 32700410799,
            -10690763975 / 1880347072,
            701980252875 / 199316789632,
            -1453857185 / 822651844,
            69997945 / 29380423,
        ),
    )
    reference = "Dormand & Prince 1980, doi 10.1016/0771-050X(80)90013-3"
