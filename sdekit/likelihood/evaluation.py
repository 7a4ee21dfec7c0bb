"""One likelihood, all of its settings settled: the path, the quadrature along it, and what it is worth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from sdekit.errors import NonFiniteError
from sdekit.likelihood.budget import Budget
from sdekit.likelihood.decoder import decoder_bound
from sdekit.likelihood.path import Nodes, Path, walk
from sdekit.likelihood.prior import Prior, PriorKind, make_prior
from sdekit.likelihood.quadrature import integral, quadrature_weights, standard_error
from sdekit.likelihood.result import Kind, LogLikelihood
from sdekit.likelihood.traces import Divergence, Exact, Hutchinson, JoinedTraces
from sdekit.models.score import ScoreModel
from sdekit.noise import NoiseSource
from sdekit.sdes import DiffusionSDE
from sdekit.solvers.base import Solver
from sdekit.targets import Target

__all__ = ["Estimate", "Evaluation", "in_chunks"]

# The error of a solve is taken for this part of its difference to one with half the steps: what an order of 2 makes.
# The default is of order 4, but not at few steps.
_FINER = 1 / 3


@final
@dataclass(frozen=True)
class Evaluation:
    """How log-likelihoods are had.

    coarse: the solver and the nodes of a second solve, for the integration's error; None for none.
    target: the distribution that the model is exact for, if it is known: truncation and prior are then so too.
    decoder: whether truncation comes from a bound on log p at 0 and not from its first order.
    """

    solver: Solver
    nodes: Nodes
    divergence: Divergence
    prior: PriorKind
    coarse: tuple[Solver, Nodes] | None
    target: Target | None = None
    progress: bool = False
    decoder: bool = False

    @property
    def kind(self) -> Kind:
        """What the log-density is, apart from its budget."""
        return "exact" if isinstance(self.divergence, Exact) else "unbiased"

    def evaluate(self, model: ScoreModel, x: Tensor, source: NoiseSource, size: int) -> LogLikelihood:
        """The log-likelihoods of x, (B, *), `size` of them at a time."""
        return in_chunks(self._together, model, x, source, size)

    def estimate(self, model: ScoreModel, x: Tensor, source: NoiseSource, compared: bool = False) -> Estimate:
        """One solve of x, all at once; `compared` says whether another estimate will be compared with it."""
        batch, d = x.shape[0], x[0].numel()
        traces = self.divergence.open(batch, d, source, x.device)
        prior = make_prior(model, x, self.prior)
        # Two solves are compared under the same fixed probe: its noise then drops out of the difference.
        fixed = not traces.exact and compared
        both = JoinedTraces(traces, _FIXED.open(batch, d, source, x.device)) if fixed else traces
        path = walk(model, x, self.nodes, self.solver, both, self.progress)
        weights, k = quadrature_weights(self.nodes.u), traces.columns
        log_prob = _log_prob(model.sde, path, self.nodes, prior, path.columns[:, :k])
        error = torch.zeros_like(log_prob)
        if not traces.exact:
            error = standard_error(self.nodes.u, weights, path.columns[:, :k], traces.block)
        truncation, gap = path.truncation, _prior_bound(model.sde, prior, x, self.nodes.span)
        if self.target is not None:
            start, end = self.nodes.span
            truncation = self.target.log_prob_at(x, start, model.sde) - self.target.log_prob(x)
            gap = (self.target.log_prob_at(path.latent, end, model.sde) - prior.log_prob(path.latent)).abs()
        return Estimate(
            log_prob=torch.where(path.finished, log_prob, math.nan),
            std_error=torch.where(path.finished, error, math.nan),
            compared=_log_prob(model.sde, path, self.nodes, prior, path.columns[:, k:]) if fixed else log_prob,
            path=path,
            truncation=truncation,
            prior=gap,
            nfe=path.nfe + prior.evaluations,
        )

    def result(self, found: Estimate, coarse: Estimate | None, x: Tensor) -> LogLikelihood:
        """What is returned for an estimate, and a coarser one of the same samples, x, where there is one."""
        integration = None if coarse is None else found.integration_error(coarse)
        if integration is None and not self.solver.adaptive:
            integration = torch.where(found.path.finished, found.path.defect.abs(), math.nan)
        unknown = {} if integration is not None else {"integration": "not known without integration_error=True"}
        return LogLikelihood(
            log_prob=found.log_prob,
            std_error=found.std_error,
            latent=found.path.latent.to(x.dtype),
            nfe=found.nfe if coarse is None else found.nfe + coarse.nfe,
            budget=Budget(
                probe=found.std_error,
                integration=integration,
                truncation=found.truncation,
                prior=found.prior,
                unknown=unknown,
            ),
            status=found.path.status,
            divergence=repr(self.divergence),
            dim=x[0].numel(),
            kind=self.kind,
        )

    def _together(self, model: ScoreModel, x: Tensor, source: NoiseSource) -> LogLikelihood:
        found = self.estimate(model, x, source, compared=self.coarse is not None)
        if self.decoder:
            bound, nfe = decoder_bound(self, model, x, source)
            found = replace(found, truncation=found.log_prob - bound, nfe=found.nfe + nfe)
        if self.coarse is None:
            return self.result(found, None, x)
        solver, nodes = self.coarse
        divergence = self.divergence if isinstance(self.divergence, Exact) else _FIXED
        other = Evaluation(solver, nodes, divergence, self.prior, None, None, self.progress)
        return self.result(found, other.estimate(model, x, source), x)


@final
@dataclass(frozen=True)
class Estimate:
    """What one solve gives: all of (B,).

    Attributes:
        log_prob, std_error: as in LogLikelihood.
        compared: log_prob under the probe that all solves share, to be compared; log_prob itself with the exact trace.
        path: of the solve.
        truncation, prior: as in Budget.
        nfe: evaluations.
    """

    log_prob: Tensor
    std_error: Tensor
    compared: Tensor
    path: Path
    truncation: Tensor
    prior: Tensor
    nfe: int | Tensor

    def integration_error(self, coarse: Estimate) -> Tensor:
        """The error of this solve: as the difference to one with half the steps tells it, and not less than what the
        errors of the state along its path make (`Path.defect`), also where half the steps err alike: (B,).
        """
        return torch.where(coarse.path.finished, self.error_beside(coarse.compared), math.nan)

    def error_beside(self, compared: Tensor) -> Tensor:
        """The same from the other's `compared`."""
        error = torch.maximum(_FINER * (self.compared - compared).abs(), self.path.defect.abs())
        return torch.where(self.path.finished, error, math.nan)


