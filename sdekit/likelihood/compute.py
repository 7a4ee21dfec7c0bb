r"""The log-likelihood of a score model, by the instantaneous change of variables along its probability flow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdekit._tensors import check_state
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError, UnknownNameError, UnsupportedError
from sdekit.grids import Grid, make_grid
from sdekit.likelihood.divergence import (
    DIVERGENCES,
    Along,
    Distribution,
    Divergence,
    Exact,
    Hutchinson,
    JoinedTraces,
    Traces,
    column_mean,
)
from sdekit.likelihood.flow import AugmentedFlow
from sdekit.likelihood.result import Budget, LogLikelihood
from sdekit.models.score import ScoreModel, conditioned
from sdekit.noise import NoiseSource, noise_source
from sdekit.sampling import solve
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.base import Solver
from sdekit.solvers.catalogue import get
from sdekit.solvers.solution import Solution, Status

__all__ = ["log_likelihood"]

_EXACT_UP_TO = 16  # dimensions; the exact trace then costs at most four times the four probes of the estimate
_EVALUATIONS = 160


def log_likelihood(
    model: ScoreModel,
    x: Tensor,
    *,
    solver: str | Solver = "rk4",
    steps: int | None = None,
    grid: str | Grid | Sequence[float] | Tensor | None = None,
    divergence: str | Divergence | None = None,
    probes: int | None = None,
    probe_distribution: Distribution | None = None,
    probes_along: Along | None = None,
    t_eps: float | None = None,
    condition: Mapping[str, Any] | None = None,
    integration_error: bool = False,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    first: int = 0,
    chunk: int | None = None,
    progress: bool = False,
    **options: Any,
) -> LogLikelihood:
    r"""The log-density of each sample of x under the model's probability flow, with its errors.

    In u = ln sigma~, with sigma~ = sigma/alpha, x~ = x/alpha and D = E[x_0 | x_t], from t_eps to T,

        dx~/du = x~ - D
        log p(x) = log prior(x_T) + d ln(sigma_T/sigma_eps) - int tr(dD/dx~) du

    (Song et al. 2021, arXiv 2011.13456; trace estimate: Grathwohl et al. 2019, arXiv 1810.01367.) The prior is
    N(0, (alpha_T^2 data_std^2 + sigma_T^2) I), with the model's `data_std`. One network evaluation a function
    evaluation; the trace costs d backward passes (exact) or one for each probe. x~ and log p are integrated in float64,
    whatever the dtype of x.

    Args:
        model: the score model; autograd must be able to differentiate its network in x.
        x: (B, *), floating point: the data, taken as the state at t_eps. No gradient flows through the result.
        solver: "rk4", "heun", "euler", any other deterministic solver that sees only a drift, or "scipy:RK45" and its
            like. scipy's error norm couples the samples of a batch; per_sample=True solves each on its own.
        steps: of a fixed-step solver; as many as make 160 evaluations unless given. Refused by an adaptive solver.
        grid: where a fixed-step solver steps; uniform in u unless given.
        divergence: "exact", "hutchinson" or a Divergence. Unless given: "hutchinson" where an option of the probes is
            given, else "exact" up to 16 dimensions and "hutchinson" above. The result says which it was.
        probes: independent sets of probes, 4 unless given; their spread gives the standard error, so 1 has none.
        probe_distribution: "rademacher" unless given, or "gaussian".
        probes_along: "independent", drawn anew at each evaluation, unless given, or "fixed" along the path; "fixed" is
            the only choice with an adaptive solver.
        t_eps: where the density is asked for; `t_min` of the SDE unless given.
        condition: keyword arguments for every network call; batch-first tensors are cut with the batch.
        integration_error: solve once more, coarser, for `budget.integration`; half as many evaluations again, or for an
            adaptive solver nearly as many; and with independent probes as many fixed ones beside them in both.
        seed: of the probes: every sample its own stream, keyed by (seed, first + index); 0 unless one of seed, seeds
            and generator is given.
        seeds, generator, first, chunk, progress: as in `sample`.
        options: the solver's own, where it is given by name: rtol, atol, max_nfe, per_sample.

    Raises:
        ArgumentError, ShapeError, UnknownNameError: for input that makes no sense, before any evaluation; and
            ArgumentError for a network that autograd cannot differentiate in x.
        UnsupportedError: if the solver cannot integrate this ODE, before any evaluation.
        NonFiniteError: if the state or its density becomes non-finite; names solver, step and t.
    """
    if not isinstance(model, ScoreModel):
        raise ArgumentError(
            f"model must be a ScoreModel, got {type(model).__name__}; wrap it: ScoreModel(network, sde)."
        )
    x = check_state("x", x)
    if model.shape is not None and tuple(x.shape[1:]) != model.shape:
        raise ShapeError(f"the model's samples have shape {model.shape}, but x has shape {tuple(x.shape)}.")
    chosen = _solver(solver, options)
    span = _span(model.sde, t_eps)
    trace = _divergence(divergence, probes, probe_distribution, probes_along, math.prod(x.shape[1:]), chosen)
    places = _places(model.sde, chosen, steps, grid, span)
    coarse = _coarser(chosen, places) if integration_error else None
    default = 0 if seeds is None and generator is None else None
    source = noise_source(seed=default if seed is None else seed, seeds=seeds, generator=generator, first=first)
    model = conditioned(model, condition)
    with torch.inference_mode(False):
        problem = _Problem(model, x.detach().clone(), span, source, chunk, progress)
        traces = problem.open(trace)
        if coarse is None:
            end = problem.solve(chosen, places, traces)
            nfe, integration = end.nfe, None
        else:
            # Two solves are compared under the same fixed probes: their noise then drops out of the difference.
            fixed = _fixed(trace)
            shared = traces if fixed is None else problem.open(fixed)
            end = problem.solve(chosen, places, traces, None if fixed is None else shared)
            again = problem.solve(*coarse, shared)
            fine = end.log_probs if end.shared is None else end.shared
            integration = column_mean(fine - again.log_probs).abs()
            nfe = end.nfe + again.nfe
        std_error = _std_error(end.log_probs, trace)
        return LogLikelihood(
            log_prob=column_mean(end.log_probs),
            std_error=std_error,
            latent=end.latent,
            nfe=nfe,
            budget=Budget(
                probe=std_error,
                integration=integration,
                truncation=end.truncation,
                prior=_prior_bound(model, problem.x, span),
                unknown={} if integration_error else {"integration": "not asked for: integration_error=True"},
            ),
            status=end.status,
            divergence=repr(trace),
            dim=x[0].numel(),
        )


# The solve -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _End:
    """What one solve gives: log_probs (B, K), one for each set of probes, and those of the shared probes, if any."""

    latent: Tensor
    log_probs: Tensor
    shared: Tensor | None
    truncation: Tensor
    nfe: int | Tensor
    status: Status


@dataclass(frozen=True)
class _Problem:
    model: ScoreModel
    x: Tensor
    span: tuple[float, float]
    source: NoiseSource
    chunk: int | None
    progress: bool

    def open(self, divergence: Divergence) -> Traces:
        """The traces for this state; fixed probes are drawn here."""
        return divergence.open(tuple(self.x.shape), self.source, dtype=self.x.dtype, device=self.x.device)

    def solve(self, solver: Solver, places: Tensor, columns: Traces, shared: Traces | None = None) -> _End:
        """One solve over `places`, values of u (its two ends for an adaptive solver), with further traces beside."""
        model, x, sde = self.model, self.x, self.model.sde
        batch, d = x.shape[0], x[0].numel()
        traces = columns if shared is None else JoinedTraces(columns, shared)
        truncation = torch.full((batch,), math.nan, dtype=torch.float64, device=x.device)
        flow = AugmentedFlow(model, traces, tuple(x.shape), x.dtype, self.span, truncation)
        start = torch.cat(
            [
                x.double().reshape(batch, d) / float(sde.alpha(self.span[0])),
                torch.zeros(batch, traces.columns, dtype=torch.float64, device=x.device),
            ],
            1,
        )
        where: dict[str, Any] = {"grid": places}
        if solver.adaptive:
            where = {"t0": float(places[0]), "t1": float(places[-1])}
        try:
            solution = solve(flow, start, solver=solver, chunk=self.chunk, progress=self.progress, **where)
        except NonFiniteError as error:
            time = float(flow.time(torch.tensor(error.time, dtype=torch.float64)))
            raise error.moved(time=time) from None
        end = float(sde.alpha(self.span[1])) * solution.x[:, :d]
        prior = sde.prior_log_prob(end, t=self.span[1], data_std=model.data_std)
        growth = d * math.log(float(sde.sigma(self.span[1])) / float(sde.sigma(self.span[0])))
        log_probs = (prior + growth)[:, None] - solution.x[:, d:]
        log_probs[~_finished(solution)] = math.nan
        k = columns.columns
        return _End(
            latent=end.to(x.dtype).reshape(x.shape),
            log_probs=log_probs[:, :k],
            shared=None if shared is None else log_probs[:, k:],
            truncation=truncation,
            nfe=solution.nfe,
            status=solution.status,
        )


def _finished(solution: Solution) -> Tensor:
    """Which samples reached the end: bool (B,)."""
    each = solution.stats.get("status", solution.status)
    statuses = each if isinstance(each, list) else [each] * len(solution.x)
    return torch.tensor([status == "success" for status in statuses], device=solution.x.device)


def _fixed(trace: Divergence) -> Divergence | None:
    """As many fixed probes, for a trace whose probes change along the path and so cannot serve two solves; or None."""
    if isinstance(trace, Hutchinson) and trace.along == "independent":
        return Hutchinson(trace.probes, trace.distribution, "fixed")
    return None


# What it is worth ----------------------------------------------------------------------------------------------------


def _std_error(log_probs: Tensor, trace: Divergence) -> Tensor:
    """sd/sqrt(K) over the K columns: 0 where the trace is exact, NaN for one random column."""
    if isinstance(trace, Exact):
        return torch.zeros_like(log_probs[:, 0])
    k = log_probs.shape[1]
    if k == 1:
        return torch.full_like(log_probs[:, 0], math.nan)
    deviations = log_probs - column_mean(log_probs)[:, None]
    return torch.sqrt(column_mean(deviations.square()) / (k - 1))


def _prior_bound(model: ScoreModel, x: Tensor, span: tuple[float, float]) -> Tensor:
    """KL(N(alpha_T x_0, sigma_T^2 I) || N(0, s^2 I)) at x_0 = x/alpha_eps, s the prior's standard deviation: (B,)."""
    sde, d = model.sde, x[0].numel()
    variance = sde.prior_std(span[1], model.data_std) ** 2
    shrunk = float(sde.sigma(span[1])) ** 2 / variance
    moved = (x.double() * float(sde.alpha(span[1]) / sde.alpha(span[0]))).reshape(len(x), d).square().sum(1) / variance
    return 0.5 * (d * (shrunk - 1 - math.log(shrunk)) + moved)


