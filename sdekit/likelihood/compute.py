r"""The log-likelihood of a score model, by the instantaneous change of variables along its probability flow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sdekit._tensors import check_positive_integer, check_state
from sdekit.errors import ArgumentError, ShapeError, UnsupportedError
from sdekit.grids import Grid, make_grid
from sdekit.likelihood.estimators import Estimator, check_estimator, make_estimator
from sdekit.likelihood.evaluation import Evaluation
from sdekit.likelihood.ito import Ito
from sdekit.likelihood.prior import PriorKind, prior_kind
from sdekit.likelihood.result import LogLikelihood
from sdekit.likelihood.settings import (
    Truncation,
    Unit,
    at_level,
    check_divergence,
    check_solver,
    check_span,
    check_tolerance,
    check_truncation,
    coarser,
    make_nodes,
)
from sdekit.likelihood.to_tolerance import ToTolerance
from sdekit.likelihood.traces import Along, Distribution, Divergence, GaussianControl
from sdekit.likelihood.variational import VariationalBound
from sdekit.models.score import ScoreModel, conditioned
from sdekit.noise import noise_source
from sdekit.solvers.base import Solver
from sdekit.targets import Target

__all__ = ["log_likelihood"]


def log_likelihood(
    model: ScoreModel,
    x: Tensor,
    *,
    estimator: Estimator = "flow",
    repeats: int | None = None,
    solver: str | Solver | None = None,
    steps: int | None = None,
    grid: str | Grid | Sequence[float] | Tensor | None = None,
    divergence: str | Divergence | None = None,
    probes: int | None = None,
    probe_distribution: Distribution | None = None,
    probes_along: Along | None = None,
    control: GaussianControl | None = None,
    prior: PriorKind | None = None,
    target: Target | None = None,
    t_eps: float | None = None,
    truncation: Truncation = "first_order",
    condition: Mapping[str, Any] | None = None,
    integration_error: bool = False,
    tolerance: float | None = None,
    tolerance_unit: Unit = "nats",
    max_nfe: int | None = None,
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

    (Song et al. 2021, arXiv 2011.13456; trace estimate: Grathwohl et al. 2019, arXiv 1810.01367.) The state is solved
    for by itself, so that its path depends on no probe; tr(dD/dx~) is had at nodes on the path, from the evaluations
    that the solver makes there, and integrated by a quadrature of sixth order. One graph serves an evaluation and its
    d (exact) or K (probes) backward passes. State and log p are float64, whatever the dtype of x.

    Args:
        model: the score model.
        x: (B, *), floating point: the data, taken as the state at t_eps. No gradient flows through the result.
        estimator: "flow" is the above. "ito" takes the mean over SDE paths (`Ito`), "elbo" is a lower bound
            (`VariationalBound`): neither solves a flow nor has a trace; steps, grid ("ito"), prior and t_eps are their
            settings. The result's `kind` says what each is: exact, unbiased, approximate or a bound.
        repeats: of "ito": paths a sample; 8 unless given.
        solver: any deterministic solver, by name or as an object; unless given, `adams` of order 4 in log-SNR, one
            evaluation a step. Fixed-step solvers step from node to node. Adaptive ones choose their own steps, and the
            nodes are evaluated after them; scipy's error norm couples the samples of a batch: per_sample=True solves
            each on its own.
        steps: between the nodes; unless given as many as make 60 evaluations, but 32 at the least. 64 for an adaptive
            solver.
        grid: where the nodes are; "along_path" at the scale of the model's `data_std` unless given.
        divergence: "exact", "hutchinson", "hutch++", "xtrace" or a Divergence. Unless given: "hutchinson" where an
            option of the probes is given, else "exact" up to 16 dimensions and "hutchinson" above. The result says
            which it was.
        probes: products at each node: 2 for "hutchinson", 6 for the last two, unless given.
        probe_distribution: "adapted" unless given, "rademacher", "gaussian" or "hadamard" (see `Hutchinson`).
        probes_along: "independent" at each node, unless given, or "fixed" along the path.
        control: a Gaussian whose Jacobian is subtracted before probing, and its trace added.
        prior: "standard" is N(0, (alpha_T^2 data_std^2 + sigma_T^2) I); "matched" has the mean alpha_T D(0, T), for one
            evaluation more. "matched" unless given, but "standard" for networks that predict the noise or the score.
        target: the distribution of the data, where the model is exact for it (`Target.score_model`): `truncation` and
            `prior` of the budget are then not estimates but the errors themselves.
        t_eps: where the density is asked for; `t_min` of the SDE unless given.
        truncation: how the budget knows of it. "first_order" in the noise of t_eps, for no evaluation, where the data's
            density is smooth at that scale. "decoder": log_prob less a lower bound on log p at 0, by a Gaussian decoder
            (`likelihood.decoder`), for two more solves from noised x; `log_prob_0` is then that bound, one in the mean
            over draws, whose noise (theirs and their probes') is in no entry. Without tolerance and target.
        condition: keyword arguments for every network call; batch-first tensors are cut with the batch.
        integration_error: solve once more with half the steps (ten times the tolerances) for `budget.integration`;
            otherwise it is what the errors of the state along its path make (None with an adaptive solver).
        tolerance: spend steps and probes until `budget.total` of each sample is at most this. Level after level has
            twice the steps (an adaptive solver: a tenth of the tolerances), beyond 384 steps twice the probes where the
            steps suffice; each sample goes its own way. `budget.met` says which samples are within it, `nfe` what each
            took; the status is "max_nfe" unless all are.
        tolerance_unit: "nats", or "bits/dim".
        max_nfe: with tolerance: no solve is begun that takes a sample's evaluations, all solves together, above it;
            3000 unless given. (Without tolerance it is an option of adaptive solvers.)
        seed: of the probes: every sample its own stream, keyed by (seed, first + index); 0 unless one of seed, seeds
            and generator is given.
        seeds, generator, first, progress: as in `sample`.
        chunk: solve at most so many samples at a time; the same results, as `solve` says.
        options: the solver's own, where it is given by name: rtol, atol, max_nfe, per_sample. Both
            tolerances are 1e-5 unless one of them is given.

    Raises:
        ArgumentError, ShapeError, UnknownNameError: for input that makes no sense, before any evaluation; and
            ArgumentError for a network that autograd cannot differentiate in x.
        UnsupportedError: if the solver cannot integrate this ODE, before any evaluation.
        NonFiniteError: if the state or its trace becomes non-finite; names solver, step and t.
    """
    if not isinstance(model, ScoreModel):
        raise ArgumentError(
            f"model must be a ScoreModel, got {type(model).__name__}; wrap it: ScoreModel(network, sde)."
        )
    x = check_state("x", x)
    if model.shape is not None and tuple(x.shape[1:]) != model.shape:
        raise ShapeError(f"the model's samples have shape {model.shape}, but x has shape {tuple(x.shape)}.")
    named = check_estimator(estimator, repeats)
    _check_target(target, x)
    span, kind = check_span(model.sde, t_eps), prior_kind(model, prior)
    default = 0 if seeds is None and generator is None else None
    source = noise_source(seed=default if seed is None else seed, seeds=seeds, generator=generator, first=first)
    size = len(x) if chunk is None else check_positive_integer("chunk", chunk)
    how: Evaluation | ToTolerance | Ito | VariationalBound
    if named == "flow":
        d = math.prod(x.shape[1:])
        if tolerance is None and max_nfe is not None:
            options, max_nfe = {**options, "max_nfe": max_nfe}, None
        settled = {"steps": steps, "integration_error": integration_error, **options}
        goal = check_tolerance(tolerance, tolerance_unit, max_nfe, settled, d)
        chosen = check_solver(solver, options)
        decoder = check_truncation(truncation, {"tolerance": tolerance, "target": target})
        trace = check_divergence(divergence, probes, probe_distribution, probes_along, control, d)
        if size < len(x) and chosen.couples_batch:
            raise UnsupportedError(
                f"solver {chosen.name!r} with these options couples the samples of a batch, so chunks would change the "
                "result. Take per_sample=True, or leave chunk out."
            )

        def at(level: int, factor: int) -> Evaluation:
            solver, steps, divergence = at_level(chosen, trace, level, factor)
            places = make_nodes(model, solver, steps, grid, span)
            return Evaluation(solver, places, divergence, kind, None, target, progress)

        if goal is not None:
            if grid is not None and make_grid(grid).fixed_steps is not None:
                raise ArgumentError(
                    "a grid of fixed places cannot be combined with tolerance, which settles the steps; leave one out."
                )
            at(0, 1)  # its errors come here, before any evaluation
            how = ToTolerance(*goal, at)
        else:
            nodes = make_nodes(model, chosen, steps, grid, span)
            coarse = coarser(chosen, nodes) if integration_error else None
            how = Evaluation(chosen, nodes, trace, kind, coarse, target, progress, decoder)
    else:
        of_flow: dict[str, object] = {"solver": solver, "divergence": divergence, "probes": probes, "control": control}
        of_flow["target"], of_flow["truncation"] = target, None if truncation == "first_order" else truncation
        of_flow["tolerance_unit"] = None if tolerance_unit == "nats" else tolerance_unit
        of_flow |= {"probe_distribution": probe_distribution, "probes_along": probes_along, "max_nfe": max_nfe}
        of_flow |= {"integration_error": integration_error, "tolerance": tolerance, **options}
        how = make_estimator(
            named, model, span, kind, steps=steps, grid=grid, repeats=repeats, progress=progress, of_flow=of_flow
        )
    model = conditioned(model, condition)
    with torch.inference_mode(False):
        return how.evaluate(model, x.detach().clone(), source, size)


def _check_target(target: object, x: Tensor) -> None:
    if target is None:
        return
    if not isinstance(target, Target):
        raise ArgumentError(f"target must be an exact target (sdekit.targets) or None, got {type(target).__name__}.")
    if target.shape != tuple(x.shape[1:]):
        raise ShapeError(f"the target's samples have shape {target.shape}, but x has shape {tuple(x.shape)}.")
