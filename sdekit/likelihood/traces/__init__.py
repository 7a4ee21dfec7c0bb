r"""Traces of Jacobians at the nodes of a path: exact, or estimated from a few vector-Jacobian products.

    exact         tr J = sum_i e_i^T J e_i                              d products
    hutchinson    tr J ~ v^T J v,  E[v v^T] = I                         one product a probe
    hutch++       the trace on a subspace, and Hutchinson outside it    three or more
    xtrace        the same, each probe in turn left out                 four or more

A *divergence* is what the user chooses, an immutable object. *Traces* are a divergence opened for one path.
"""

from sdekit.likelihood.traces.base import Divergence, Jacobian, JoinedTraces, Traces
from sdekit.likelihood.traces.control import GaussianControl
from sdekit.likelihood.traces.exact import Exact
from sdekit.likelihood.traces.hutchinson import Along, Distribution, Hutchinson
from sdekit.likelihood.traces.hutchpp import HutchPP
from sdekit.likelihood.traces.xtrace import XTrace

__all__ = [
    "DIVERGENCES",
    "Along",
    "Distribution",
    "Divergence",
    "Exact",
    "GaussianControl",
    "HutchPP",
    "Hutchinson",
    "Jacobian",
    "JoinedTraces",
    "Traces",
    "XTrace",
]

DIVERGENCES: dict[str, type[Divergence]] = {d.name: d for d in (Exact, Hutchinson, HutchPP, XTrace)}
