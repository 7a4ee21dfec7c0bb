"""The pair of Tsitouras, 5(4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sdekit.solvers.ode.pair import ExplicitPair

__all__ = ["Tsitouras5"]


@final
@dataclass(frozen=True, repr=False)
class Tsitouras5(ExplicitPair):
    r"""Six stages of order 5 with smaller errors than Dormand and Prince's, and an error of order 4: "Tsit5".

    Between steps, the paper's quartic, of order 4 without another evaluation. The paper prints the last weight of the
    error with the other sign.

    Tsitouras 2011, doi 10.1016/j.camwa.2011.06.002.
    """

    name = "tsitouras_5"
    order = 5.0
    evaluations_per_step = 6
    error_order = 5
    dense_order = 4
    nodes = (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0)
    coefficients = (
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
    )
    weights = (
        0.09646076681806523,
        0.01,
        0.4798896504144996,
        1.379008574103742,
        -3.290069515436081,
        2.324710524099774,
    )
    error_weights = (
        -0.001780011052225771,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    )
    dense_weights = (
        (
            -1.0530884977290216,
            0.1017,
            2.490627285651253,
            -16.548102889244902,
            47.37952196281928,
            -34.87065786149661,
            2.5,
        ),
    )
    reference = "Tsitouras 2011, doi 10.1016/j.camwa.2011.06.002"
