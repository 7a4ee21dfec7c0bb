"""What a comparison will do, decided and checked before any of it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, is_dataclass, replace
from numbers import Integral
from typing import Any, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdekit._tensors import as_list, check_device, check_positive, check_positive_integer
from sdekit.dynamics import ProbabilityFlow, ReverseSDE
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError, UnknownNameError
from sdekit.experiments.contenders import Contender, Loop, SolverLike, contenders
from sdekit.experiments.metrics import (
    MMD,
    EnergyDistance,
    FlowError,
    MeanLogDensity,
    Metric,
    SlicedWasserstein,
    median_bandwidth,
)
from sdekit.models import ScoreModel
from sdekit.noise import KeyedNoise
from sdekit.sampling import sample
from sdekit.solvers import Solution, Solver
from sdekit.targets import Target

__all__ = ["METRICS", "Cell", "Outcome", "Plan", "Subject", "make_plan", "run_solver", "starts"]

Given = TypeVar("Given")

METRICS = ("energy_distance", "sliced_wasserstein", "mmd", "log_density_gap", "flow_error")
"""The metrics that are known by name."""

_FEWEST = 8
"""Samples that the intervals need: the bootstrap of the flow error takes no fewer."""


@final
@dataclass(frozen=True, eq=False)
class Subject:
    """A model of the comparison, with what it is measured by.

    `shape` is that of one sample; `reference` may be None, where every metric is a flow error.
    """

    label: str
    model: ScoreModel
    reference: Target | None
    metrics: tuple[Metric, ...]
    n: int
    shape: tuple[int, ...]


@final
@dataclass(frozen=True)
class Cell:
    """One solver on one model with one seed, at a budget (`steps` follow from it) or at a tolerance."""

    model: str
    solver: str
    seed: int
    budget: int | None
    steps: int | None
    tolerance: float | None

    def __str__(self) -> str:
        effort = f"{self.budget} NFE" if self.budget is not None else ""
        effort = effort or (f"tolerance {self.tolerance:g}" if self.tolerance is not None else "its own tolerance")
        return f"{self.model}, {self.solver}, {effort}, seed {self.seed}"


@final
@dataclass(frozen=True, eq=False)
class Plan:
    """The cells of a comparison, cheapest first, and all that determines their results."""

    subjects: dict[str, Subject]
    contenders: dict[str, Contender]
    cells: tuple[Cell, ...]
    nfe: tuple[int, ...]
    tolerances: tuple[float, ...]
    seeds: tuple[int, ...]
    reference_n: int
    flow_steps: int
    floor_repeats: int
    t_end: float | None
    device: torch.device

    def solver(self, cell: Cell) -> Solver | Loop:
        """The solver of a cell, at its tolerance."""
        return self.contenders[cell.solver].at(cell.tolerance)

    def metrics_of(self, cell: Cell) -> list[Metric]:
        """The metrics that mean something for a cell: a flow error only for the state at the end of a flow."""
        contender = self.contenders[cell.solver]
        on_flow = not self.solver(cell).stochastic and not contender.sampling.get("denoise", False)
        return [m for m in self.subjects[cell.model].metrics if m.needs != "reference_flow" or on_flow]


@final
@dataclass(frozen=True)
class Outcome:
    """What a run gave: samples (n, *), evaluations a sample, and "success" or why it ended early."""

    x: Tensor
    nfe: float
    status: str


def make_plan(
    models: Mapping[str, ScoreModel] | ScoreModel,
    solvers: Sequence[SolverLike],
    nfe: Sequence[int] | NDArray[np.int64] | Tensor,
    seeds: int | Sequence[int] | NDArray[np.int64] | Tensor,
    *,
    reference: Target | Mapping[str, Target] | None,
    metrics: Sequence[str | Metric] | Mapping[str, Sequence[str | Metric]] | None,
    n: int | Mapping[str, int],
    tolerances: Sequence[float] | NDArray[np.float64] | Tensor,
    t_end: float | None,
    reference_n: int,
    flow_steps: int,
    floor_repeats: int,
    device: torch.device | str,
) -> Plan:
    """Check everything that `compare` was given, and list its cells. Evaluates no network."""
    named = models if isinstance(models, Mapping) else {"model": models}
    if not named:
        raise ArgumentError("models is empty; give at least one, such as {'digits': sk.models.load('digits')}.")
    for label, model in named.items():
        if not isinstance(label, str) or not label or not isinstance(model, ScoreModel):
            raise ArgumentError(f"models maps names to ScoreModels; got {label!r}: {model!r}.")
    check_positive_integer("reference_n", reference_n)
    check_positive_integer("flow_steps", flow_steps)
    if check_positive_integer("floor_repeats", floor_repeats) < 2:
        raise ArgumentError("floor_repeats must be at least 2: a floor is a spread, got 1.")
    references = _for_each("reference", reference, named)
    given_metrics = _for_each("metrics", metrics, named)
    counts = _for_each("n", n, named)
    subjects = {
        label: _subject(label, model, references[label], given_metrics[label], counts[label], reference_n)
        for label, model in named.items()
    }
    field = {c.label: c for c in contenders(solvers)}
    budgets = _integers("nfe", nfe, lowest=1)
    listed = as_list(tolerances)
    if listed is None:
        raise ArgumentError(f"tolerances must be a list of numbers, got {tolerances!r}; write [{tolerances!r}].")
    places = [check_positive("a tolerance", t) for t in listed]
    if len(set(places)) != len(places):
        raise ArgumentError(f"tolerances holds a value twice: {listed!r}.")
    if isinstance(seeds, Integral):
        chosen_seeds = tuple(range(check_positive_integer("seeds", seeds)))
    else:
        chosen_seeds = _integers("seeds", seeds, lowest=0)

    cells: list[Cell] = []
    for subject in subjects.values():
        if t_end is not None:
            subject.model.sde.check_time("t_end", t_end)
        for contender in field.values():
            rungs = _rungs(contender, subject, budgets, places, t_end)
            cells += [Cell(subject.label, contender.label, seed, *rung) for rung in rungs for seed in chosen_seeds]
    cells.sort(key=lambda c: (c.budget or 0, c.seed))
    plan = Plan(
        subjects,
        field,
        tuple(cells),
        budgets,
        tuple(places),
        chosen_seeds,
        reference_n,
        flow_steps,
        floor_repeats,
        t_end,
        check_device(device),
    )
    for cell in cells:
        if not plan.metrics_of(cell):
            raise ArgumentError(
                f"nothing would be measured for solver {cell.solver!r} on model {cell.model!r}: the flow error is for "
                "deterministic solvers without a denoised end. Give a reference (a target of sk.targets), or other "
                "metrics."
            )
    return plan


def starts(plan: Plan, subject: Subject, seed: int) -> Tensor:
    """The state at T that every solver starts from with this seed: what `sample(…, seed=seed)` draws, (n, *)."""
    model = subject.model
    t = model.sde.t_max
    shape = (subject.n, *subject.shape)
    draw = KeyedNoise(seed).prior(shape, t=t, dtype=model.placement[0], device=plan.device)
    return draw.mul_(model.sde.prior_std(t, model.data_std))


def run_solver(
    solver: Solver | Loop,
    model: ScoreModel,
    x: Tensor,
    *,
    steps: int | None,
    seed: int,
    t_end: float | None = None,
    sampling: Mapping[str, Any] | None = None,
) -> Outcome:
    """Move x, (B, *), from T to the data."""
    if isinstance(solver, Solver):
        out: Solution = sample(
            model, x_T=x, solver=solver, steps=steps, seed=seed, t_end=t_end, device=x.device, **(sampling or {})
        )
        return Outcome(out.x, float(torch.as_tensor(out.nfe).double().mean()), out.status)
    counted = model.counted()
    with torch.no_grad():
        end = solver.function(counted, x.clone(), steps or 0, seed)
    if not isinstance(end, Tensor) or end.shape != x.shape:
        shown = tuple(end.shape) if isinstance(end, Tensor) else type(end).__name__
        raise ShapeError(f"the loop returned {shown}; expected samples of the shape of x, {tuple(x.shape)}.")
    return Outcome(end, counted.counter.calls, "success")


# Parts ---------------------------------------------------------------------------------------------------------------


def _for_each(name: str, value: Given | Mapping[str, Given], models: Mapping[str, Any]) -> dict[str, Given]:
    """One value for each model: the same for all, or from a mapping with the same keys."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(models, value)
    wrong = set(value) ^ set(models)
    if wrong:
        raise ArgumentError(
            f"{name} is given by model, but its names are {', '.join(map(repr, value))}; the models are "
            f"{', '.join(map(repr, models))}."
        )
    return dict(value)


