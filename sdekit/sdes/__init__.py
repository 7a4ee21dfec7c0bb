"""Stochastic differential equations as objects."""

from sdekit.sdes.base import SDE, AbstractSDE, Calculus, NoiseKind
from sdekit.sdes.classical import GeometricBrownianMotion, OrnsteinUhlenbeck
from sdekit.sdes.diffusion import CustomDiffusionSDE, DiffusionSDE
from sdekit.sdes.flow import FlowSDE
from sdekit.sdes.serialization import DIFFUSION_SDES, from_dict, named
from sdekit.sdes.ve import EDMSDE, VESDE
from sdekit.sdes.vp import VPSDE, CosineVPSDE, SubVPSDE

__all__ = [
    "DIFFUSION_SDES",
    "EDMSDE",
    "SDE",
    "VESDE",
    "VPSDE",
    "AbstractSDE",
    "Calculus",
    "CosineVPSDE",
    "CustomDiffusionSDE",
    "DiffusionSDE",
    "FlowSDE",
    "GeometricBrownianMotion",
    "NoiseKind",
    "OrnsteinUhlenbeck",
    "SubVPSDE",
    "from_dict",
    "named",
]