_FIXED = Hutchinson(1, "rademacher", "fixed")


def in_chunks(
    evaluate: Callable[[ScoreModel, Tensor, NoiseSource], LogLikelihood],
    model: ScoreModel,
    x: Tensor,
    source: NoiseSource,
    size: int,
) -> LogLikelihood:
    """evaluate(model, x, source) of at most `size` samples at a time, joined."""
    batch = len(x)
    parts = []
    for a in range(0, batch, size):
        b = min(batch, a + size)
        try:
            parts.append(evaluate(model.part(a, b, batch), x[a:b], source.part(a, b, batch)))
        except NonFiniteError as error:
            raise error.moved(first=a) from None
    return LogLikelihood.join(parts)


def _log_prob(sde: DiffusionSDE, path: Path, nodes: Nodes, prior: Prior, columns: Tensor) -> Tensor:
    """log prior(x_T) + d ln(sigma_T/sigma_eps) - int tr J_D du, the trace the mean of columns (n, K, B): (B,)."""
    trace = torch.zeros_like(columns[:, 0])
    for column in columns.unbind(1):
        trace = trace + column
    start, end = nodes.span
    growth = path.latent[0].numel() * math.log(float(sde.sigma(end)) / float(sde.sigma(start)))
    return prior.log_prob(path.latent) + growth - integral(quadrature_weights(nodes.u), trace / columns.shape[1])


def _prior_bound(sde: DiffusionSDE, prior: Prior, x: Tensor, span: tuple[float, float]) -> Tensor:
    """KL(N(alpha_T x_0, sigma_T^2 I) || prior) at x_0 = x/alpha_eps: (B,)."""
    return prior.divergence(x.double() * float(sde.alpha(span[1]) / sde.alpha(span[0])), float(sde.sigma(span[1])))
