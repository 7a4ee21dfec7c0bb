"""The names: the only file that sees every solver.

A new solver is one file and one line in `_ENTRIES`; tests, documentation, command line and verification find it here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, final

from sdekit.errors import ArgumentError, UnknownNameError
from sdekit.sdes import NoiseKind
from sdekit.solvers.adaptive import Adaptive
from sdekit.solvers.base import Solver
from sdekit.solvers.bridges.scipy_ode import METHODS as SCIPY_METHODS
from sdekit.solvers.bridges.scipy_ode import ScipyODE
from sdekit.solvers.bridges.torchsde_steps import METHODS as TORCHSDE_METHODS
from sdekit.solvers.bridges.torchsde_steps import TorchsdeSDE
from sdekit.solvers.correctors import CORRECTORS, Corrector
from sdekit.solvers.diffusion.adams import Adams
from sdekit.solvers.diffusion.ancestral import Ancestral
from sdekit.solvers.diffusion.ancestral_stages import DPM2Ancestral, DPMSolverPP2SAncestral, EulerAncestral
from sdekit.solvers.diffusion.ddim import DDIM
from sdekit.solvers.diffusion.deis import DEIS, IPNDM, LMS
from sdekit.solvers.diffusion.dpm_adaptive import DPMAdaptive
from sdekit.solvers.diffusion.dpm_solver_multi import (
    DPMSolver2M,
    DPMSolver3M,
    DPMSolverPP2M,
    DPMSolverPP2MSDE,
    DPMSolverPP3M,
    DPMSolverPP3MSDE,
)
from sdekit.solvers.diffusion.dpm_solver_single import DPMSolver2, DPMSolver3, DPMSolverPP2S
from sdekit.solvers.diffusion.edm import EDM
from sdekit.solvers.diffusion.er_sde import ERSDE
from sdekit.solvers.diffusion.pndm import PNDM
from sdekit.solvers.diffusion.recommended import Recommended
from sdekit.solvers.diffusion.restart import Restart
from sdekit.solvers.diffusion.reverse_diffusion import ReverseDiffusion
from sdekit.solvers.diffusion.rho_rk import RhoRK
from sdekit.solvers.diffusion.rosenbrock import RosenbrockExponential
from sdekit.solvers.diffusion.sa_solver import SASolver
from sdekit.solvers.diffusion.stochastic_single import SEEDS2, SEEDS3, DPMSolverPPSDE
from sdekit.solvers.diffusion.tabulated import Tabulated
from sdekit.solvers.diffusion.unipc import UniP, UniPC
from sdekit.solvers.embedded import EmbeddedSolver
from sdekit.solvers.fixed_step import FixedStepSolver
from sdekit.solvers.ode.bogacki_shampine import BogackiShampine
from sdekit.solvers.ode.dormand_prince_5 import DormandPrince5
from sdekit.solvers.ode.dormand_prince_8 import DormandPrince8
from sdekit.solvers.ode.euler import Euler
from sdekit.solvers.ode.heun import Heun
from sdekit.solvers.ode.midpoint import Midpoint
from sdekit.solvers.ode.rk4 import RK4
from sdekit.solvers.ode.tsitouras_5 import Tsitouras5
from sdekit.solvers.predictor_corrector import PredictorCorrector
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

__all__ = ["Entry", "describe", "entries", "get", "names", "on_sde", "register", "resolve"]


@final
@dataclass(frozen=True)
class Entry:
    """One name of the catalogue: how its solver is made, its other names, and a line about it.

    on_sde: for the name of an ODE method, the name of the SDE method that `solve` takes under it for an SDE.
    """

    name: str
    make: Callable[..., Solver]
    summary: str
    aliases: tuple[str, ...] = ()
    fixed: dict[str, Any] = field(default_factory=dict)
    on_sde: str = ""


def _predictor_corrector(
    predictor: str | FixedStepSolver | None = "reverse_diffusion",
    corrector: str | Corrector | None = "langevin",
    snr: float | None = None,
    n_steps: int | None = None,
    norms: str | None = None,
) -> PredictorCorrector:
    """PredictorCorrector with either part by name or by object.

    Args:
        predictor: a solver's name or object, or None ("none").
        corrector: "langevin", "ald", a Corrector, or None ("none").
        snr: the named corrector's signal-to-noise ratio, 0.16 unless given.
        n_steps: the named corrector's steps, 1 unless given.
        norms: "sample" or "batch", for langevin.
    """
    moving: Solver | None = None
    if isinstance(predictor, str):
        moving = None if predictor == "none" else get(predictor)
    else:
        moving = predictor
    if isinstance(moving, Solver) and not isinstance(moving, FixedStepSolver):
        raise ArgumentError(f"the predictor must step along a grid; {moving.name!r} chooses its own steps.")
    settings = {k: v for k, v in {"snr": snr, "n_steps": n_steps, "norms": norms}.items() if v is not None}
    if not isinstance(corrector, str) or corrector == "none":
        if settings:
            raise ArgumentError(f"{', '.join(settings)} go with a corrector's name; got corrector={corrector!r}.")
        return PredictorCorrector(moving, None if isinstance(corrector, str) else corrector)
    if corrector not in CORRECTORS:
        raise UnknownNameError("corrector", corrector, (*CORRECTORS, "none"))
    kind = CORRECTORS[corrector]
    unknown = set(settings) - _options_of(kind)
    if unknown:
        raise ArgumentError(f"corrector {corrector!r} has no option {', '.join(sorted(unknown))}.")
    return PredictorCorrector(moving, kind(**settings))


def _options_of(make: Callable[..., Any]) -> set[str]:
    if is_dataclass(make):
        return {f.name for f in fields(make)}
    code = make.__code__
    return set(code.co_varnames[: code.co_argcount])


def _adaptive(
    method: EmbeddedSolver,
    rtol: float | None = None,
    atol: float | None = None,
    h_init: float | None = None,
    h_min: float = 0.0,
    max_nfe: int | None = None,
    proportional: float | None = None,
    integral: float | None = None,
    derivative: float = 0.0,
) -> Adaptive:
    """Adaptive with this method."""
    return Adaptive(method, rtol, atol, h_init, h_min, max_nfe, proportional, integral, derivative)


_ADAPTIVE: tuple[EmbeddedSolver, ...] = (
    EulerMaruyama(),
    StochasticHeun(),
    StochasticMidpoint(),
    SRA1(),
    SRA3(),
    SOSRA(),
    ShARK(),
    SRIW1(),
    SOSRI(),
    SPaRK(),
    SKenCarp(),
    BogackiShampine(),
    DormandPrince5(),
    DormandPrince8(),
    Tsitouras5(),
)
_ENTRIES = (
    Entry("euler_maruyama", EulerMaruyama, "Euler-Maruyama on any SDE", ("em",)),
    Entry("stochastic_heun", StochasticHeun, "Heun on any Stratonovich SDE", ("heun_sde",)),
    Entry("stochastic_midpoint", StochasticMidpoint, "the midpoint rule on any Stratonovich SDE", ("midpoint_sde",)),
    Entry("euler_heun", EulerHeun, "Heun in the noise, Euler in the drift: one drift evaluation"),
    Entry("reversible_heun", ReversibleHeun, "Heun whose steps can be undone: for gradients, at one evaluation a step"),
    Entry("milstein", Milstein, "Milstein, the diffusion differentiated by torch"),
    Entry("milstein_free", MilsteinFree, "Milstein without derivatives"),
    Entry("sra1", SRA1, "strong order 1.5 for additive noise, two stages"),
    Entry("sra3", SRA3, "strong order 1.5 for additive noise, three stages"),
    Entry("sosra", SOSRA, "strong order 1.5 for additive noise, stable: for steps by tolerance"),
    Entry("shark", ShARK, "strong order 1.5 for additive noise, two stages, the smallest error"),
    Entry("general_shark", GeneralShARK, "ShARK on any Stratonovich SDE, two drift evaluations"),
    Entry("spark", SPaRK, "three stages on any Stratonovich SDE: for general noise with steps by tolerance"),
    Entry("slowrk", SlowRK, "strong order 1.5 for Stratonovich noise that commutes"),
    Entry("sriw1", SRIW1, "strong order 1.5 for diagonal Ito noise", ("srk",)),
    Entry("sosri", SOSRI, "strong order 1.5 for diagonal Ito noise, stable: for steps by tolerance"),
    Entry("dri1", DRI1, "weak order 2 for any Ito noise: for expectations"),
    Entry("drift_implicit", DriftImplicit, "the implicit theta method, for stiff and superlinear drifts"),
    Entry("skencarp", SKenCarp, "strong order 1.5 for additive noise with a stiff drift, implicit"),
    Entry("tamed_euler", TamedEuler, "Euler-Maruyama for drifts that grow faster than linearly"),
    Entry("baoab", BAOAB, "splitting for the underdamped Langevin equation, for sampling: one gradient a step"),
    Entry("ubu", UBU, "splitting for the underdamped Langevin equation, strong order 2, one gradient a step"),
    Entry("quicsort", QUICSORT, "the underdamped Langevin equation at strong order 3, two gradients a step"),
    Entry("ancestral", Ancestral, "DDPM's posterior, step by step", ("ddpm", "ancestral_sampling")),
    Entry("reverse_diffusion", ReverseDiffusion, "the forward discretisation turned round"),
    Entry("ddim", DDIM, "exponential Euler; eta from deterministic to ancestral", ("dpm_solver_1", "dpmpp_1")),
    Entry("dpm_solver_2", DPMSolver2, "DPM-Solver, two stages in noise prediction", ("dpm_2", "dpm2")),
    Entry("dpm_solver_3", DPMSolver3, "DPM-Solver, three stages in noise prediction"),
    Entry("dpm_solver_2m", DPMSolver2M, "DPM-Solver multistep, two values of the noise"),
    Entry("dpm_solver_3m", DPMSolver3M, "DPM-Solver multistep, three values of the noise"),
    Entry("dpmpp_2s", DPMSolverPP2S, "DPM-Solver++, two stages in data prediction"),
    Entry("dpmpp_2m", DPMSolverPP2M, "DPM-Solver++ multistep, two values of the data"),
    Entry("dpmpp_3m", DPMSolverPP3M, "DPM-Solver++ multistep, three values of the data"),
    Entry("dpm_adaptive", DPMAdaptive, "DPM-Solver-12 or -23, each sample its own steps", ("dpm_solver_23",)),
    Entry("unip", UniP, "UniPC's predictor alone"),
    Entry("unipc", UniPC, "unified predictor-corrector, order p + 1 for one evaluation", ("uni_pc",)),
    Entry("deis", DEIS, "past noise interpolated in sigma or t, integrated exactly"),
    Entry("rho_rk", RhoRK, "Runge-Kutta in sigma", ("deis_rk",)),
    Entry("lms", LMS, "Adams-Bashforth in sigma on the grid as it is", ("ipndm_v", "klms")),
    Entry("ipndm", IPNDM, "Adams-Bashforth with the weights of equal steps"),
    Entry("pndm", PNDM, "pseudo Runge-Kutta, then pseudo Adams-Bashforth", ("fpndm",)),
    Entry("rosenbrock", RosenbrockExponential, "exponential, exact for N(0, I); DPM-Solver-v3 without training"),
    Entry("recommended", Recommended, "adams with the best settings for the number of steps", (), {"noise": False}),
    Entry("recommended_sde", Recommended, "the same on the reverse SDE, with noise", (), {"noise": True}),
    Entry("adams", Adams, "our predictor-corrector family: any representation, clock, orders and noise"),
    Entry("euler_ancestral", EulerAncestral, "down by Euler, up by fresh noise", ("euler_a", "k_euler_a")),
    Entry("dpm_2_ancestral", DPM2Ancestral, "down by DPM-Solver-2, up by fresh noise", ("dpm_2_a", "dpm2_a")),
    Entry("dpmpp_2s_ancestral", DPMSolverPP2SAncestral, "down by DPM-Solver++ 2S, up by fresh noise", ("dpmpp_2s_a",)),
    Entry("dpmpp_2m_sde", DPMSolverPP2MSDE, "DPM-Solver++ multistep on the reverse SDE, two values"),
    Entry("dpmpp_3m_sde", DPMSolverPP3MSDE, "DPM-Solver++ multistep on the reverse SDE, three values"),
    Entry("dpmpp_sde", DPMSolverPPSDE, "DPM-Solver++ on the reverse SDE, two stages on one Brownian path"),
    Entry("seeds_2", SEEDS2, "exponential Runge-Kutta on the reverse SDE, two stages", ("seeds",)),
    Entry("seeds_3", SEEDS3, "exponential Runge-Kutta on the reverse SDE, three stages"),
    Entry("sa_solver", SASolver, "stochastic Adams predictor-corrector with noise in a range of levels"),
    Entry("er_sde", ERSDE, "extended reverse SDE with a small noise"),
    Entry("edm", EDM, "Heun or Euler with fresh noise (churn) before each step", ("edm_stochastic",)),
    Entry("restart", Restart, "Heun with returns to a higher noise level"),
    Entry("euler", Euler, "Euler on the probability flow or any ODE", on_sde="euler_maruyama"),
    Entry("heun", Heun, "Heun on the probability flow or any ODE", ("edm_heun",), on_sde="stochastic_heun"),
    Entry("midpoint", Midpoint, "the explicit midpoint rule on the same", on_sde="stochastic_midpoint"),
    Entry("rk4", RK4, "classical Runge-Kutta on the probability flow or any ODE"),
    Entry(
        "bogacki_shampine", BogackiShampine, "order 3 with an error of order 2: for loose tolerances", ("bosh3", "bs3")
    ),
    Entry("dormand_prince_5", DormandPrince5, "order 5 with an error of order 4", ("dopri5",)),
    Entry("tsitouras_5", Tsitouras5, "order 5 with an error of order 4: the first choice by tolerance", ("tsit5",)),
    Entry(
        "dormand_prince_8",
        DormandPrince8,
        "order 8 with errors of orders 5 and 3: for tight tolerances",
        ("dopri8", "dop853"),
    ),
    Entry("pc", _predictor_corrector, "any predictor with any corrector", ("predictor_corrector",)),
    *(
        Entry(f"adaptive:{m.name}", _adaptive, f"{m.name} with steps chosen by its error", (), {"method": m})
        for m in _ADAPTIVE
    ),
    *(Entry(f"scipy:{m}", ScipyODE, f"scipy's {m}, adaptive, in float64", (), {"method": m}) for m in SCIPY_METHODS),
    *(
        Entry(f"torchsde:{m}", TorchsdeSDE, f"torchsde's {m}, a step for each of the grid's", (), {"method": m})
        for m in TORCHSDE_METHODS
    ),
)
_CATALOGUE: dict[str, Entry] = {e.name: e for e in _ENTRIES}
_LISTING = "`sdekit solvers` lists all {}."


def names() -> list[str]:
    """Every name, without aliases, in the catalogue's order."""
    return list(_CATALOGUE)