# The arguments -------------------------------------------------------------------------------------------------------


def _solver(solver: str | Solver, options: Mapping[str, Any]) -> Solver:
    """The solver, if it can integrate an ODE that is seen only through its drift."""
    if isinstance(solver, Solver) and options:
        raise ArgumentError(
            f"unknown argument(s) {', '.join(map(repr, sorted(options)))}: options of a solver given as an object are "
            "set where it is made."
        )
    chosen = solver if isinstance(solver, Solver) else get(solver, **options)
    if chosen.stochastic or "score" in chosen.needs:
        kind = "stochastic" if chosen.stochastic else "made for the state alone"
        raise UnsupportedError(
            f"the likelihood integrates an ODE, the state with its log-density; solver {chosen.name!r} is {kind}. "
            "Take 'rk4', 'heun', 'euler', or an adaptive one such as 'scipy:RK45'."
        )
    if chosen.options().get("variable", "sigma") != "sigma":
        raise ArgumentError("the likelihood is integrated in ln(sigma/alpha) with every solver; leave variable out.")
    return chosen


def _span(sde: DiffusionSDE, t_eps: float | None) -> tuple[float, float]:
    low = sde.check_time("t_eps", sde.t_min if t_eps is None else t_eps)
    if not (low < sde.t_max and float(sde.sigma(low)) > 0):
        raise ArgumentError(
            f"t_eps = {low!r} must be below T = {sde.t_max:g} and leave some noise (sigma > 0): the flow's log-density "
            f"is had where ln(sigma/alpha) is finite. Give t_eps, for instance {1e-3 * sde.t_max:g}."
        )
    return low, sde.t_max


