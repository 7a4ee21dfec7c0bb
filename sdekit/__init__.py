"""sdekit: solve SDEs and sample diffusion models with any solver, by name; compare them; get likelihoods."""

from sdekit import grids, models, noise, sdes, solvers, targets
from sdekit.classification import classify
from sdekit.dynamics import ODE, ForwardSDE, ProbabilityFlow, ReverseSDE
from sdekit.ensembles import Ensemble, ensemble
from sdekit.experiments.compare import compare
from sdekit.latents import decode, encode, interpolate, round_trip
from sdekit.likelihood import discrete_log_likelihood, log_likelihood
from sdekit.models import ScoreModel
from sdekit.multilevel_monte_carlo import Multilevel, multilevel
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
    "Ensemble",
    "FlowSDE",
    "ForwardSDE",
    "GeometricBrownianMotion",
    "Multilevel",
    "OrnsteinUhlenbeck",
    "ProbabilityFlow",
    "ReverseSDE",
    "ScoreModel",
    "SubVPSDE",
    "classify",
    "compare",
    "decode",
    "discrete_log_likelihood",
    "encode",
    "ensemble",
    "grids",
    "interpolate",
    "log_likelihood",
    "models",
    "multilevel",
    "noise",
    "round_trip",
    "sample",
    "sdes",
    "solve",
    "solvers",
    "targets",
]
