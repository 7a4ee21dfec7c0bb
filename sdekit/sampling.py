"""The one call: `solve` for any SDE or ODE, `sample` for a score model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from sdekit._tensors import (
    as_list,
    check_device,
    check_dtype,
    check_positive_integer,
    check_shape,
    check_state,
    is_finite,
)
from sdekit.dynamics import Dynamics, ForwardSDE, ProbabilityFlow, ReverseSDE, as_dynamics
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError, UnsupportedError
from sdekit.grids import Custom, make_grid
from sdekit.models.score import ScoreModel, conditioned
from sdekit.noise import NoiseSource, noise_source
from sdekit.sdes import AbstractSDE
from sdekit.sdes.calculus import Reread, check_own_entries
from sdekit.sdes.torchsde_style import TorchsdeObject
from sdekit.solvers.adaptive import Adaptive
from sdekit.solvers.base import Observers, Problem, Solver, StepInfo
from sdekit.solvers.catalogue import get, on_sde
from sdekit.solvers.chunks import integrate
from sdekit.solvers.compiled import Compiled
from sdekit.solvers.ecosystem import recipe
from sdekit.solvers.event_steps import on_grid
from sdekit.solvers.events import Direction, Event
from sdekit.solvers.fixed_step import FixedStepSolver
from sdekit.solvers.gradients import Differentiable
from sdekit.solvers.solution import Solution, SolveState, first_bad_samples
from sdekit.solvers.step import StepSolver
from sdekit.solvers.times import GridLike, solve_times

__all__ = ["check_derivatives", "sample", "solve"]

NoiseFunction = Callable[[float, float, tuple[int, ...]], Tensor]
Generators = torch.Generator | Sequence[torch.Generator]


def solve(
    dynamics: Dynamics | AbstractSDE | TorchsdeObject,
    x0: Tensor,
    *,
    t0: float | None = None,
    t1: float | None = None,
    solver: str | Solver = "euler_maruyama",
    steps: int | None = None,
    grid: GridLike | None = None,
    save_at: Sequence[float] | Tensor | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    generator: Generators | None = None,
    noise: NoiseSource | NoiseFunction | None = None,
    first: int = 0,
    chunk: int | None = None,
    progress: bool = False,
    callback: Callable[[StepInfo], None] | None = None,
    trajectory: bool = False,
    dense: bool = False,
    event: Callable[..., Tensor] | None = None,
    event_direction: Direction = "any",
    event_tolerance: float = 1e-8,
    event_parameters: Mapping[str, Tensor] | None = None,
    compiled: bool = False,
    gradient: str | None = None,
    gradient_parameters: Sequence[Tensor] | None = None,
    resume: SolveState | None = None,
    stop: int | None = None,
    **options: Any,
) -> Solution:
    """Move x0 along an SDE or ODE from t0 to t1 with the solver named; time may run either way.

    Args:
        dynamics: an SDE (solved as it stands), or dynamics: ReverseSDE(model), ProbabilityFlow(model), ODE(f); or an
            object as torchsde's users write it, with f(t, y), g(t, y), noise_type and sde_type.
        x0: the state at t0, (B, *), floating point.
        t0: the start, in [0, T] for a diffusion SDE and its models; may be left out where the grid is a list of times.
        t1: the end, likewise.
        solver: a name (`sdekit.solvers.names()`) or a Solver.
        steps: the number of steps; required by a fixed-step solver with a named grid, refused by an adaptive one.
        grid: a name, a Grid, or the times themselves; the solver's own default unless given.
        save_at: times at which to keep the state as `trajectory`, in the order of the solve. Each becomes a place of
            the grid, so the values are the solver's own, not interpolated; an adaptive solver uses its dense output.
        seed: every sample its own stream, keyed by (seed, first + index): the same alone or in a batch.
        seeds: a seed for each sample.
        generator: a torch.Generator, or one for each sample; consumed as torch.randn would.
        noise: a NoiseSource, or a function (t, s, shape) -> standard normal draws. With none of these four, torch's
            global RNG is used and never reseeded.
        first: the index of the first sample, with `seed`.
        chunk: solve at most so many samples at a time. The draws do not depend on it; so the results do not either, bit
            for bit where the network works entry by entry, and up to its rounding where it multiplies matrices, whose
            kernels depend on the batch. Refused with a solver that couples the samples of a batch (`couples_batch`).
        progress: show a bar.
        callback: called after each step with a StepInfo; may change x in place and stop the solve.
        trajectory: keep the state at every time of the grid, or at those of `save_at` alone. An adaptive embedded
            method has no grid: it keeps every step of each sample, with `trajectory_times` (K, B). Other adaptive
            solvers ('dpm_adaptive', 'scipy:…') keep the start and the end.
        event: a function f(x, t) -> (B,), with t float64 (B,): a sample stops where it crosses zero, and keeps the
            state that it has there. `Solution.event_times` are the times, NaN for samples that reached the end, and
            `stats["status"]` says "event" for those that stopped. For step solvers and adaptive ones. A crossing is
            seen at the ends of steps; one that comes back within a step is not, so that an SDE needs short steps, whose
            first passages are late by a time of order sqrt(h) in the mean.
        event_direction: "up" for crossings from below zero, "down" from above, "any" for both. A sample that starts at
            zero has crossed nothing yet.
        event_tolerance: of the time of a crossing, as a part of the whole solve; it is located on the solve's own path.
        event_parameters: tensors of shape (B, …), a row for each sample: given to `event` by name, and cut with the
            batch. `event=lambda x, t, level: x[:, 0] - level, event_parameters={"level": levels}` stops each sample at
            a level of its own.
        compiled: run the steps as compiled code, 64 in one function: for small states of SDEs under step solvers. The
            first such solve takes some 30 seconds longer. The numbers are the same to rounding. Steps watched one by
            one (callback, trajectory=True), and fewer than 8, run as they are; each size of chunk is compiled by
            itself.
        dense: give `Solution.dense`, the solution at any time of the solve, from the interpolation that belongs to an
            adaptive ODE method. SDE solvers have none: between steps the value is random, and lives on the path.
        gradient: None records no graph, whatever requires gradients, and says nothing about it. Otherwise the solution
            (its trajectory too) is differentiable, on the noise drawn, with respect to x0 and all that the dynamics are
            made of. "backprop" keeps the graph of all steps. "checkpoint" keeps sqrt(steps) states and the graph of
            sqrt(steps) steps at a time, for one solve more. "reversible", for 'reversible_heun', keeps the end and
            the graph of one step. For step solvers on a grid; the values are those of None to the bit, but for
            'euler_maruyama' on an affine drift, whose steps without a graph round otherwise. `nfe` counts no evaluation
            of the gradient's.
        gradient_parameters: for "checkpoint" and "reversible", tensors that the dynamics depend on. Most are found by
            themselves; where one is not, the gradient ends in an error that asks for it.
        resume: a state (`Solution.state`) of the same solve to go on from; give everything else as it was. One that is
            known to be of another solver, grid, SDE, seed or start is refused; the network's weights are not compared.
        stop: end after this many steps.
        options: the solver's own, where it is given by name (`eta`, `snr`, `rtol`, …).

    An SDE of the other calculus than the solver's is solved with its drift corrected by autodiff
    (`sdekit.sdes.as_ito`, `as_stratonovich`), so that the solution is the same; `stats["converted"]` says so. The names
    of ODE methods ("euler", "heun", "midpoint") stand for their stochastic namesakes on an SDE.

    Raises:
        ArgumentError, ShapeError, UnknownNameError: for input that makes no sense, before any evaluation.
        UnsupportedError: if the solver cannot serve the dynamics, before any evaluation; or if the diffusion of an SDE
            that must be converted cannot be differentiated.
        NonFiniteError: if the state becomes non-finite; names solver, step and time.
        ConvergenceError: if the equations of an implicit step are not solved; names solver, step and time.
    """
    moving = as_dynamics(dynamics, x0, _first_time(t0, grid))
    if isinstance(solver, str):
        named = recipe(solver)
        solver, options = named.solver, {**named.options, **options}
        if isinstance(moving, ForwardSDE):
            solver = on_sde(solver)
        grid = named.grid if grid is None else grid
    chosen = _solver(solver, options)
    grid = chosen.own_grid if grid is None and steps is None else grid
    chosen = _compiled(chosen) if compiled else chosen
    x0 = check_state("x0", x0)
    moving = moving.rows(slice(0, x0.shape[0]), tuple(x0.shape))  # parameters that do not fit are told here
    chosen.check(_reread(moving, chosen))
    _check_dense(chosen, dense)
    ends = _event(event, event_direction, event_tolerance, event_parameters, dense)
    ends = None if ends is None else ends.rows(slice(None), x0.shape[0])  # parameters that do not fit are told here
    times, kept = solve_times(moving, chosen, steps, grid, t0, t1, save_at)
    reread = _reread(moving, chosen, falling=bool(times[0] > times[-1]))
    check_derivatives(chosen, moving, reread, x0, times[0])
    moving = reread
    source = noise_source(seed=seed, seeds=seeds, generator=generator, noise=noise, first=first)
    keep = trajectory or save_at is not None
    observers = Observers(
        progress, _checked_callback(chosen, callback), keep, dense, None if kept is None else kept.places
    )
    running, start = chosen, x0.detach()  # a graph is made where it is asked for, and then the whole of it
    if gradient is not None or gradient_parameters is not None:
        start = x0
        given: dict[str, object] = {"callback": callback, "resume": resume, "stop": stop, "event": event}
        given |= {"dense": dense, "compiled": compiled}
        places = None if trajectory or kept is None else kept.places
        running = _differentiable(chosen, gradient, gradient_parameters, places, given)
    elif ends is not None:
        running, observers = _with_event(chosen, moving, ends), replace(observers, event=ends)
    solution = integrate(running, Problem(moving, start, times, source), observers, chunk, resume, stop)
    if isinstance(moving.sde, Reread):
        said = f"{moving.sde.original.calculus} to {moving.sde.calculus}"
        solution = replace(solution, stats={**solution.stats, "converted": said})
    return solution if kept is None else kept.select(solution)


def sample(
    model: ScoreModel,
    n_or_shape: int | Sequence[int] | None = None,
    solver: str | Solver = "ddim",
    steps: int | None = None,
    *,
    grid: GridLike | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
    x_T: Tensor | None = None,
    denoise: bool | str = False,
    condition: Mapping[str, Any] | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    generator: Generators | None = None,
    noise: NoiseSource | NoiseFunction | None = None,
    first: int = 0,
    chunk: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
    callback: Callable[[StepInfo], None] | None = None,
    trajectory: bool = False,
    save_at: Sequence[float] | Tensor | None = None,
    dense: bool = False,
    resume: SolveState | None = None,
    stop: int | None = None,
    **options: Any,
) -> Solution:
    """Draw from the prior and move the draw to the data with the solver named.

    A stochastic solver integrates the reverse SDE, any other the probability flow.

    Args:
        model: the score model.
        n_or_shape: the number of samples, where the model knows its sample's shape; or the whole shape (B, *). May be
            left out where x_T is given.
        solver: a name (`sdekit.solvers.names()`) or a Solver.
        steps: the number of steps; required by a fixed-step solver with a named grid, refused by an adaptive one.
        grid: a name, a Grid or the times themselves, from noise to data; the solver's own default unless given.
        t_start: where the solve starts; T of the SDE unless given. The prior is drawn at this very time.
        t_end: where it ends; `t_min` of the SDE unless given; 0 goes to the data itself.
        x_T: the start, instead of a prior draw.
        denoise: True replaces the end state by the denoised E[x_0 | x] (one evaluation more, counted); "mean" leaves
            the noise out of a stochastic solver's last step, at no cost.
        condition: keyword arguments for every network call; batch-first tensors are cut with the batch.
        dtype, device: of the samples, unless x_T says so; those of the network's parameters unless given, or float32 on
            the CPU for a network without any.
        seed, seeds, generator, noise, first, chunk, progress, callback, trajectory, save_at, dense, resume, stop,
            options: as in `solve`. The prior is drawn from the same source, before the steps.

    Raises: as `solve`.
    """
    if not isinstance(model, ScoreModel):
        raise ArgumentError(
            f"model must be a ScoreModel, got {type(model).__name__}; wrap it: ScoreModel(network, sde)."
        )
    if isinstance(solver, str):
        # A name from elsewhere may stand for a grid and an end too; what the call says goes before it.
        named = recipe(solver)
        solver, options = named.solver, {**named.options, **options}
        denoise = named.denoise if denoise is False else denoise
        if grid is None:
            grid, t_end = named.grid, named.t_end if t_end is None else t_end
    chosen = _solver(solver, options)
    grid = chosen.own_grid if grid is None and steps is None else grid
    if denoise is not False and denoise is not True and denoise != "mean":
        raise ArgumentError(f"denoise must be False, True or 'mean', got {denoise!r}.")
    if denoise == "mean" and not (chosen.stochastic and isinstance(chosen, FixedStepSolver)):
        raise ArgumentError(f"denoise='mean' leaves out the last step's noise; solver {chosen.name!r} adds none.")
    model = conditioned(model, condition).counted()
    moving: Dynamics = ReverseSDE(model) if chosen.stochastic else ProbabilityFlow(model)
    chosen.check(moving)
    _check_dense(chosen, dense)
    sde = model.sde
    start = sde.t_max if t_start is None else sde.check_time("t_start", t_start, zero=False)
    end = sde.t_min if t_end is None else sde.check_time("t_end", t_end)
    if grid is None or isinstance(grid, str):
        if not end < start:
            raise ArgumentError(f"the solve runs from t_start down to t_end; got t_start={start:g}, t_end={end:g}.")
        times, kept = solve_times(moving, chosen, steps, grid, start, end, save_at)
    else:
        bounded = None if t_start is None else start, None if t_end is None else end
        default = not isinstance(make_grid(grid), Custom)
        times, kept = solve_times(
            moving, chosen, steps, grid, start if default else bounded[0], end if default else bounded[1], save_at
        )
        if not times[0] > times[-1]:
            raise ArgumentError("the grid of `sample` runs from noise to data: its times must fall.")
    source = noise_source(seed=seed, seeds=seeds, generator=generator, noise=noise, first=first)
    x = _start(model, n_or_shape, x_T, source, float(times[0]), chunk, dtype, device)
    keep = trajectory or save_at is not None
    observers = Observers(
        progress, _checked_callback(chosen, callback), keep, dense, None if kept is None else kept.places
    )
    problem = Problem(moving, x, times, source, last_noise=denoise != "mean")
    solution = integrate(chosen, problem, observers, chunk, resume, stop)
    solution = solution if kept is None else kept.select(solution)
    if denoise is True and solution.status == "success":
        return _denoised(solution, model, chosen, chunk)
    return solution


def _reread(dynamics: Dynamics, solver: Solver, falling: bool = False) -> Dynamics:
    """An SDE in a calculus of the solver's."""
    if not (isinstance(dynamics, ForwardSDE) and solver.stochastic):
        return dynamics
    return dynamics.read_by(solver.calculus, falling)


