"""Solvers: how a state is moved along dynamics. Choose by name (`names`, `get`) or by class."""

from sdekit.solvers.adaptive import Adaptive
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
from sdekit.solvers.embedded import EmbeddedSolver, Pair
from sdekit.solvers.fixed_step import FixedStepSolver, HandState
from sdekit.solvers.ode.bogacki_shampine import BogackiShampine
from sdekit.solvers.ode.dormand_prince_5 import DormandPrince5
from sdekit.solvers.ode.dormand_prince_8 import DormandPrince8
from sdekit.solvers.ode.euler import Euler
from sdekit.solvers.ode.heun import Heun
from sdekit.solvers.ode.midpoint import Midpoint
from sdekit.solvers.ode.rk4 import RK4
from sdekit.solvers.ode.tsitouras_5 import Tsitouras5
from sdekit.solvers.predictor_corrector import PredictorCorrector
from sdekit.solvers.recommended import recommended
from sdekit.solvers.sde.additive import SOSRA, SRA1, SRA3, ShARK
from sdekit.solvers.sde.diagonal import SOSRI, SRIW1
from sdekit.solvers.sde.dri1 import DRI1
from sdekit.solvers.sde.drift_implicit import DriftImplicit
from sdekit.solvers.sde.euler_maruyama import EulerMaruyama
from sdekit.solvers.sde.general_shark import GeneralShARK
from sdekit.solvers.sde.heun import EulerHeun, StochasticHeun, StochasticMidpoint
from sdekit.solvers.sde.langevin import BAOAB, QUICSORT, UBU
from sdekit.solvers.sde.milstein import Milstein, MilsteinFree
from sdekit.solvers.sde.reversible_heun import ReversibleHeun
from sdekit.solvers.sde.skencarp import SKenCarp
from sdekit.solvers.sde.slowrk import SlowRK
from sdekit.solvers.sde.spark import SPaRK
from sdekit.solvers.sde.tamed_euler import TamedEuler
from sdekit.solvers.solution import Solution, SolveState
from sdekit.solvers.step import StepSolver
from sdekit.solvers.table import Table, Updates

__all__ = [
    "BAOAB",
    "DDIM",
    "DRI1",
    "QUICSORT",
    "RK4",
    "SOSRA",
    "SOSRI",
    "SRA1",
    "SRA3",
    "SRIW1",
    "UBU",
    "Adaptive",
    "AdaptiveSolver",
    "Ancestral",
    "AnnealedLangevin",
    "BogackiShampine",
    "Corrector",
    "DormandPrince5",
    "DormandPrince8",
    "DriftImplicit",
    "EmbeddedSolver",
    "Entry",
    "Euler",
    "EulerHeun",
    "EulerMaruyama",
    "FixedStepSolver",
    "GeneralShARK",
    "HandState",
    "Heun",
    "Langevin",
    "Midpoint",
    "Milstein",
    "MilsteinFree",
    "Observers",
    "Pair",
    "PredictorCorrector",
    "Problem",
    "Recipe",
    "Recommended",
    "ReverseDiffusion",
    "ReversibleHeun",
    "SKenCarp",
    "SPaRK",
    "ScipyODE",
    "ShARK",
    "SlowRK",
    "Solution",
    "SolveState",
    "Solver",
    "StepInfo",
    "StepSolver",
    "StochasticHeun",
    "StochasticMidpoint",
    "Table",
    "TableSolver",
    "Tabulated",
    "TamedEuler",
    "TorchsdeSDE",
    "Tsitouras5",
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