def entries() -> list[Entry]:
    """Every entry, in the catalogue's order."""
    return list(_CATALOGUE.values())


def describe() -> list[dict[str, Any]]:
    """What every solver declares, in the catalogue's order, as plain values: for tables, the command line and programs.

    Keys: name, aliases, kind, stochastic ("yes", "no", or "by eta" and the like), integrates, adaptive, order,
    strong_order, weak_order, strong_orders and weak_orders (of the kinds of noise where they are others), orders (as
    text), evaluations_per_step (None where it varies), calculus, couples_batch, default_grid (None if adaptive), needs,
    options, summary, reference. Read off a solver with its default options.
    """
    return [_described(entry) for entry in _CATALOGUE.values()]


def _described(entry: Entry) -> dict[str, Any]:
    solver = entry.make(**entry.fixed)
    option = solver.noise_option
    if option is not None:
        integrates = f"probability flow ({option} = 0), reverse SDE ({option} > 0)"
        stochastic = f"by {option}"
    elif "underdamped" in solver.needs:
        integrates, stochastic = "underdamped Langevin equation", "yes"
    elif "score" in solver.needs:
        integrates, stochastic = ("reverse SDE", "yes") if solver.stochastic else ("probability flow", "no")
    else:
        integrates, stochastic = ("any SDE", "yes") if solver.stochastic else ("probability flow, any ODE", "no")
    orders = [f"{solver.order:g}"] if solver.order is not None else []
    if solver.strong_order is not None or solver.weak_order is not None:
        both = (("strong", solver.strong_order, solver.strong_orders), ("weak", solver.weak_order, solver.weak_orders))
        orders.append(", ".join(_order(*each) for each in both if each[1] is not None))
    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "kind": solver.kind,
        "stochastic": stochastic,
        "integrates": integrates,
        "adaptive": solver.adaptive,
        "order": solver.order,
        "strong_order": solver.strong_order,
        "weak_order": solver.weak_order,
        "strong_orders": dict(solver.strong_orders),
        "weak_orders": dict(solver.weak_orders),
        "orders": "; ".join(orders),
        "evaluations_per_step": solver.evaluations_per_step,
        "calculus": list(solver.calculus),
        "couples_batch": solver.couples_batch,
        "default_grid": None if solver.adaptive else solver.default_grid,
        "needs": list(solver.needs),
        "options": sorted(_options_of(entry.make) - set(entry.fixed)),
        "summary": entry.summary,
        "reference": solver.reference,
    }