def _integers(name: str, values: object, lowest: int) -> tuple[int, ...]:
    listed = as_list(values)
    if not listed or not all(isinstance(v, Integral) and not isinstance(v, bool) and int(v) >= lowest for v in listed):
        raise ArgumentError(f"{name} must be a list of integers of at least {lowest}, got {values!r}.")
    if len(set(listed)) != len(listed):
        raise ArgumentError(f"{name} holds a value twice: {listed!r}.")
    return tuple(int(v) for v in listed)


def _subject(
    label: str,
    model: ScoreModel,
    reference: Target | None,
    metrics: Sequence[str | Metric] | None,
    n: int,
    reference_n: int,
) -> Subject:
    if check_positive_integer("n", n) < _FEWEST:
        raise ArgumentError(f"n must be at least {_FEWEST}, for the intervals; got {n}.")
    if reference is not None and not isinstance(reference, Target):
        raise ArgumentError(
            f"reference must be a target of sk.targets: its draws give the noise floor; got {type(reference).__name__}."
        )
    shape = model.shape or (None if reference is None else reference.shape)
    if shape is None:
        raise ShapeError(f"model {label!r} has no sample shape: build it with ScoreModel(…, shape=(1, 8, 8)).")
    if reference is not None and reference.shape != shape:
        raise ShapeError(f"model {label!r} makes samples of shape {shape}, its reference draws {reference.shape}.")
    if metrics is None:
        metrics = ("energy_distance", "flow_error") if reference is not None else ("flow_error",)
    if isinstance(metrics, (str, Metric)) or not metrics:
        raise ArgumentError(f"metrics is a list of names ({', '.join(METRICS)}) or Metrics, got {metrics!r}.")
    built = tuple(_metric(m, reference, reference_n) for m in metrics)
    names = [m.name for m in built]
    if len(set(names)) != len(names):
        raise ArgumentError(f"metrics holds a name twice: {names!r}.")
    return Subject(label, model, reference, built, n, shape)