def check_derivatives(solver: Solver, dynamics: Dynamics, reread: Dynamics, x0: Tensor, t0: Tensor) -> None:
    """Raise UnsupportedError where a derivative of the diffusion that the solve needs cannot be had, as seen at x0.

    reread: the dynamics in the solver's calculus; `dynamics` itself where it is that already.
    """
    with torch.no_grad():
        if reread is not dynamics and isinstance(reread.sde, Reread):
            reread.sde.check(x0, t0.to(x0.device))
        elif reread.noise == "diagonal" and reread.calculus in solver.own_entries and reread.sde is not None:
            check_own_entries(reread.sde, x0, t0.to(x0.device))


def _first_time(t0: object, grid: object) -> float:
    """Where a solve starts, as far as its arguments, not checked yet, say."""
    first = t0 if isinstance(t0, Real) else (as_list(grid) or [0.0])[0]
    return float(first) if isinstance(first, Real) else 0.0


# What both need ----------------------------------------------------------------------------------------------------


def _solver(solver: str | Solver, options: Mapping[str, Any]) -> Solver:
    if isinstance(solver, Solver):
        if options:
            raise ArgumentError(
                f"unknown argument(s) {', '.join(map(repr, sorted(options)))}: options of a solver given as an object "
                "are set where it is made."
            )
        return solver
    if isinstance(solver, type) and issubclass(solver, Solver):
        raise ArgumentError(f"solver is the class {solver.__name__}; give an object, {solver.__name__}().")
    return get(solver, **options)