def _order(kind: str, order: float | None, others: tuple[tuple[NoiseKind, float], ...]) -> str:
    """Such as "strong 1 (additive 1.5, general 0.5)"."""
    said = ", ".join(f"{noise} {other:g}" for noise, other in others)
    return f"{kind} {order:g}" + (f" ({said})" if said else "")


def resolve(name: str) -> Entry:
    """The entry of a name or an alias, whatever its case.

    Raises:
        UnknownNameError: if there is none; the message carries the nearest name.
    """
    if not isinstance(name, str):
        raise ArgumentError(f"a solver is given by name or as a Solver, got {name!r}.")
    if name in _CATALOGUE:
        return _CATALOGUE[name]
    known = {alias.lower(): e for e in _CATALOGUE.values() for alias in (e.name, *e.aliases)}
    key = name.lower()
    inner = known.get(key.removeprefix("adaptive:"))
    if key not in known and inner is not None:
        key = f"adaptive:{inner.name}"  # by another name of its method
    if key not in known:
        spelled = {alias for e in _CATALOGUE.values() for alias in (e.name, *e.aliases)}
        raise UnknownNameError("solver", name, spelled, _LISTING.format(len(_CATALOGUE)))
    return known[key]


def on_sde(name: str) -> str:
    """The name that `solve` takes for an SDE: that of the SDE method of the same name, where there is one."""
    entry = resolve(name)
    return entry.on_sde or name


