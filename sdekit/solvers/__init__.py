"""Solvers: how a state is moved along dynamics. Choose by name (`names`, `get`) or by class."""

from sdekit.solvers.base import AdaptiveSolver, Observers, Problem, Solver, StepInfo
from sdekit.solvers.bridges.scipy_ode import ScipyODE
from sdekit.solvers.bridges.torchsde_steps import TorchsdeSDE
from sdekit.solvers.catalogue import Entry, describe, entries, get, names, register, resolve
from sdekit.solvers.correctors import AnnealedLangevin, Corrector, Langevin
from sdekit.solvers.diffusion.ancestral import Ancestral
from sdekit.solvers.diffusion.base import TableSolver
from sdekit.solvers.diffusion.ddim import DDIM
from sdekit.solvers.diffusion.recommended import Recommended
from sdekit.solvers.diffusion.reverse_diffusion import ReverseDiffusion
from sdekit.solvers.diffusion.tabulated import Tabulated, tabulate
from sdekit.solvers.ecosystem import Recipe, from_diffusers, recipe
from sdekit.solvers.fixed_step import FixedStepSolver, HandState
from sdekit.solvers.ode.euler import Euler
from sdekit.solvers.ode.heun import Heun
from sdekit.solvers.ode.rk4 import RK4
from sdekit.solvers.predictor_corrector import PredictorCorrector
from sdekit.solvers.recommended import recommended
from sdekit.solvers.sde.euler_maruyama import EulerMaruyama
from sdekit.solvers.solution import Solution, SolveState
from sdekit.solvers.step import StepSolver
from sdekit.solvers.table import Table, Updates

__all__ = [
    "DDIM",
    "RK4",
    "AdaptiveSolver",
    "Ancestral",
    "AnnealedLangevin",
    "Corrector",
    "Entry",
    "Euler",
    "EulerMaruyama",
    "FixedStepSolver",
    "HandState",
    "Heun",
    "Langevin",
    "Observers",
    "PredictorCorrector",
    "Problem",
    "Recipe",
    "Recommended",
    "ReverseDiffusion",
    "ScipyODE",
    "Solution",
    "SolveState",
    "Solver",
    "StepInfo",
    "StepSolver",
    "Table",
    "TableSolver",
    "Tabulated",
    "TorchsdeSDE",
    "Updates",
    "describe",
    "entries",
    "from_diffusers",
    "get",
    "names",
    "recipe",
    "recommended",
    "register",
    "resolve",
    "tabulate",
]
