"""What solvers declare for SDEs and ODEs of the user's own, measured: the findings that need no diffusion model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from sdekit.experiments.verification.adaptive_sdes import problems_for, rejection_bias, tolerance_error_on
from sdekit.experiments.verification.findings import Finding
from sdekit.experiments.verification.langevin import POTENTIALS, moments_order, path_order, stationary_order
from sdekit.experiments.verification.orders import Order
from sdekit.experiments.verification.plain_odes import ODES, ode_order, ode_tolerance
from sdekit.experiments.verification.sde_problems import PROBLEMS
from sdekit.experiments.verification.strong import COUNTS, FEW_COUNTS, StrongOrder, strong_order_on
from sdekit.experiments.verification.weak import circle_order, fading_order, linear_order
from sdekit.sdes import Calculus, NoiseKind
from sdekit.solvers import Solver
from sdekit.solvers.step import StepSolver

__all__ = ["general_findings", "is_general"]

# A measured order may fall so far short of the declared one: the slope is that of finite steps.
_SHORT = 0.25  # of an exact error
_SHORT_STRONG = 0.1  # of the upper end of the interval
_LARGEST = 0.08  # the error of a variance, its sample's included; noise drawn anew makes it 0.15 or more
_ODE_TOLERANCES = (1e-4, 1e-6, 1e-8)
_SDE_TOLERANCES = (1e-1, 1e-2, 1e-3)

Make = Callable[..., Solver]


def is_general(solver: Solver) -> bool:
    """Whether it serves SDEs or ODEs that are no diffusion model's."""
    return solver.kind == "step" and "score" not in solver.needs


def general_findings(name: str, solver: Solver, make: Make) -> Iterator[Finding]:
    """Everything that can be measured of a solver without a model; `make` takes its tolerances, if it has any."""
    if "underdamped" in solver.needs:
        yield from _langevin(name, solver)
    elif solver.adaptive:
        yield from _adaptive_sde(name, solver, make) if solver.stochastic else _adaptive_ode(name, make)
    elif solver.stochastic:
        yield from _strong(name, solver)
        yield from _weak(name, solver)
    elif solver.order is not None:
        for problem in ODES:
            yield _exact(name, "order", problem.name, solver.order, ode_order(problem, solver))


def _exact(name: str, check: str, on: str, declared: float, order: Order) -> Finding:
    found = order.value
    return Finding(name, check, on, f"{declared:g}", f"{found:.2f}", found >= declared - _SHORT, order)


def _on_paths(name: str, on: str, declared: float, found: StrongOrder) -> Finding:
    holds = found.interval[1] >= declared - _SHORT_STRONG
    return Finding(name, "strong order", on, f"{declared:g}", str(found), holds, found.order)


# SDEs in fixed steps -------------------------------------------------------------------------------------------------


def _readings(solver: Solver, noise: NoiseKind) -> tuple[Calculus, ...]:
    """The calculi to measure in: both readings of additive noise are one."""
    return solver.calculus[:1] if noise == "additive" else solver.calculus


def _said(on: str, solver: Solver, noise: NoiseKind, calculus: Calculus) -> str:
    return on if len(_readings(solver, noise)) == 1 else f"{on}, {calculus.capitalize()}"


def _strong(name: str, solver: Solver) -> Iterator[Finding]:
    counts = FEW_COUNTS if solver.evaluations_per_step is None else COUNTS
    for problem in PROBLEMS:
        declared = solver.strong_order_for(problem.noise)
        if declared is None or problem.noise not in solver.noise_kinds:
            continue
        for calculus in _readings(solver, problem.noise):
            found = strong_order_on(problem, solver, calculus, counts)
            yield _on_paths(name, _said(problem.name, solver, problem.noise, calculus), declared, found)


def _weak(name: str, solver: Solver) -> Iterator[Finding]:
    for noise in solver.noise_kinds:
        declared = solver.weak_order_for(noise)
        if declared is None:
            continue
        for calculus in _readings(solver, noise):
            for on, order in _weak_on(solver, noise, calculus):
                yield _exact(name, "weak order", _said(on, solver, noise, calculus), declared, order)


def _weak_on(solver: Solver, noise: NoiseKind, calculus: Calculus) -> Iterator[tuple[str, Order]]:
    # A method that is not linear where the equation is, such as a tamed one, is measured on the circle alone.
    found = fading_order(solver) if noise == "additive" else None
    if found is not None:
        yield "decaying noise", found
    if not isinstance(solver, StepSolver):
        return  # what it does to expectations is not known by one step from each state
    if noise in ("additive", "diagonal", "scalar"):
        yield f"circle, {noise} noise", circle_order(solver, noise, calculus)
        return
    found = linear_order(solver, noise, calculus)
    if found is not None:
        yield f"{'commuting' if noise == 'commutative' else 'other'} matrices", found


# Steps by tolerance --------------------------------------------------------------------------------------------------


def _fall(tolerances: tuple[float, ...]) -> str:
    return "errors fall with " + ", ".join(f"{t:.0e}" for t in tolerances)


def _adaptive_ode(name: str, make: Make) -> Iterator[Finding]:
    for problem in ODES:
        errors = [ode_tolerance(problem, make(rtol=tol, atol=tol)) for tol in _ODE_TOLERANCES]
        holds = all(error < 100 * tol for error, tol in zip(errors, _ODE_TOLERANCES, strict=True))
        holds = holds and errors[-1] < errors[0] / 100
        said = ", ".join(f"{e:.0e}" for e in errors)
        yield Finding(name, "tolerance", problem.name, _fall(_ODE_TOLERANCES), said, holds)


def _adaptive_sde(name: str, solver: Solver, make: Make) -> Iterator[Finding]:
    for on, sde in problems_for(solver).items():
        errors = [tolerance_error_on(sde, make(rtol=tol, atol=tol)) for tol in _SDE_TOLERANCES]
        # A step's error is held to the tolerance; that of the end falls more slowly, by the method's order.
        holds = errors[0] > errors[1] > errors[2] and errors[2] < errors[0] / 4 and errors[2] < 10 * _SDE_TOLERANCES[2]
        yield Finding(name, "tolerance", on, _fall(_SDE_TOLERANCES), ", ".join(f"{e:.0e}" for e in errors), holds)
    ratio, deviation = rejection_bias(make(rtol=0.02, atol=0.02))
    holds = math.isfinite(ratio) and abs(ratio - 1) < _LARGEST
    said = f"variance {ratio:.3f} of it (sample: {deviation:.3f})"
    yield Finding(name, "rejection", "stationary OU", "variance 0.2499", said, holds)


# Langevin ------------------------------------------------------------------------------------------------------------


def _langevin(name: str, solver: Solver) -> Iterator[Finding]:
    for potential in POTENTIALS:
        if solver.strong_order is not None:
            yield _on_paths(name, f"Langevin, {potential}", solver.strong_order, path_order(solver, potential))
    if solver.weak_order is not None:
        yield _exact(name, "weak order", "Langevin, quadratic", solver.weak_order, moments_order(solver))
        yield _exact(name, "stationary order", "Langevin, quadratic", solver.weak_order, stationary_order(solver))
