r"""The log-likelihood of a score model, by the instantaneous change of variables along its probability flow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sdekit._tensors import check_state
from sdekit.errors import ArgumentError, NonFiniteError, ShapeError, UnknownNameError, UnsupportedError
from sdekit.grids import Custom, Grid, make_grid
from sdekit.likelihood.divergence import (
    DIVERGENCES,
    Along,
    Distribution,
    Divergence,
    Exact,
    Hutchinson,
    JoinedTraces,
    Traces,
)
from sdekit.likelihood.flow import AugmentedFlow
from sdekit.likelihood.result import Budget, LogLikelihood
from sdekit.models.score import ScoreModel
from sdekit.noise import noise_source
from sdekit.sampling import solve
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.base import Solver
from sdekit.solvers.catalogue import get
from sdekit.solvers.solution import Solution

__all__ = ["log_likelihood"]

_EXACT_UP_TO = 100
_EVALUATIONS = 160


def log_likelihood(
    model: ScoreModel,
    x: Tensor,
    *,
    solver: str | Solver = "rk4",
    steps: int | None = None,
    grid: str | Grid | Sequence[float] | Tensor = "log_snr",
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
            given, else "exact" up to 100 dimensions and "hutchinson" above.
        probes: independent sets of probes, 4 unless given; their spread gives the standard error, so 1 has none.
        probe_distribution: "rademacher" unless given, or "gaussian".
        probes_along: "independent", drawn anew at each evaluation, unless given, or "fixed" along the path; "fixed" is
            the only choice with an adaptive solver.
        t_eps: where the density is asked for; `t_min` of the SDE unless given.
        condition: keyword arguments for every network call; batch-first tensors are cut with the batch.
        integration_error: solve once more, coarser, for `budget.integration`; half as many evaluations again, or for an
            adaptive solver nearly as many.
        seed: of the probes: every sample its own stream, keyed by (seed, first + index); 0 unless one of seed, seeds
            and generator is given.
        seeds, generator, first, chunk, progress: as in `sample`; chunks change no result.
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
    if integration_error:
        coarse = _coarser(chosen, places)
    given = any(source is not None for source in (seed, seeds, generator))
    source = noise_source(seed=seed if given else 0, seeds=seeds, generator=generator, first=first)
    if condition:
        model = model.with_condition(**condition)

    with torch.inference_mode(False):
        x = x.detach().clone()

        def opened(divergence: Divergence) -> Traces:
            return divergence.open(tuple(x.shape), source, dtype=x.dtype, device=x.device)

        traces, noiseless = opened(trace), trace
        noisy = integration_error and isinstance(trace, Hutchinson) and trace.along == "independent"
        if noisy and isinstance(trace, Hutchinson):
            noiseless = Hutchinson(1, trace.distribution, "fixed")
            traces = JoinedTraces(traces, opened(noiseless))
        solve_ = _Solve(model, x, span, chunk, progress)
        end, log_probs, nfe, truncation = solve_(chosen, places, traces)
        integration = None
        if integration_error:
            _, coarser, more, _ = solve_(*coarse, opened(noiseless))
            integration = (log_probs[:, -coarser.shape[1] :].mean(1) - coarser.mean(1)).abs()
            nfe = nfe + more
        kept = log_probs[:, :-1] if noisy else log_probs
        std_error = _std_error(kept, trace)
        return LogLikelihood(
            log_prob=kept.mean(1),
            std_error=std_error,
            latent=end.x,
            nfe=nfe,
            budget=Budget(
                probe=std_error,
                integration=integration,
                truncation=truncation,
                prior=_prior_bound(model, x, span),
                unknown={} if integration_error else {"integration": "not asked for: pass integration_error=True"},
            ),
            status=end.status,
            divergence=repr(trace),
            dim=x[0].numel(),
        )
