"""The arguments of a likelihood, checked before any evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sdekit._tensors import check_positive, check_positive_integer
from sdekit.errors import ArgumentError, UnknownNameError, UnsupportedError
from sdekit.grids import AlongPath, Grid, make_grid
from sdekit.likelihood.path import Nodes
from sdekit.likelihood.traces import DIVERGENCES, Along, Distribution, Divergence, GaussianControl
from sdekit.models.score import ScoreModel
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.base import Solver
from sdekit.solvers.catalogue import get
from sdekit.solvers.diffusion.adams import Adams

__all__ = [
    "DEFAULT_SOLVER",
    "Truncation",
    "Unit",
    "at_level",
    "check_divergence",
    "check_solver",
    "check_span",
    "check_tolerance",
    "check_truncation",
    "coarser",
    "make_nodes",
]

DEFAULT_SOLVER = Adams(representation="velocity", clock="lambda", predictor=3, corrector=4)
"""One evaluation a step, of order 4; measured against others in docs/likelihood.md."""

_EXACT_UP_TO = 16  # dimensions
_EVALUATIONS = 58  # with one more at the end, and one for the prior
_FEWEST_STEPS = 32
_NODES = 64
_TOLERANCE = 1e-5
_STEPS_AT_FIRST = 12
_LOOSEST = 1e-3
_MOST_EVALUATIONS = 3000

Unit = Literal["nats", "bits/dim"]
Truncation = Literal["first_order", "decoder"]


def check_solver(solver: str | Solver | None, options: Mapping[str, Any]) -> Solver:
    """The solver, if it can integrate the probability flow.

    Raises:
        ArgumentError: for options that it does not take.
        UnknownNameError: if there is none of that name.
        UnsupportedError: if it is stochastic or serves neither ODEs nor score models.
    """
    if isinstance(solver, Solver) and options:
        raise ArgumentError(
            f"unknown argument(s) {', '.join(map(repr, sorted(options)))}: options of a solver given as an object are "
            "set where it is made."
        )
    if solver is None and options:
        raise ArgumentError(
            f"unknown argument(s) {', '.join(map(repr, sorted(options)))}: options go with a solver given by name."
        )
    if solver is None:
        return DEFAULT_SOLVER
    chosen = solver if isinstance(solver, Solver) else get(solver, **options)
    tolerances = {"rtol", "atol"} & chosen.options().keys()
    if isinstance(solver, str) and tolerances and not tolerances & options.keys():
        chosen = get(solver, **options, **dict.fromkeys(tolerances, _TOLERANCE))
    if chosen.stochastic or set(chosen.needs) - {"score"}:
        raise UnsupportedError(
            f"the likelihood integrates the probability flow, an ODE; solver {chosen.name!r} with these options is "
            f"{'stochastic' if chosen.stochastic else 'made for other dynamics'}. Take 'adams', 'rk4', 'heun', or an "
            "adaptive one such as 'scipy:RK45'."
        )
    return chosen


def check_span(sde: DiffusionSDE, t_eps: float | None) -> tuple[float, float]:
    """(t_eps, T), both with some noise.

    Raises:
        ArgumentError: if t_eps is not below T, or leaves no noise.
    """
    low = sde.check_time("t_eps", sde.t_min if t_eps is None else t_eps)
    if not (low < sde.t_max and float(sde.sigma(low)) > 0):
        raise ArgumentError(
            f"t_eps = {low!r} must be below T = {sde.t_max:g} and leave some noise (sigma > 0): the flow's log-density "
            f"is had where ln(sigma/alpha) is finite. Give t_eps, for instance {1e-3 * sde.t_max:g}."
        )
    return low, sde.t_max


def make_nodes(
    model: ScoreModel,
    solver: Solver,
    steps: int | None,
    grid: str | Grid | Sequence[float] | Tensor | None,
    span: tuple[float, float],
) -> Nodes:
    """The nodes of the trace: where a fixed-step solver steps, or where an adaptive one is asked for its state.

    Raises:
        ArgumentError: for a number of steps that makes no sense, or none where one is needed.
    """
    by_default = grid is None or (isinstance(grid, str) and grid == AlongPath.name)
    place = AlongPath(model.data_std or 1.0) if by_default else make_grid(grid)  # type: ignore[arg-type]
    if steps is None:
        steps = place.fixed_steps
    if steps is None and solver.adaptive:
        steps = _NODES
    if steps is None:
        if solver.evaluations_per_step is None:
            raise ArgumentError(f"solver {solver.name!r} needs steps=…, the number of steps of its grid.")
        steps = max(_EVALUATIONS // solver.evaluations_per_step, _FEWEST_STEPS)
    if check_positive_integer("steps", steps) < 2 and solver.adaptive:
        raise ArgumentError("steps, the number of intervals between nodes, must be 2 or more for an adaptive solver.")
    times = place.times(model.sde, steps, *span)
    return Nodes(times, -0.5 * model.sde.log_snr(times))


def coarser(solver: Solver, nodes: Nodes) -> tuple[Solver, Nodes]:
    """The same with every second node, or with ten times the tolerances.

    Raises:
        UnsupportedError: if a solver that chooses its own steps has no tolerances.
        ArgumentError: if there is one step only.
    """
    if solver.adaptive:
        options = solver.options()
        if not {"rtol", "atol"} <= options.keys():
            raise UnsupportedError(f"solver {solver.name!r} has no rtol and atol to vary; leave integration_error out.")
        solver = type(solver)(**{**options, "rtol": 10 * options["rtol"], "atol": 10 * options["atol"]})
    if len(nodes) < 3:
        raise ArgumentError("integration_error compares with half the steps, so it needs steps of at least 2.")
    last = len(nodes) - 1
    kept = torch.tensor([*range(0, last, 2), last], device="cpu")
    return solver, Nodes(nodes.times[kept], nodes.u[kept])


def check_tolerance(
    tolerance: float | None, unit: Unit, max_nfe: int | None, given: Mapping[str, object], d: int
) -> tuple[float, int] | None:
    """(tolerance in nats, most evaluations of a sample), or None where no tolerance is asked for.

    Raises:
        ArgumentError: for a tolerance that is not above 0, or arguments that do not go together.
        UnknownNameError: for another unit than "nats" and "bits/dim".
    """
    if unit not in get_args(Unit):
        raise UnknownNameError("unit of the tolerance", unit, get_args(Unit))
    if tolerance is None:
        if max_nfe is not None or unit != "nats":
            raise ArgumentError("max_nfe and tolerance_unit go with tolerance, which is not given.")
        return None
    wrong = [name for name, value in given.items() if value is not None and value is not False]
    if wrong:
        raise ArgumentError(f"{' and '.join(wrong)} cannot be combined with tolerance, which settles it; leave it out.")
    nats = check_positive("tolerance", tolerance) * (d * math.log(2) if unit == "bits/dim" else 1.0)
    return nats, check_positive_integer("max_nfe", _MOST_EVALUATIONS if max_nfe is None else max_nfe)


def check_truncation(truncation: object, others: Mapping[str, object]) -> bool:
    """Whether the truncation is to come from a decoder's bound.

    Raises:
        UnknownNameError: if there is none of that name.
        ArgumentError: for "decoder" with one of `others`, all of which must be None.
    """
    if truncation not in get_args(Truncation):
        raise UnknownNameError("truncation", truncation, get_args(Truncation))
    given = [name for name, value in others.items() if value is not None]
    if truncation == "decoder" and given:
        raise ArgumentError(f"truncation='decoder' cannot be combined with {' and '.join(given)}; leave one out.")
    return truncation == "decoder"


def at_level(solver: Solver, divergence: Divergence, level: int, factor: int) -> tuple[Solver, int, Divergence]:
    """The solver, the number of steps and the divergence of a level, with `factor` times the probes.

    Raises:
        UnsupportedError: if a solver that chooses its own steps has no tolerances.
    """
    if solver.adaptive:
        options = solver.options()
        if not {"rtol", "atol"} <= options.keys():
            raise UnsupportedError(f"solver {solver.name!r} has no rtol and atol to vary; leave tolerance out.")
        smaller = dict.fromkeys(("rtol", "atol"), _LOOSEST * 0.1**level)
        solver = type(solver)(**{**options, **smaller})
    return solver, _STEPS_AT_FIRST * 2**level, divergence.more(factor)


def check_divergence(
    divergence: str | Divergence | None,
    probes: int | None,
    distribution: Distribution | None,
    along: Along | None,
    control: GaussianControl | None,
    d: int,
) -> Divergence:
    """The Divergence that these arguments name; exact up to 16 dimensions where they name none.

    Raises:
        UnknownNameError: if there is none of that name.
        ArgumentError: for options that it does not take.
    """
    given: dict[str, Any] = {"probes": probes, "distribution": distribution, "along": along, "control": control}
    given = {name: value for name, value in given.items() if value is not None}
    if divergence is None:
        divergence = "exact" if d <= _EXACT_UP_TO and not given else "hutchinson"
    if isinstance(divergence, str) and divergence not in DIVERGENCES:
        raise UnknownNameError("divergence", divergence, DIVERGENCES)
    if isinstance(divergence, Divergence):
        if given:
            raise ArgumentError(
                "probes, probe_distribution, probes_along and control go with a divergence given by name; "
                f"got divergence={divergence!r}."
            )
        return divergence
    if not isinstance(divergence, str):
        raise ArgumentError(
            f"divergence must be a name ({', '.join(DIVERGENCES)}) or a Divergence; got {divergence!r}."
        )
    takes = {"hutchinson": set(given), "exact": set()}.get(divergence, {"probes"})
    if set(given) - takes:
        raise ArgumentError(
            "probe_distribution, probes_along and control go with divergence='hutchinson', probes with all but "
            "'exact'; "
            f"got divergence={divergence!r}."
        )
    return DIVERGENCES[divergence](**given)