def _metric(metric: str | Metric, reference: Target | None, reference_n: int) -> Metric:
    name = metric if isinstance(metric, str) else getattr(metric, "name", "")
    if isinstance(metric, str) and metric not in METRICS:
        raise UnknownNameError("metric", metric, METRICS)
    if not isinstance(metric, (str, Metric)):
        raise ArgumentError(f"a metric is a name ({', '.join(METRICS)}) or a Metric, got {metric!r}.")
    needs_reference = metric.needs in ("samples", "log_prob") if isinstance(metric, Metric) else metric != "flow_error"
    if needs_reference and reference is None:
        raise ArgumentError(f"metric {name!r} needs a reference; give reference=…, a target of sk.targets.")
    if isinstance(metric, Metric):
        return metric
    if metric == "flow_error" or reference is None:
        return FlowError()
    if metric == "mmd":
        return MMD(median_bandwidth(reference.sample(min(reference_n, 1000), seed=0)))
    if metric == "log_density_gap":
        return MeanLogDensity(reference.log_prob)
    return EnergyDistance() if metric == "energy_distance" else SlicedWasserstein()


def _rungs(
    contender: Contender, subject: Subject, budgets: Sequence[int], tolerances: Sequence[float], t_end: float | None
) -> list[tuple[int | None, int | None, float | None]]:
    """(budget, steps, tolerance) of each run of a contender."""
    solver = contender.at()
    if isinstance(solver, Solver):
        dynamics = ReverseSDE(subject.model) if solver.stochastic else ProbabilityFlow(subject.model)
        solver.check(dynamics)
        if solver.adaptive:
            _check_adaptive(contender, solver, subject, t_end)
            if contender.takes_tolerance and not tolerances:
                raise ArgumentError(f"solver {contender.label!r} takes tolerances instead of nfe; tolerances is empty.")
            return [(None, None, t) for t in tolerances] if contender.takes_tolerance else [(None, None, None)]
    two, three = (_evaluations(contender, solver, subject, steps, t_end) for steps in (2, 3))
    each = three - two
    fixed = two - 2 * each
    if each < 1:
        raise ArgumentError(f"solver {contender.label!r} makes no evaluation a step: budgets mean nothing for it.")
    out: list[tuple[int | None, int | None, float | None]] = []
    for budget in budgets:
        steps = (budget - fixed) // each
        if steps < 1:
            raise ArgumentError(
                f"solver {contender.label!r} needs {fixed + each} evaluations for one step, more than the budget of "
                f"{budget}; leave out that budget or that solver."
            )
        out.append((budget, steps, None))
    return out


def _evaluations(contender: Contender, solver: Solver | Loop, subject: Subject, steps: int, t_end: float | None) -> int:
    """What a run of so many steps costs, counted on a stand-in for the network that answers 0."""
    x = torch.zeros(1, *subject.shape)
    out = run_solver(solver, _stand_in(subject), x, steps=steps, seed=0, t_end=t_end, sampling=contender.sampling)
    return round(out.nfe)


def _check_adaptive(contender: Contender, solver: Solver, subject: Subject, t_end: float | None) -> None:
    """Raise what a run would raise at the door, by a run on a stand-in, of two evaluations if it can be bounded."""
    if is_dataclass(solver) and "max_nfe" in solver.options():
        solver = replace(solver, max_nfe=2)
    with suppress(NonFiniteError):  # the stand-in's own
        x = torch.zeros(1, *subject.shape)
        run_solver(solver, _stand_in(subject), x, steps=None, seed=0, t_end=t_end, sampling=contender.sampling)


def _stand_in(subject: Subject) -> ScoreModel:
    """The model with a network that answers 0."""
    model = subject.model
    return ScoreModel(
        lambda x, t, **_: torch.zeros_like(x), model.sde, model.prediction, data_std=model.data_std, shape=subject.shape
    )