def _checked_callback(solver: Solver, callback: Callable[[StepInfo], None] | None) -> Callable[[StepInfo], None] | None:
    if callback is not None and not callable(callback):
        raise ArgumentError(f"callback must be a function of a StepInfo, got {callback!r}.")
    if callback is not None and not isinstance(solver, FixedStepSolver):
        raise UnsupportedError(f"solver {solver.name!r} chooses its own steps and calls no callback.")
    return callback


def _differentiable(
    solver: Solver,
    gradient: str | None,
    parameters: Sequence[Tensor] | None,
    places: Tensor | None,
    given: Mapping[str, object],
) -> Differentiable:
    """The solver with gradients; `given` holds the arguments that do not go with them."""
    if gradient is None:
        raise ArgumentError("gradient_parameters goes with gradient='checkpoint' or 'reversible'; gradient is None.")
    wrong = [name for name, value in given.items() if value is not None and value is not False]
    if wrong:
        raise UnsupportedError(f"{' and '.join(wrong)} cannot be combined with gradient={gradient!r}; leave it out.")
    return Differentiable(solver, gradient, parameters, places)


def _compiled(solver: Solver) -> Compiled:
    if not isinstance(solver, StepSolver):
        raise UnsupportedError(
            f"compiled=True serves step solvers on a grid, such as 'euler_maruyama'; not {solver!r}."
        )
    return Compiled(solver)