def get(name: str, **options: Any) -> Solver:
    """The solver of that name with these options; "table:FILE" is the one that a saved table makes.

    A method with an embedded error that is given a tolerance (rtol, atol) is its adaptive form, "adaptive:NAME".

    Raises:
        UnknownNameError: if no solver has that name.
        ArgumentError: if it has no such option, or an option's value is out of range.
    """
    if isinstance(name, str) and name.startswith("table:"):
        if options:
            raise ArgumentError(f"a table has no options; got {', '.join(sorted(options))}.")
        return Tabulated.load(name.removeprefix("table:"))
    entry = resolve(name)
    if {"rtol", "atol"} & set(options) and f"adaptive:{entry.name}" in _CATALOGUE:
        entry = _CATALOGUE[f"adaptive:{entry.name}"]
    allowed = _options_of(entry.make) - set(entry.fixed)
    unknown = sorted(set(options) - allowed)
    if unknown:
        raise ArgumentError(_unknown_options(entry, unknown, allowed))
    return entry.make(**entry.fixed, **options)


def _unknown_options(entry: Entry, unknown: list[str], allowed: set[str]) -> str:
    has = f"its options are {', '.join(sorted(allowed))}" if allowed else "it has none"
    message = f"solver {entry.name!r} has no option {', '.join(map(repr, unknown))}; {has}."
    if {"rtol", "atol"} & set(unknown):
        message += " It takes a fixed number of steps; tolerances go with an adaptive solver such as 'scipy:RK45'."
    return message