def _places(
    sde: DiffusionSDE,
    solver: Solver,
    steps: int | None,
    grid: str | Grid | Sequence[float] | Tensor | None,
    span: tuple[float, float],
) -> Tensor:
    """The values of u at the places of the grid, or at the two ends for an adaptive solver: float64, rising."""
    if solver.adaptive:
        if steps is not None or grid is not None:
            raise ArgumentError(
                f"solver {solver.name!r} chooses its own steps from rtol and atol; it takes no "
                f"{'steps' if steps is not None else 'grid'}. Leave it out, or take a fixed-step solver such as 'rk4'."
            )
        return -0.5 * sde.log_snr(torch.tensor(span, dtype=torch.float64))
    place = make_grid("log_snr" if grid is None else grid)
    if steps is None:
        steps = place.fixed_steps
    if steps is None:
        if solver.evaluations_per_step is None:
            raise ArgumentError(f"solver {solver.name!r} needs steps=…, the number of steps of its grid.")
        steps = -(-_EVALUATIONS // solver.evaluations_per_step)
    return -0.5 * sde.log_snr(place.times(sde, steps, *span))


def _coarser(solver: Solver, places: Tensor) -> tuple[Solver, Tensor]:
    """The same solve with every second place, or with ten times the tolerances."""
    if solver.adaptive:
        options = solver.options()
        if not {"rtol", "atol"} <= options.keys():
            raise UnsupportedError(f"solver {solver.name!r} has no rtol and atol to vary; leave integration_error out.")
        return type(solver)(**{**options, "rtol": 10 * options["rtol"], "atol": 10 * options["atol"]}), places
    if len(places) < 3:
        raise ArgumentError("integration_error compares with half the steps, so it needs steps of at least 2.")
    return solver, torch.cat([places[:-1:2], places[-1:]])


def _divergence(
    divergence: str | Divergence | None,
    probes: int | None,
    distribution: Distribution | None,
    along: Along | None,
    d: int,
    solver: Solver,
) -> Divergence:
    """The Divergence that these arguments name, settled for the solver."""
    given: dict[str, Any] = {"probes": probes, "distribution": distribution, "along": along}
    given = {name: value for name, value in given.items() if value is not None}
    if divergence is None:
        divergence = "exact" if d <= _EXACT_UP_TO and not given else "hutchinson"
    if isinstance(divergence, str) and divergence not in DIVERGENCES:
        raise UnknownNameError("divergence", divergence, DIVERGENCES)
    if given and divergence != "hutchinson":
        raise ArgumentError(
            "probes, probe_distribution and probes_along go with divergence='hutchinson'; "
            f"got divergence={divergence!r}."
        )
    if isinstance(divergence, str):
        divergence = DIVERGENCES[divergence](**given)
    if not isinstance(divergence, Divergence):
        raise ArgumentError(
            f"divergence must be a name ({', '.join(DIVERGENCES)}) or a Divergence; got {divergence!r}."
        )
    return divergence.placed(solver.adaptive) if isinstance(divergence, Hutchinson) else divergence