def _event(function: Any, direction: Any, tolerance: Any, parameters: Any, dense: bool) -> Event | None:
    if function is None:
        if (direction, tolerance, parameters) != ("any", 1e-8, None):
            raise ArgumentError("event_direction, event_tolerance and event_parameters go with event, which is None.")
        return None
    if dense:
        raise UnsupportedError("a dense output goes as far as all samples do: leave out dense=True, or the event.")
    return Event(function, direction, tolerance, parameters)


def _with_event(solver: Solver, dynamics: Dynamics, event: Event) -> Solver:
    """The solver, made to stop at the event; an adaptive one reads it off its observers."""
    return solver if isinstance(solver, Adaptive) else on_grid(solver, dynamics, event)


def _check_dense(solver: Solver, dense: bool) -> None:
    if not isinstance(dense, bool):
        raise ArgumentError(f"dense must be True or False, got {dense!r}.")
    if not dense or solver.dense:
        return
    if solver.stochastic:
        raise UnsupportedError(
            f"solver {solver.name!r} has no dense output: between the steps of an SDE the value is random, and lives "
            "on the Brownian path. Name the times that you want in save_at, or take more steps."
        )
    raise UnsupportedError(
        f"solver {solver.name!r} has no dense output. Take an adaptive ODE method, such as 'tsitouras_5' with rtol, or "
        "name the times that you want in save_at."
    )


