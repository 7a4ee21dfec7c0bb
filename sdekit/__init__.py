"""sdekit: solve SDEs and sample diffusion models with any solver, by name; compare them; get likelihoods."""

from sdekit import grids, models, noise, sdes, solvers, targets
from sdekit.dynamics import ODE, ForwardSDE, ProbabilityFlow, ReverseSDE
from sdekit.experiments.compare import compare
from sdekit.latents import decode, encode, interpolate
from sdekit.likelihood import log_likelihood
from sdekit.models import ScoreModel
from sdekit.noise import BrownianPath
from sdekit.sampling import sample, solve
from sdekit.sdes import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    CosineVPSDE,
    CustomDiffusionSDE,
    DiffusionSDE,
    FlowSDE,
    GeometricBrownianMotion,
    OrnsteinUhlenbeck,
    SubVPSDE,
)

__version__ = "0.1.0"

__all__ = [
    "EDMSDE",
    "ODE",
    "SDE",
    "VESDE",
    "VPSDE",
    "BrownianPath",
    "CosineVPSDE",
    "CustomDiffusionSDE",
    "DiffusionSDE",
    "FlowSDE",
    "ForwardSDE",
    "GeometricBrownianMotion",
    "OrnsteinUhlenbeck",
    "ProbabilityFlow",
    "ReverseSDE",
    "ScoreModel",
    "SubVPSDE",
    "compare",
    "decode",
    "encode",
    "grids",
    "interpolate",
    "log_likelihood",
    "models",
    "noise",
    "sample",
    "sdes",
    "solve",
    "solvers",
    "targets",
]