def register(name: str, solver: Callable[..., Solver] | Solver, summary: str = "", *, replace: bool = False) -> None:
    """Add a solver class (a dataclass, its fields the options) or one solver object under a name.

    Raises:
        ArgumentError: if the name is taken and replace is not set, or `solver` is neither.
    """
    if not isinstance(name, str) or not name:
        raise ArgumentError(f"a solver is registered under a name, a string that is not empty; got {name!r}.")
    taken = {alias.lower(): e for e in _CATALOGUE.values() for alias in (e.name, *e.aliases)}
    before = taken.get(name.lower())
    if before is not None and not replace:
        raise ArgumentError(f"the name {name!r} is taken; choose another, or pass replace=True.")
    if isinstance(solver, Solver):
        given = solver
        entry = Entry(name, lambda: given, summary)
    elif isinstance(solver, type) and issubclass(solver, Solver) and is_dataclass(solver):
        needed = [f.name for f in fields(solver) if f.init and f.default is MISSING and f.default_factory is MISSING]
        if needed:
            raise ArgumentError(
                f"{solver.__name__} cannot be made by name alone: give {', '.join(needed)} a default, or register an "
                "object."
            )
        entry = Entry(name, solver, summary)
    else:
        raise ArgumentError(f"solver must be a Solver object, or a dataclass derived from Solver; got {solver!r}.")
    if before is not None and before.name.lower() == name.lower():
        del _CATALOGUE[before.name]
    elif before is not None:
        # The name was another solver's alias: that solver keeps its own name, and this one takes the alias over.
        kept = tuple(alias for alias in before.aliases if alias.lower() != name.lower())
        _CATALOGUE[before.name] = dataclasses.replace(before, aliases=kept)
    _CATALOGUE[name] = entry