def _start(
    model: ScoreModel,
    n_or_shape: int | Sequence[int] | None,
    x_T: Tensor | None,
    source: NoiseSource,
    t: float,
    chunk: int | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Tensor:
    """The state at the start: x_T, or a draw of the prior at time t."""
    own_dtype, own_device = model.placement
    dtype = own_dtype if dtype is None else check_dtype(dtype)
    place = own_device if device is None else check_device(device)
    if x_T is not None:
        x = check_state("x_T", x_T)
        if model.shape is not None and tuple(x.shape[1:]) != model.shape:
            raise ShapeError(f"the model makes samples of shape {model.shape}, but x_T has shape {tuple(x.shape)}.")
        shape = None if n_or_shape is None else _shape(model, n_or_shape)
        if shape is not None and tuple(x.shape) != shape:
            raise ShapeError(f"x_T has shape {tuple(x.shape)}, but {shape} was asked for; leave one of them out.")
        return x.detach()
    if n_or_shape is None:
        raise ArgumentError("give the number of samples, the whole shape (B, *), or x_T.")
    shape = _shape(model, n_or_shape)
    std = model.sde.prior_std(t, model.data_std)
    return source.prior(shape, t=t, dtype=dtype, device=place).mul_(std)


def _shape(model: ScoreModel, n_or_shape: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(n_or_shape, Integral) and not isinstance(n_or_shape, bool):
        if model.shape is None:
            raise ShapeError(f"the model has no sample shape of its own: give the whole shape, ({n_or_shape}, …).")
        return (check_positive_integer("n", n_or_shape), *model.shape)
    shape = check_shape(n_or_shape)
    if model.shape is not None and shape[1:] != model.shape:
        raise ShapeError(f"the model makes samples of shape {model.shape}, but {shape} was asked for.")
    return shape


def _denoised(solution: Solution, model: ScoreModel, solver: Solver, chunk: int | None) -> Solution:
    """The solution with E[x_0 | x] in place of its end state x; one evaluation more."""
    batch = solution.x.shape[0]
    size = chunk or batch
    with torch.no_grad():
        rows = [
            model.part(a, min(batch, a + size), batch).denoised(solution.x[a : a + size], solution.t)
            for a in range(0, batch, size)
        ]
    x = torch.cat(rows)
    if not is_finite(x):
        raise NonFiniteError(solver.name, len(solution.times), solution.t, first_bad_samples(x))
    return replace(solution, x=x, nfe=solution.nfe + 1, stats={**solution.stats, "denoised": True})
