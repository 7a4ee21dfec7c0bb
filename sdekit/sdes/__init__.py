"""Stochastic differential equations as objects."""

from sdekit.sdes.base import SDE, AbstractSDE, Calculus, NoiseKind
from sdekit.sdes.calculus import as_ito, as_stratonovich
from sdekit.sdes.classical import GeometricBrownianMotion, OrnsteinUhlenbeck
from sdekit.sdes.closed_form import (
    ArctanSDE,
    CommutativeLinearSDE,
    CubicMultiplicative,
    DecayingAdditiveSDE,
    DoubleWell,
    NoncommutativeSDE,
    StiffLinear,
    TanhSDE,
)
from sdekit.sdes.diffusion import CustomDiffusionSDE, DiffusionSDE
from sdekit.sdes.flow import FlowSDE
from sdekit.sdes.langevin import OverdampedLangevin, UnderdampedLangevin
from sdekit.sdes.serialization import DIFFUSION_SDES, from_dict, named
from sdekit.sdes.torchsde_style import TorchsdeStyle
from sdekit.sdes.ve import EDMSDE, VESDE
from sdekit.sdes.vp import VPSDE, CosineVPSDE, SubVPSDE

__all__ = [
    "DIFFUSION_SDES",
    "EDMSDE",
    "SDE",
    "VESDE",
    "VPSDE",
    "AbstractSDE",
    "ArctanSDE",
    "Calculus",
    "CommutativeLinearSDE",
    "CosineVPSDE",
    "CubicMultiplicative",
    "CustomDiffusionSDE",
    "DecayingAdditiveSDE",
    "DiffusionSDE",
    "DoubleWell",
    "FlowSDE",
    "GeometricBrownianMotion",
    "NoiseKind",
    "NoncommutativeSDE",
    "OrnsteinUhlenbeck",
    "OverdampedLangevin",
    "StiffLinear",
    "SubVPSDE",
    "TanhSDE",
    "TorchsdeStyle",
    "UnderdampedLangevin",
    "as_ito",
    "as_stratonovich",
    "from_dict",
    "named",
]
