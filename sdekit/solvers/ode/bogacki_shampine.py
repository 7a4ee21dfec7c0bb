"""The pair of Bogacki and Shampine, 3(2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sdekit.solvers.ode.pair import ExplicitPair

__all__ = ["BogackiShampine"]


@final
@dataclass(frozen=True, repr=False)
class BogackiShampine(ExplicitPair):
    r"""x_s = x_t + h (2 k1 + 3 k2 + 4 k3)/9,   error h (5 k1 - 6 k2 - 8 k3 + 9 k4)/72,   k4 = f(x_s, s)

    k2 at the middle of the step and k3 at three quarters. Between steps, Hermite's cubic.

    Bogacki & Shampine 1989, doi 10.1016/0893-9659(89)90079-7.
    """

    name = "bogacki_shampine"
    order = 3.0
    evaluations_per_step = 3
    error_order = 3
    dense_order = 3
    nodes = (0.0, 1 / 2, 3 / 4)
    coefficients = ((1 / 2,), (0.0, 3 / 4))
    weights = (2 / 9, 1 / 3, 4 / 9)
    error_weights = (5 / 72, -1 / 12, -1 / 9, 1 / 8)
    reference = "Bogacki & Shampine 1989, doi 10.1016/0893-9659(89)90079-7"
